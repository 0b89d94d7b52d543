//! `thimble verify`: whether a model's files are what was written.

use super::CommandResult;
use super::output::{Output, bytes, table};
use crate::checkpoint::check_unchanged;
use crate::error::{Error, Result};
use crate::runtime::{self, Model};
use serde::Serialize;
use serde_json::Value;
use std::path::PathBuf;
use std::process::ExitCode;

/// Check that a model is complete and undamaged
///
/// Of a native file every tensor is compared with the hash that was written with it; of other
/// models every weight is read and must be there, of the shape its configuration says, and finite.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  thimble verify ./small
  thimble verify ./my-model --json
Exit code 3 where something is damaged.")]
pub struct Args {
    /// A Hugging Face directory, a folder with model.thimble or that file, or a llama2.c .bin
    #[arg(value_name = "MODEL")]
    model: PathBuf,
}

#[derive(Serialize)]
struct Report {
    /// True if no tensor is damaged.
    ok: bool,
    /// Names of damaged tensors; `__metadata__` is the header of a native file.
    tensors: Vec<String>,
    /// One line per problem.
    problems: Vec<String>,
    /// True if the file has hashes.
    hashed: bool,
    size_bytes: u64,
    /// Perplexity and KL that were measured when the file was made.
    quality: Value,
    provenance: Value,
}

pub fn main(args: Args, output: Output) -> CommandResult {
    let report = match runtime::open_unverified(&args.model) {
        Ok(model) => verify(&model)?,
        Err(error) if error.exit_code() == 3 && !matches!(error, Error::Io { .. }) => unreadable(&error),
        Err(error) => return Err(error.into()),
    };
    output.print(&report, text)?;
    Ok(if report.ok { ExitCode::SUCCESS } else { ExitCode::from(3) })
}

fn verify(model: &Model) -> Result<Report> {
    let (mut tensors, mut problems) = (Vec::new(), Vec::new());
    let hashes = model.native.as_ref().map(|native| native.damaged()).transpose()?.flatten();
    for name in hashes.iter().flatten() {
        problems.push(format!("{name}: its hash differs"));
        tensors.push(name.clone());
    }
    for parameter in model.spec().parameters() {
        // Opening has looked at what a native file holds.
        if let Err(error) = model.store.weight(&parameter.name) {
            problems.push(error.to_string());
            tensors.push(parameter.name);
        }
    }
    check_unchanged()?;
    let (quality, provenance) = (model.notes.quality.clone(), model.notes.provenance.clone());
    Ok(Report { ok: tensors.is_empty(), hashed: hashes.is_some(), tensors, problems, size_bytes: model.size_bytes(), quality, provenance })
}

/// Of a model that cannot be opened.
fn unreadable(error: &Error) -> Report {
    let tensors = match error {
        Error::MissingTensor { name, .. }
        | Error::TensorMismatch { name, .. }
        | Error::UnreadFormat { name, .. }
        | Error::NonFinite { name, .. } => vec![name.clone()],
        _ => Vec::new(),
    };
    let problems = vec![error.to_string()];
    Report { ok: false, tensors, problems, hashed: false, size_bytes: 0, quality: Value::Null, provenance: Value::Null }
}

fn text(report: &Report) -> String {
    if !report.ok {
        let more = report.problems.len().saturating_sub(SHOWN);
        let more = if more > 0 { format!("\n… and {more} more (--json lists all)") } else { String::new() };
        return format!("damaged:\n{}{more}", report.problems.iter().take(SHOWN).cloned().collect::<Vec<_>>().join("\n"));
    }
    let checked = if report.hashed { "every hash matches" } else { "all weights are there and finite; there are no hashes to compare" };
    let mut rows = vec![vec!["ok".to_owned(), checked.to_owned()], vec!["size".to_owned(), bytes(report.size_bytes)]];
    let perplexity = |when: &str| report.quality[when]["perplexity"].as_f64();
    if let (Some(before), Some(after)) = (perplexity("before"), perplexity("after")) {
        rows.push(vec!["perplexity when it was made".to_owned(), format!("{before:.4} before, {after:.4} after")]);
    }
    if let Some(kl) = report.quality["after"]["kl_mean"].as_f64() {
        rows.push(vec!["KL when it was made".to_owned(), format!("{kl:.6} nats")]);
    }
    table(&rows)
}

/// Problems that are shown to people.
const SHOWN: usize = 20;
