//! `thimble inspect`: what a model is and how it is stored.

use super::CommandResult;
use super::output::{Output, bytes, table};
use super::source::WeightsArgs;
use crate::error::Result;
use crate::eval::Footprint;
use crate::model::{ModelSpec, Parameter, describe};
use crate::quant::Weight;
use crate::quant::native::StoredScheme;
use crate::runtime::Model;
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::process::ExitCode;

/// Show a model's spec, schemes, size, quality and recipe
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  thimble inspect ./small
  thimble inspect ./small --tensors
  thimble inspect ./my-model --json")]
pub struct Args {
    #[command(flatten)]
    model: WeightsArgs,
    /// List every tensor
    #[arg(long)]
    tensors: bool,
}

#[derive(Serialize)]
struct Report {
    family: String,
    spec: ModelSpec,
    schemes: BTreeMap<String, StoredScheme>,
    #[serde(flatten)]
    footprint: Footprint,
    size_bytes: u64,
    quality: Value,
    recipe: Value,
    provenance: Value,
    #[serde(skip_serializing_if = "Option::is_none")]
    tensors: Option<Vec<TensorRow>>,
}

#[derive(Serialize)]
struct TensorRow {
    name: String,
    shape: Vec<usize>,
    stored: String,
    bytes: u64,
}

pub fn main(args: Args, output: Output) -> CommandResult {
    // A tokenizer says what goes before a text; a model without a sound one can be shown all the same.
    let model = args.model.open_with_tokenizer().or_else(|_| args.model.open())?;
    let (spec, notes) = (model.spec().clone(), model.notes.clone());
    let report = Report {
        family: spec.family.clone(),
        spec,
        schemes: schemes(&model)?,
        footprint: Footprint::of(&*model.store)?,
        size_bytes: model.size_bytes(),
        quality: notes.quality,
        recipe: notes.recipe,
        provenance: notes.provenance,
        tensors: args.tensors.then(|| tensor_rows(&model)).transpose()?,
    };
    output.print(&report, text)?;
    Ok(ExitCode::SUCCESS)
}

/// Of all that is packed, whatever it lies in.
fn schemes(model: &Model) -> Result<BTreeMap<String, StoredScheme>> {
    let mut schemes = BTreeMap::new();
    for Parameter { name, .. } in model.spec().parameters() {
        if let Weight::Packed(packed) = model.store.stored(&name)? {
            schemes.insert(name.clone(), StoredScheme::of(&name, &packed));
        }
    }
    Ok(schemes)
}

fn tensor_rows(model: &Model) -> anyhow::Result<Vec<TensorRow>> {
    let row = |name: String| {
        let weight = model.store.stored(&name)?;
        let stored = match &weight {
            Weight::Dense(t) => format!("{:?}", t.float_type).to_lowercase(),
            Weight::Packed(t) => match &t.outliers {
                None => t.tiling.scheme.to_string(),
                Some(outliers) => format!("{}, {} columns in f16", t.tiling.scheme, outliers.width()),
            },
        };
        Ok(TensorRow { shape: weight.shape(), name, stored, bytes: weight.len_bytes() as u64 })
    };
    model.spec().parameters().into_iter().map(|p| row(p.name)).collect()
}

fn text(report: &Report) -> String {
    let spec = &report.spec;
    let mut rows = vec![
        ("family", report.family.clone()),
        ("parameters", report.footprint.parameters.to_string()),
        ("blocks, hidden size", format!("{}, {}", spec.blocks.len(), spec.hidden_size)),
        ("vocabulary, context", format!("{}, {}", spec.vocab_size, spec.context)),
        ("size", bytes(report.size_bytes)),
        (
            "bits per weight",
            format!("{:.3} (linear layers {:.3})", report.footprint.bits_per_weight, report.footprint.bits_per_weight_linear),
        ),
    ];
    let mut kinds: BTreeMap<String, usize> = BTreeMap::new();
    for stored in report.schemes.values() {
        *kinds.entry(stored.scheme.to_string()).or_default() += 1;
    }
    rows.extend(kinds.into_iter().map(|(scheme, n)| ("quantised", format!("{n} tensors to {scheme}"))));
    if let (Some(before), Some(after)) = (report.quality["before"]["perplexity"].as_f64(), report.quality["after"]["perplexity"].as_f64()) {
        rows.push(("perplexity", format!("{before:.4} before, {after:.4} after")));
    }
    if let Some(gate) = report.quality["gate"].as_str() {
        rows.push(("quality gate", gate.to_owned()));
    }
    let mut text = pairs(rows.into_iter().map(|(k, v)| (k.to_owned(), v)).collect());
    text = format!("{text}\n\n{}", pairs(describe(spec)));
    if let Some(tensors) = &report.tensors {
        let rows: Vec<_> =
            tensors.iter().map(|t| vec![t.name.clone(), format!("{:?}", t.shape), t.stored.clone(), bytes(t.bytes)]).collect();
        text = format!("{text}\n\n{}", table(&rows));
    }
    text
}

/// Two columns, both to the left.
fn pairs(rows: Vec<(String, String)>) -> String {
    let width = rows.iter().map(|(key, _)| key.chars().count()).max().unwrap_or(0);
    rows.into_iter().map(|(key, value)| format!("{key:<width$}  {value}")).collect::<Vec<_>>().join("\n")
}
