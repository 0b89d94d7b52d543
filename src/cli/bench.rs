//! `thimble bench`: how fast a model runs here.

use super::output::{Output, bytes, table};
use super::source::{ActivationsArg, WeightsArgs};
use super::{CommandResult, number};
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
    /// Tokens that were read at once.
    prompt_tokens: usize,
    /// Tokens that were then made one by one.
    gen_tokens: usize,
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

/// Tokens of the prompt and behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Tokens {
    prompt: usize,
    generated: usize,
}

const USUAL: Tokens = Tokens { prompt: 512, generated: 128 };

impl Tokens {
    /// As asked for, or as many as usual and as there is room for in the longest sequence of
    /// the model.
    fn fitting(prompt: Option<usize>, generated: Option<usize>, longest: Option<usize>) -> Result<Self, Error> {
        let longest = longest.unwrap_or(usize::MAX);
        let at_least_one = |tokens: usize| tokens.max(1);
        let generated = generated.unwrap_or_else(|| {
            let room = prompt.map_or(longest / 4, |prompt| longest.saturating_sub(prompt));
            at_least_one(USUAL.generated.min(room))
        });
        let prompt = prompt.unwrap_or_else(|| at_least_one(USUAL.prompt.min(longest.saturating_sub(generated))));
        if prompt.saturating_add(generated) > longest {
            let sum = format!("--prompt-tokens {prompt} and --gen-tokens {generated}");
            return Err(Error::Usage(format!("{sum} are together more than the {longest} positions of the model: set fewer")));
        }
        Ok(Self { prompt, generated })
    }

    /// Says where they are fewer than usual and nobody asked for that.
    fn remark(self, args: &Args, longest: Option<usize>) -> Option<String> {
        let fewer =
            args.prompt_tokens.is_none() && self.prompt < USUAL.prompt || args.gen_tokens.is_none() && self.generated < USUAL.generated;
        fewer.then(|| {
            format!(
                "measured over {} tokens of a prompt and {} generated ones, instead of {} and {}: the model has {} positions",
                self.prompt,
                self.generated,
                args.prompt_tokens.unwrap_or(USUAL.prompt),
                args.gen_tokens.unwrap_or(USUAL.generated),
                longest.unwrap_or(usize::MAX)
            )
        })
    }
}

pub fn main(args: Args, threads: usize, output: Output) -> CommandResult {
    // The first opening compares hashes, which is no part of loading.
    drop(args.model.open()?);
    let start = Instant::now();
    let model = args.model.open()?;
    let decoder = Decoder::new(&*model.store, args.activations.into(), threads)?;
    let load_ms = 1e3 * start.elapsed().as_secs_f64();
    let longest = decoder.spec().longest_sequence();
    let tokens = Tokens::fitting(args.prompt_tokens, args.gen_tokens, longest)?;
    if let Some(remark) = tokens.remark(&args, longest) {
        tracing::warn!("{remark}");
    }
    let speed = speed::measure(&decoder, tokens.prompt, tokens.generated, args.repeat)?;
    check_unchanged()?;
    Error::expect_finite("the prefill speed", speed.prefill_tokens_per_s)?;
    Error::expect_finite("the decode speed", speed.decode_tokens_per_s)?;
    let peak_memory_bytes = peak_resident_bytes();
    let report = Report {
        prompt_tokens: tokens.prompt,
        gen_tokens: tokens.generated,
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
            ("prefill", format!("{:.1} tokens/s over {} tokens", r.prefill_tokens_per_s, r.prompt_tokens)),
            ("decode", format!("{:.1} tokens/s over {} tokens", r.decode_tokens_per_s, r.gen_tokens)),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_fit_the_model() {
        let fitting = |prompt, generated, longest| Tokens::fitting(prompt, generated, longest).map(|t| (t.prompt, t.generated)).ok();
        assert_eq!(fitting(None, None, None), Some((512, 128)));
        assert_eq!(fitting(None, None, Some(256)), Some((192, 64)));
        assert_eq!(fitting(Some(250), None, Some(256)), Some((250, 6)));
        assert_eq!(fitting(None, Some(250), Some(256)), Some((6, 250)));
        assert_eq!(fitting(Some(256), None, Some(256)), None);
        assert_eq!(fitting(Some(200), Some(57), Some(256)), None);
    }
}
