//! `thimble logits`: raw logits of given tokens, to compare with other programs.

use super::CommandResult;
use super::output::Output;
use super::source::{ActivationsArg, BackendArgs, WeightsArgs};
use crate::checkpoint::{check_unchanged, write_atomically};
use crate::error::Error;
use crate::model::expect_finite;
use crate::paths::{self, Inputs};
use safetensors::tensor::{Dtype, TensorView};
use serde_json::json;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

/// Write the logits of given token ids to a safetensors file
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  thimble logits ./small --ids 1,403,407 --out logits.safetensors")]
pub struct Args {
    #[command(flatten)]
    model: WeightsArgs,
    /// Token ids, comma-separated
    #[arg(long, value_delimiter = ',', required = true, value_name = "ID,…")]
    ids: Vec<u32>,
    /// The file: a tensor `logits`, f32 [tokens, vocab]
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Activations against packed weights, in the native runtime; f32 unless told
    #[arg(long, value_enum)]
    activations: Option<ActivationsArg>,
    #[command(flatten)]
    backend: BackendArgs,
}

pub fn main(args: Args, threads: usize, output: Output) -> CommandResult {
    let computed = args.backend.computed(args.activations, ActivationsArg::F32)?;
    let model = args.model.open()?;
    let mut inputs = Inputs::default();
    inputs.add_all("the model", model.input_files());
    inputs.refuse_file("--out", &args.out)?;
    let mut source = computed.logits(&model, threads)?;
    source.run_window(&args.ids)?;
    let logits = source.logits(0..args.ids.len())?;
    let vocab = model.spec().vocab_size;
    for (position, row) in logits.chunks_exact(vocab).enumerate() {
        expect_finite(row, position)?;
    }
    check_unchanged()?;
    let shape = vec![args.ids.len(), vocab];
    let view = TensorView::new(Dtype::F32, shape, bytemuck::cast_slice(&logits)).map_err(|e| Error::format(&args.out, e.to_string()))?;
    let bytes = safetensors::serialize([("logits", view)], None).map_err(|e| Error::format(&args.out, e.to_string()))?;
    write_atomically(&args.out, |out| out.write_all(&bytes))?;
    let report = json!({ "files": [paths::text(&args.out)], "tokens": args.ids.len(), "vocab_size": vocab });
    output.print(&report, |_| format!("written: {}", args.out.display()))?;
    Ok(ExitCode::SUCCESS)
}
