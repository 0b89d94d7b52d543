//! `thimble bench`: how fast a model runs here.

use super::output::{Output, bytes, table};
use super::source::{ActivationsArg, WeightsArgs};
use super::{Done, number};
use crate::checkpoint::check_unchanged;
use crate::error::Error;
use crate::eval::speed;
use crate::memory::peak_resident_bytes;
use crate::runtime::Decoder;
use serde::Serialize;
use std::process::ExitCode;
use std::time::Instant;

/// Measure prefill and decode speed, memory and load time
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  thimble bench ./small
  thimble bench ./small --prompt-tokens 128 --gen-tokens 64 --threads 1 --json")]
pub struct Args {
    #[command(flatten)]
    model: WeightsArgs,
    /// Tokens read at once [default: 512, fewer where the model ends before]
    #[arg(long, value_name = "N", value_parser = number(1..=1 << 20))]
    prompt_tokens: Option<usize>,
    /// Tokens then made one by one [default: 128, fewer where the model ends before]
    #[arg(long, value_name = "N", value_parser = number(1..=1 << 20))]
    gen_tokens: Option<usize>,
    /// Runs, of which the median counts
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = number(1..=1 << 20))]
    repeat: usize,
    /// Activations against packed weights
    #[arg(long, value_enum, default_value = "int8")]
    activations: ActivationsArg,
}

#[derive(Serialize)]
struct Report {
    prefill_tokens_per_s: f64,
    decode_tokens_per_s: f64,
    threads: usize,
    isa: &'static str,
    model_bytes: u64,
    /// Bytes of weights that one decoded token reads.
    bytes_per_token: u64,
    /// What this machine reads from memory at best, with as many threads: decode
    /// cannot be faster than this over bytes_per_token once weights outgrow caches.
    read_bandwidth_bytes_per_s: f64,
    peak_memory_bytes: Option<u64>,
    load_ms: f64,
}

/// Tokens of the prompt and behind it: as asked for, or as many as usual and as there
/// is room for in the longest sequence of the model.
fn tokens(args: &Args, longest: Option<usize>) -> Result<(usize, usize), Error> {
    let longest = longest.unwrap_or(usize::MAX);
    let generated = args.gen_tokens.unwrap_or(128.min(longest / 4).max(1));
    let prompt = args.prompt_tokens.unwrap_or(512.min(longest.saturating_sub(generated)).max(1));
    if prompt + generated <= longest {
        return Ok((prompt, generated));
    }
    let asked = format!("--prompt-tokens {prompt} and --gen-tokens {generated}");
    Err(Error::Usage(format!("{asked} are together more than the {longest} positions of the model")))
}

pub fn main(args: Args, threads: usize, output: Output) -> Done {
    let start = Instant::now();
    let model = args.model.open()?;
    let decoder = Decoder::new(&*model.store, args.activations.into(), threads)?;
    let load_ms = 1e3 * start.elapsed().as_secs_f64();
    let (prompt, generated) = tokens(&args, decoder.spec().longest_sequence())?;
    let speed = speed::measure(&decoder, prompt, generated, args.repeat)?;
    check_unchanged()?;
    Error::expect_finite("the prefill speed", speed.prefill_tokens_per_s)?;
    Error::expect_finite("the decode speed", speed.decode_tokens_per_s)?;
    let peak_memory_bytes = peak_resident_bytes();
    let report = Report {
        prefill_tokens_per_s: speed.prefill_tokens_per_s,
        decode_tokens_per_s: speed.decode_tokens_per_s,
        threads: decoder.threads(),
        isa: decoder.isa(),
        model_bytes: model.size_bytes(),
        bytes_per_token: model.bytes_per_token()?,
        read_bandwidth_bytes_per_s: speed::read_bandwidth(decoder.threads()),
        peak_memory_bytes,
        load_ms,
    };
    output.print(&report, |r| {
        let rows = [
            ("prefill", format!("{:.1} tokens/s", r.prefill_tokens_per_s)),
            ("decode", format!("{:.1} tokens/s", r.decode_tokens_per_s)),
            ("threads, instruction set", format!("{}, {}", r.threads, r.isa)),
            ("model", bytes(r.model_bytes)),
            ("read a token", bytes(r.bytes_per_token)),
            ("read bandwidth of this machine", format!("{}/s", bytes(r.read_bandwidth_bytes_per_s as u64))),
            ("peak memory", r.peak_memory_bytes.map_or("unknown".into(), bytes)),
            ("load", format!("{:.1} ms", r.load_ms)),
        ];
        table(&rows.map(|(k, v)| vec![k.to_owned(), v]))
    })?;
    Ok(ExitCode::SUCCESS)
}
