//! The model card: a README.md for whoever gets the folder.

use super::CompressReport;
use crate::model::ModelSpec;
use crate::recipe::{OutputFormat, Recipe};

/// Words that every card has, by which a rerun knows its own.
pub const SIGNATURE: &str = "compressed by thimble";

/// Markdown.
pub fn card(report: &CompressReport, recipe: &Recipe, spec: &ModelSpec) -> String {
    let methods: Vec<_> = recipe.stages.iter().map(|s| s.method()).collect();
    let rows: String = report.comparison().iter().map(|[label, before, after]| format!("| {label} | {before} | {after} |\n")).collect();
    let gate = report.gate.map_or(String::new(), |g| format!("\nThe recipe's quality gate was **{}**.\n", format!("{g:?}").to_lowercase()));
    let remarks: String = report.remarks().map(|remark| format!("\n{remark}.\n")).collect();
    let e = &report.after;
    let name = |value: serde_json::Result<serde_json::Value>| value.expect("a name").as_str().unwrap_or_default().to_owned();
    format!(
        "# A {} model, {SIGNATURE}\n\n\
         {} parameters in {} blocks, by {}. Run it with `thimble run . --prompt '…'`{}.\n\n\
         | | before | after |\n|---|---|---|\n{rows}{gate}{remarks}\n\
         Measured on {} tokens in {} windows of {} (protocol `{}`), after: on the written file as it runs, with activations `{}`.\n",
        spec.family,
        report.footprint.parameters,
        spec.blocks.len(),
        methods.join(", "),
        others(recipe.output),
        e.tokens,
        e.windows,
        e.window,
        name(serde_json::to_value(e.protocol)),
        name(serde_json::to_value(recipe.evaluate.activations)),
    )
}

/// What else runs it.
fn others(format: OutputFormat) -> &'static str {
    match format {
        OutputFormat::Native => "",
        OutputFormat::HuggingFace => ", or load it with `transformers` as any directory of its family",
    }
}
