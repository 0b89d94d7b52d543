//! The command line: one file a subcommand. A new command = one file, one
//! variant of `Command`, one arm of [`Cli::run`].

mod bench;
mod compress;
mod eval;
mod inspect;
mod internal_error;
mod logits;
mod output;
mod progress;
mod run;
mod source;
mod verify;

use crate::checkpoint::exit_on_truncated_maps;
use crate::error::Error;
use crate::{exit, threads};
use clap::builder::RangedU64ValueParser;
use clap::{Parser, Subcommand};
use output::Output;
use std::io::Write;
use std::ops::RangeInclusive;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

/// Fits a language model into a thimble: compress with a recipe, prove what it
/// cost, run the result on a device.
#[derive(Parser)]
#[command(name = "thimble", version, arg_required_else_help = true, after_help = EXAMPLES)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    global: Global,
}

const EXAMPLES: &str = "\
Examples:
  thimble compress recipes/gptq-4bit.toml --model ./my-model --out ./small
  thimble eval ./small --text held-out.txt --reference ./my-model
  thimble eval ./small --tasks ./tasks --reference ./my-model
  thimble run ./small --prompt 'Once upon a time'

Exit codes: 0 done, 1 a quality gate was missed, 2 usage or recipe, 3 bad input, 4 environment,
130 stopped by Ctrl-C.";

/// Options of every command.
#[derive(clap::Args)]
struct Global {
    /// Print exactly one JSON object to standard output
    #[arg(long, global = true)]
    json: bool,
    /// Threads; one a core unless told
    #[arg(long, global = true, default_value_t = 0, value_name = "N", hide_default_value = true, value_parser = number(0..=1024))]
    threads: usize,
}

#[derive(Subcommand)]
enum Command {
    Compress(compress::Args),
    Eval(eval::Args),
    Logits(logits::Args),
    Run(run::Args),
    Bench(bench::Args),
    Inspect(inspect::Args),
    Verify(verify::Args),
}

impl Cli {
    /// Does what the command line says; errors are printed in one line.
    pub fn run(self) -> ExitCode {
        let level = tracing::Level::WARN;
        tracing_subscriber::fmt()
            .log_internal_errors(false)
            .with_writer(std::io::stderr)
            .with_max_level(level)
            .without_time()
            .with_target(false)
            .init();
        let output = Output { json: self.global.json };
        let threads = self.global.threads;
        internal_error::keep_panics();
        exit_on_truncated_maps();
        exit::watch();
        let command = || match self.command {
            Command::Compress(args) => compress::main(args, threads, output),
            Command::Eval(args) => eval::main(args, threads, output),
            Command::Logits(args) => logits::main(args, threads, output),
            Command::Run(args) => run::main(args, threads, output),
            Command::Bench(args) => bench::main(args, threads, output),
            Command::Inspect(args) => inspect::main(args, output),
            Command::Verify(args) => verify::main(args, output),
        };
        let run = || {
            threads::start_pool(threads::count(threads))?;
            command()
        };
        // Where libtorch throws (a GPU that is out of memory, say), tch panics.
        let done = catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|_| Err(Error::Environment(internal_error::message()).into()));
        exit::release();
        match done {
            Ok(code) => code,
            Err(error) => {
                let known = error.downcast_ref::<Error>();
                // Ours name their causes themselves.
                let message = known.map_or_else(|| format!("{error:#}"), Error::to_string);
                let hint = known.and_then(Error::hint).map_or(String::new(), |hint| format!("hint: {hint}\n"));
                // Where nobody listens, the exit code must do.
                let _ = write!(std::io::stderr(), "error: {message}\n{hint}");
                ExitCode::from(known.map_or(4, Error::exit_code))
            }
        }
    }
}

/// Reads a whole number in a range.
fn number(range: RangeInclusive<u64>) -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::new().range(range)
}

/// A command's result.
type CommandResult = anyhow::Result<ExitCode>;
