//! `thimble`: parse, dispatch, exit code.

use clap::Parser;
use std::process::ExitCode;
use thimble::cli::Cli;

fn main() -> ExitCode {
    Cli::parse().run()
}
