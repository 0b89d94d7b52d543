//! What a run did and what it cost: JSON for programs, a page and a model card
//! for people.

mod card;
mod html;
mod pruning;
mod training;
mod unseen;

pub use pruning::PruningReport;
pub use training::{End, Line, TrainingReport};
pub use unseen::{UnseenInputs, warning as unseen_warning};

use crate::checkpoint::write_atomically;
use crate::error::Result;
use crate::eval::tasks::{Against, Paired};
use crate::eval::{Evaluation, Footprint};
use crate::model::ModelSpec;
use crate::paths;
use crate::recipe::Recipe;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Everything `compress` has to say.
#[derive(Clone, Debug, Serialize)]
pub struct CompressReport {
    /// What each stage did.
    pub stages: Vec<StageReport>,
    /// The original, in full precision.
    pub before: Evaluation,
    /// The written file, by the native runtime, as shipped.
    pub after: Evaluation,
    /// Size of the written file.
    pub size_bytes: u64,
    /// Size of the original's weight files.
    pub original_size_bytes: u64,
    /// Bits per weight of the original.
    pub original_bits_per_weight: f64,
    /// Bits per weight, everything counted.
    #[serde(flatten)]
    pub footprint: Footprint,
    /// Speed of the native runtime on this machine, from a short run.
    pub decode_tokens_per_s: DecodeSpeed,
    /// Greatest difference of logits between the file as read back and the
    /// weights as solved.
    pub max_read_back_difference: f32,
    /// Greatest anonymous memory seen.
    pub peak_memory_bytes: u64,
    /// Wall-clock time of this run.
    pub seconds: f64,
    /// Blocks that an earlier, interrupted run had finished.
    pub resumed_blocks: usize,
    /// Whether the recipe's gate was passed, where it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gate: Option<GateResult>,
    /// What was written.
    #[serde(serialize_with = "paths::texts")]
    pub files: Vec<PathBuf>,
}

/// Tokens per second, one by one.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct DecodeSpeed {
    /// The original.
    pub before: f64,
    /// The written file.
    pub after: f64,
}

/// Verdict of a gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GateResult {
    /// All limits were kept.
    Passed,
    /// One was not.
    Missed,
}

/// What a stage did.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StageReport {
    /// Name of the method in a recipe.
    pub method: String,
    /// Wall-clock time.
    pub seconds: f64,
    /// What it cost, layer by layer.
    pub layers: Vec<LayerReport>,
    /// How training went, where there was one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub training: Vec<TrainingReport>,
    /// What was taken out, where something was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pruning: Option<PruningReport>,
    /// What each layer alone would cost in the stage's own scheme, by canonical name, in nats a
    /// token, where that decides which get more bits.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub sensitivities: BTreeMap<String, f64>,
    /// What the user should know of the stage as a whole.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub remarks: Vec<String>,
}

impl StageReport {
    /// Of a stage that has nothing to tell but its time.
    pub fn of(method: &str, seconds: f64) -> Self {
        Self {
            method: method.to_owned(),
            seconds,
            layers: Vec::new(),
            training: Vec::new(),
            pruning: None,
            sensitivities: BTreeMap::new(),
            remarks: Vec::new(),
        }
    }

    /// What does not change from run to run.
    pub fn without_times(&self) -> serde_json::Value {
        let training: Vec<_> = self
            .training
            .iter()
            .map(|t| serde_json::json!({ "name": t.name, "end": t.end, "steps": t.lines.last().map(|l| l.step) }))
            .collect();
        let mut all = serde_json::json!({ "method": self.method, "layers": self.layers, "training": training, "remarks": self.remarks });
        if !self.sensitivities.is_empty() {
            all["sensitivities"] = serde_json::json!(self.sensitivities);
        }
        if let Some(pruning) = &self.pruning {
            all["pruning"] = serde_json::to_value(pruning).expect("a report is JSON");
        }
        all
    }
}

/// What compressing a layer cost.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LayerReport {
    /// Canonical name.
    pub name: String,
    /// ‖(W − Ŵ)X‖ / ‖WX‖ on the calibration's inputs; without X for embeddings
    /// and head.
    pub relative_error: f64,
    /// Bits per weight with scales and zero points.
    pub bits: f64,
    /// Inputs that the calibration did not meet, where there are any and the method goes by them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unseen_inputs: Option<UnseenInputs>,
    /// What the user should know.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub remarks: Vec<String>,
}

impl LayerReport {
    /// All that there is to say of the layer, in sentences.
    fn said(&self) -> impl Iterator<Item = String> + '_ {
        self.remarks.iter().cloned().chain(self.unseen_inputs.map(|unseen| unseen.to_string()))
    }
}

/// Name of the model card.
const CARD: &str = "README.md";

/// True if a model card may be written: someone else's page is left as it is.
fn is_ours(card: &Path) -> bool {
    match std::fs::read(card) {
        Ok(text) => String::from_utf8_lossy(&text).contains(card::SIGNATURE),
        Err(error) => error.kind() == std::io::ErrorKind::NotFound,
    }
}

impl CompressReport {
    /// Writes report.json, report.html and the model card into a folder, and adds
    /// them to `files`.
    pub fn write(&mut self, out: &Path, recipe: &Recipe, spec: &ModelSpec) -> Result<()> {
        for (i, training) in self.stages.iter().flat_map(|stage| &stage.training).enumerate() {
            let path = out.join(format!("training-{}.csv", i + 1));
            write_atomically(&path, |out| out.write_all(training.csv().as_bytes()))?;
            self.files.push(path);
        }
        let texts_from = self.files.len();
        self.files.extend(["report.json", "report.html"].map(|name| out.join(name)));
        let card = out.join(CARD);
        match is_ours(&card) {
            true => self.files.push(card),
            false => tracing::warn!("{} is not a card of thimble: no model card is written", card.display()),
        }
        let json = serde_json::to_string_pretty(self).expect("a report is JSON");
        let texts = [json, html::page(self, recipe, spec), card::card(self, recipe, spec)];
        for (path, text) in self.files[texts_from..].iter().zip(texts) {
            write_atomically(path, |out| out.write_all(text.as_bytes()))?;
        }
        Ok(())
    }

    /// True if [`CompressReport::write`] may write to a file of this name in a folder.
    pub fn writes(out: &Path, name: &str) -> bool {
        match name {
            "report.json" | "report.html" => true,
            CARD => is_ours(&out.join(CARD)),
            name => name.starts_with("training-") && name.ends_with(".csv"),
        }
    }

    /// What stages have to say as a whole, each behind its name.
    pub fn remarks(&self) -> impl Iterator<Item = String> {
        self.stages.iter().flat_map(|stage| stage.remarks.iter().map(move |remark| format!("{}: {remark}", stage.method)))
    }

    /// Before and after, as rows of label, before, after.
    pub fn comparison(&self) -> Vec<[String; 3]> {
        let row = |label: &str, before: String, after: String| [label.to_owned(), before, after];
        let mut rows = vec![row(
            "perplexity",
            format!("{:.4}", self.before.perplexity),
            format!("{:.4} ({:+.2} %)", self.after.perplexity, 100.0 * (self.after.perplexity / self.before.perplexity - 1.0)),
        )];
        if let Some(d) = &self.after.divergence {
            rows.push(row("KL divergence, mean", "0".into(), format!("{:.5} nats", d.kl_mean)));
            rows.push(row("KL divergence, 99th percentile", "0".into(), format!("{:.5} nats", d.kl_p99)));
            rows.push(row("top-1 agreement", "100 %".into(), format!("{:.2} %", 100.0 * d.top1_agreement)));
        }
        for (name, after) in &self.after.tasks {
            let Some(Against { reference, paired, paired_norm }) = &after.against else { continue };
            let mut accuracy = |what: &str, before: f64, after: f64, paired: &Paired| {
                let change = format!("{:+.2} points, p = {:.3}", 100.0 * paired.difference, paired.p_value);
                rows.push(row(
                    &format!("{name}, {what}"),
                    format!("{:.2} %", 100.0 * before),
                    format!("{:.2} % ({change})", 100.0 * after),
                ));
            };
            accuracy("accuracy", reference.acc, after.acc, paired);
            if let (Some(before), Some(after), Some(paired)) = (reference.acc_norm, after.acc_norm, paired_norm) {
                accuracy("accuracy by byte", before, after, paired);
            }
            if let (Some(before), Some(after)) = (reference.perplexity, after.perplexity) {
                rows.push(row(&format!("{name}, perplexity a word"), format!("{before:.4}"), format!("{after:.4}")));
            }
        }
        let bits = self.original_bits_per_weight;
        rows.push(row("bits per weight", format!("{bits:.3}"), format!("{:.3}", self.footprint.bits_per_weight)));
        rows.push(row(
            "size",
            format!("{:.3} MB", self.original_size_bytes as f64 / 1e6),
            format!("{:.3} MB", self.size_bytes as f64 / 1e6),
        ));
        let speed = self.decode_tokens_per_s;
        rows.push(row("decode, tokens a second here", format!("{:.0}", speed.before), format!("{:.0}", speed.after)));
        rows
    }
}
