//! `thimble eval`: what a text says of a model.

use super::output::{Output, bytes, table};
use super::progress::Bars;
use super::source::{ActivationsArg, BackendArgs, ModelArgs};
use super::{Done, number};
use crate::error::Error;
use crate::eval::{Evaluation, Footprint, Protocol, default_window, evaluate, windows};
use crate::runtime;
use serde::Serialize;
use std::path::PathBuf;
use std::process::ExitCode;

/// Measure perplexity, and divergence from a reference
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  thimble eval ./small --text held-out.txt
  thimble eval ./small --text held-out.txt --reference ./my-model --json
  thimble eval stories260K.bin --text valid.txt --protocol bos --window 512")]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// Held-out text
    #[arg(long, value_name = "FILE")]
    text: PathBuf,
    /// Compare with this model: KL divergence and top-1 agreement
    #[arg(long, value_name = "MODEL")]
    reference: Option<PathBuf>,
    /// How the text is cut and what is scored
    #[arg(long, value_enum, default_value = "plain")]
    protocol: Protocol,
    /// Tokens of a window; min(2048, context) unless told
    #[arg(long, value_name = "N")]
    window: Option<usize>,
    /// Only the first N windows
    #[arg(long, value_name = "N", value_parser = number(1..=u64::from(u32::MAX)))]
    max_windows: Option<usize>,
    /// Activations against packed weights
    #[arg(long, value_enum, default_value = "int8")]
    activations: ActivationsArg,
    #[command(flatten)]
    backend: BackendArgs,
}

#[derive(Serialize)]
struct Report {
    #[serde(flatten)]
    evaluation: Evaluation,
    size_bytes: u64,
    #[serde(flatten)]
    footprint: Footprint,
}

pub fn main(args: Args, threads: usize, output: Output) -> Done {
    let model = args.model.open()?;
    let reference = args.reference.as_deref().map(runtime::open_weights).transpose()?;
    let text = std::fs::read_to_string(&args.text).map_err(Error::io("read", &args.text))?;
    let ids = model.tokenizer()?.encode(&text)?;
    let window = args.window.unwrap_or_else(|| default_window(model.spec()));
    let windows = windows(&ids, model.spec(), args.protocol, window, args.max_windows)?;
    let mut source = args.backend.logits(&model, args.activations, threads)?;
    let mut reference = reference.map(|r| args.backend.logits(&r, args.activations, threads)).transpose()?;
    let against = reference.as_mut().map(|r| r.as_mut() as _);
    let evaluation = evaluate(source.as_mut(), against, &windows, (args.protocol, window), &Bars::default())?.model;
    let report = Report { evaluation, size_bytes: model.size_bytes(), footprint: Footprint::of(&*model.store)? };
    output.print(&report, |r| {
        let e = &r.evaluation;
        let mut rows = vec![
            ("perplexity", format!("{:.4}", e.perplexity)),
            ("loss", format!("{:.6} nats a token", e.loss)),
            ("scored", format!("{} tokens in {} windows of {}", e.tokens, e.windows, e.window)),
        ];
        if let Some(d) = &e.divergence {
            rows.push(("KL, mean", format!("{:.6} nats", d.kl_mean)));
            rows.push(("KL, 99th percentile", format!("{:.6}", d.kl_p99)));
            rows.push(("KL, greatest", format!("{:.6}", d.kl_max)));
            rows.push(("top-1 agreement", format!("{:.2} %", 100.0 * d.top1_agreement)));
        }
        rows.push(("size", bytes(r.size_bytes)));
        rows.push(("bits per weight", format!("{:.3}", r.footprint.bits_per_weight)));
        table(&rows.into_iter().map(|(k, v)| vec![k.to_owned(), v]).collect::<Vec<_>>())
    })?;
    Ok(ExitCode::SUCCESS)
}
