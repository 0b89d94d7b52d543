//! `thimble run`: continue a prompt.

use super::CommandResult;
use super::output::{Output, say};
use super::source::{ActivationsArg, ModelArgs};
use crate::error::Result;
use crate::runtime::{
    Decoder, Model, Sampler,
    generate::{check_prompt, generate},
};
use crate::text::{TextStream, Tokenizer, behind};
use serde_json::json;
use std::process::ExitCode;
use std::time::Instant;

/// Continue a prompt on the device's runtime
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  thimble run ./small --prompt 'Once upon a time'
  thimble run ./small --prompt 'Once upon a time' --temperature 0 --max-tokens 40 --json")]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// The text to continue
    #[arg(long, default_value = "")]
    prompt: String,
    /// New tokens at most
    #[arg(long, default_value_t = 128, value_name = "N")]
    max_tokens: usize,
    /// 0 = always the likeliest token
    #[arg(long, default_value_t = 0.8, value_parser = temperature)]
    temperature: f32,
    /// Sample from the likeliest tokens that hold this share of the probability
    #[arg(long, default_value_t = 0.95, value_parser = share)]
    top_p: f32,
    /// The same seed gives the same text
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Put nothing before the prompt, also where the tokenizer puts a BOS token
    #[arg(long)]
    no_bos: bool,
    /// Activations against packed weights
    #[arg(long, value_enum, default_value = "int8")]
    activations: ActivationsArg,
}

pub fn main(args: Args, threads: usize, output: Output) -> CommandResult {
    let model = args.model.open()?;
    let tokenizer = model.tokenizer()?;
    let prompt = prompt(&args, &model, tokenizer)?;
    // Before anything is shown.
    check_prompt(&prompt, model.spec())?;
    let decoder = Decoder::new(&*model.store, args.activations.into(), threads)?;
    let sampler = Sampler::new(args.temperature, args.top_p, args.seed);
    let mut shown = Shown { stream: tokenizer.stream(), all: String::new(), output };
    prompt.iter().try_for_each(|&id| shown.token(id))?;
    let mut clock = Clock::start();
    let mut failed = None;
    let generated = generate(&decoder, &prompt, args.max_tokens, &sampler, |id| {
        clock.token();
        failed = failed.take().or(shown.token(id).err());
        clock.resume();
    })?;
    failed.map_or(Ok(()), Err)?;
    let tokens_per_s = clock.tokens_per_s();
    let all = shown.finish()?;
    if output.json {
        let text = behind(&tokenizer.decode(&prompt)?, &all);
        let report = json!({ "text": text, "ids": generated, "prompt_ids": prompt, "tokens_per_s": tokens_per_s });
        say(&format!("{report}\n"))?;
    } else {
        say("\n")?;
        super::progress::say(&format!("[{} tokens, {tokens_per_s:.1} a second]", generated.len()));
    }
    Ok(ExitCode::SUCCESS)
}

/// The prompt's ids behind what the tokenizer puts before a text. An empty prompt starts from
/// the model's BOS token.
fn prompt(args: &Args, model: &Model, tokenizer: &Tokenizer) -> Result<Vec<u32>> {
    let (special, ids) = (&model.spec().special, tokenizer.encode(&args.prompt)?);
    let before = match special.prefix() {
        _ if args.no_bos => &[],
        [] if ids.is_empty() => special.bos.as_slice(),
        prefix => prefix,
    };
    Ok([before, &ids].concat())
}

/// Text that is printed as it comes, and kept.
struct Shown<'a> {
    stream: TextStream<'a>,
    all: String,
    output: Output,
}

impl Shown<'_> {
    fn token(&mut self, id: u32) -> Result<()> {
        let text = self.stream.push(id)?;
        self.text(text)
    }

    fn text(&mut self, text: String) -> Result<()> {
        self.all.push_str(&text);
        if self.output.json || text.is_empty() { Ok(()) } else { say(&text) }
    }

    /// All of it, once no token follows.
    fn finish(mut self) -> Result<String> {
        let rest = self.stream.finish()?;
        self.text(rest)?;
        Ok(self.all)
    }
}

/// Times decoding alone: neither the prompt nor the showing of text.
struct Clock {
    since: Instant,
    tokens: u32,
    seconds: f64,
}

impl Clock {
    fn start() -> Self {
        Self { since: Instant::now(), tokens: 0, seconds: 0.0 }
    }

    /// A token is there; the first one's time is the prompt's.
    fn token(&mut self) {
        if self.tokens > 0 {
            self.seconds += self.since.elapsed().as_secs_f64();
        }
        self.tokens += 1;
    }

    fn resume(&mut self) {
        self.since = Instant::now();
    }

    /// 0 where fewer than two tokens were made.
    fn tokens_per_s(&self) -> f64 {
        if self.seconds > 0.0 { f64::from(self.tokens - 1) / self.seconds } else { 0.0 }
    }
}

fn temperature(text: &str) -> std::result::Result<f32, String> {
    number(text, "0 or more", |t| t >= 0.0)
}

fn share(text: &str) -> std::result::Result<f32, String> {
    number(text, "above 0 and at most 1", |p| p > 0.0 && p <= 1.0)
}

fn number(text: &str, wanted: &str, fits: impl Fn(f32) -> bool) -> std::result::Result<f32, String> {
    text.parse().ok().filter(|&n: &f32| n.is_finite() && fits(n)).ok_or_else(|| format!("expected a number, {wanted}"))
}
