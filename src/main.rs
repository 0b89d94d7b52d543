//! `thimble`: parse, dispatch, exit code.

use clap::Parser;
use std::process::ExitCode;
use thimble::allocator::ExitWhenExhausted;
use thimble::cli::Cli;

#[global_allocator]
static ALLOCATOR: ExitWhenExhausted = ExitWhenExhausted;

fn main() -> ExitCode {
    Cli::parse().run()
}
