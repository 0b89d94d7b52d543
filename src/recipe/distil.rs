//! `[stage.distil]`: a teacher, and what the student learns from it.

use super::Training;
use super::error::{Checked, RecipeError};
use crate::model::ModelSpec;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// As it is written, and, once checked, as it is done.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Distil {
    /// Who teaches: a model's path, or the model that the recipe is run on.
    #[serde(serialize_with = "super::file_name_of_some", skip_serializing_if = "Option::is_none")]
    pub teacher: Option<PathBuf>,
    /// How far the student's distribution is from the teacher's.
    pub divergence: Divergence,
    /// What both sides' logits are divided by; the loss is multiplied by its square.
    pub temperature: f64,
    /// Weight of the divergence.
    #[serde(alias = "soft")]
    pub kd_weight: f64,
    /// Weight of the cross-entropy with the text's own next tokens.
    #[serde(alias = "hard")]
    pub ce_weight: f64,
    /// What hidden states behind blocks are drawn to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hidden: Option<HiddenMatch>,
    /// What attention is drawn to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attention: Option<AttentionMatch>,
    /// Weight of the squared distance of embedded tokens.
    pub embedding: f64,
    /// The teacher's block that each of the student's is compared with; evenly spread
    /// ones, the last with the last, where there are none.
    pub layers: Vec<usize>,
    /// Share of the tokens over which blocks are matched one after the other, each trained
    /// alone, before all learn the prediction together (MobileBERT, section 3.5); 0 = all is
    /// learnt at once.
    pub progressive: f64,
    /// Where the teacher's most likely tokens are written once, to be read ever after.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache: Option<TeacherCache>,
    /// Whether it learns from what it writes itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_policy: Option<OnPolicy>,
    /// How it is trained.
    pub training: Training,
}

impl Default for Distil {
    fn default() -> Self {
        Self {
            teacher: None,
            divergence: Divergence::ForwardKl,
            temperature: 1.0,
            kd_weight: 1.0,
            ce_weight: 0.0,
            hidden: None,
            attention: None,
            embedding: 0.0,
            layers: Vec::new(),
            progressive: 0.0,
            cache: None,
            on_policy: None,
            training: Training::default(),
        }
    }
}

/// Divergences of the student's distribution q from the teacher's p.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Divergence {
    /// KL(p ‖ q).
    ForwardKl,
    /// KL(q ‖ p).
    ReverseKl,
    /// The mean of both.
    SymmetricKl,
    /// β KL(p ‖ m) + (1 − β) KL(q ‖ m) with m = β p + (1 − β) q (GKD, section 3).
    JensenShannon(f64),
    /// KL(p ‖ α p + (1 − α) q) (DistiLLM, section 3.1).
    SkewedForwardKl(f64),
    /// KL(q ‖ (1 − α) p + α q) (DistiLLM, section 3.1).
    SkewedReverseKl(f64),
    /// ½ Σ |p − q|.
    TotalVariation,
}

/// How hidden states are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HiddenLoss {
    /// 1 − cosine, of the last block alone (DistilBERT).
    LastCosine,
    /// Squared distance behind every block, through a learned matrix where widths differ
    /// (TinyBERT, equation 8).
    MeanSquare,
    /// Squared distance of normalised states behind every block (MobileBERT, section 3.3).
    NormalisedMeanSquare,
}

/// A loss on hidden states.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HiddenMatch {
    /// How.
    pub loss: HiddenLoss,
    /// How much it counts.
    pub weight: f64,
}

/// How attention is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AttentionLoss {
    /// Squared distance of scores before the softmax (TinyBERT, equation 7).
    Scores,
    /// KL of the distributions over keys (MobileBERT, section 3.3).
    Distributions,
    /// KL of how much tokens are like each other in queries, in keys and in values (MiniLMv2,
    /// section 3.1), which asks for no equal number of heads.
    Relations,
}

/// A loss on attention.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AttentionMatch {
    /// How.
    pub loss: AttentionLoss,
    /// How much it counts.
    pub weight: f64,
}

/// Learning from the student's own texts.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OnPolicy {
    /// What is learnt from them.
    pub method: OnPolicyMethod,
    /// Share of the steps' batches that it writes; the others are the corpus's.
    #[serde(default = "one")]
    pub share: f64,
    /// Tokens of the corpus that it continues.
    #[serde(default = "default_prompt")]
    pub prompt: usize,
    /// What its logits are divided by when it writes.
    #[serde(default = "one")]
    pub temperature: f64,
    /// MiniLLM: share of the teacher in the choice of each token.
    #[serde(default = "default_teacher_mix")]
    pub teacher_mix: f64,
}

/// The methods on the student's own texts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnPolicyMethod {
    /// Reverse KL of whole texts, by policy gradient (MiniLLM).
    #[serde(rename = "minillm")]
    MiniLlm,
    /// The divergence, with no gradient through the writing (GKD).
    Gkd,
}

fn one() -> f64 {
    1.0
}
fn default_prompt() -> usize {
    16
}
fn default_teacher_mix() -> f64 {
    0.2
}

/// The teacher's most likely tokens on disk.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TeacherCache {
    /// The file; made where it is not there or does not fit.
    #[serde(serialize_with = "super::file_name")]
    pub file: PathBuf,
    /// Tokens of each position; all others are one.
    #[serde(default = "default_top_k")]
    pub top_k: usize,
}

fn default_top_k() -> usize {
    32
}

impl Distil {
    /// For a student, with paths relative to a folder. The teacher, where it is another
    /// than the recipe's model, is looked at later.
    pub(super) fn checked(&self, student: &ModelSpec, folder: &Path) -> Checked<Self> {
        let fail = |error| Err(RecipeError::at("distil")(error));
        let weight = |x: f64| x >= 0.0 && x.is_finite();
        let weights = [
            self.kd_weight,
            self.ce_weight,
            self.embedding,
            self.hidden.map_or(0.0, |h| h.weight),
            self.attention.map_or(0.0, |a| a.weight),
        ];
        if !weights.into_iter().all(weight) {
            return fail(RecipeError::must_be("weights of losses", "0 or more"));
        }
        if weights.iter().all(|&w| w == 0.0) {
            return fail(RecipeError::conflict(
                &["kd_weight", "ce_weight", "hidden", "attention", "embedding"],
                "every loss has weight 0: there is nothing to learn; set kd_weight, ce_weight, hidden, attention or embedding",
            ));
        }
        if !(self.temperature > 0.0 && self.temperature.is_finite()) {
            return fail(RecipeError::range("temperature", self.temperature, "a positive number"));
        }
        let inside = |x: f64| x > 0.0 && x < 1.0;
        match self.divergence {
            Divergence::JensenShannon(x) | Divergence::SkewedForwardKl(x) | Divergence::SkewedReverseKl(x) if !inside(x) => {
                return fail(RecipeError::Divergence(x));
            }
            Divergence::JensenShannon(_) | Divergence::SkewedForwardKl(_) | Divergence::SkewedReverseKl(_) => (),
            Divergence::ForwardKl | Divergence::ReverseKl | Divergence::SymmetricKl | Divergence::TotalVariation => (),
        }
        if !self.layers.is_empty() && self.layers.len() != student.blocks.len() {
            return fail(RecipeError::LayerCount { listed: self.layers.len(), blocks: student.blocks.len() });
        }
        let matched = self.hidden.is_some_and(|hidden| hidden.loss != HiddenLoss::LastCosine) || self.attention.is_some();
        match () {
            () if !(0.0..=1.0).contains(&self.progressive) => {
                return fail(RecipeError::NoShare { key: "progressive", value: None, of: "the tokens", range: "from 0 to 1" });
            }
            () if self.progressive > 0.0 && !matched => {
                return fail(RecipeError::conflict(
                    &["progressive", "hidden", "attention"],
                    "progressive: there is nothing to match block by block; set hidden = { loss = \"normalised_mean_square\", weight = 1 } or attention",
                ));
            }
            () if self.progressive == 1.0 && (self.ce_weight > 0.0 || self.embedding > 0.0) => {
                return fail(RecipeError::conflict(
                    &["progressive", "ce_weight", "embedding"],
                    "progressive = 1 trains each block alone, and ce_weight and embedding are learnt by all together: leave them out, or set progressive below 1",
                ));
            }
            () if self.progressive > 0.0 && self.progressive < 1.0 && self.kd_weight == 0.0 && self.ce_weight == 0.0 => {
                return fail(RecipeError::conflict(
                    &["progressive", "kd_weight", "ce_weight"],
                    "progressive: behind it the prediction is learnt, and kd_weight and ce_weight are both 0; set progressive = 1 for none",
                ));
            }
            () => (),
        }
        let deep = self.hidden.is_some() || self.attention.is_some() || self.embedding > 0.0;
        if let Some(cache) = &self.cache {
            match () {
                () if self.kd_weight == 0.0 => {
                    return fail(RecipeError::conflict(
                        &["cache", "kd_weight"],
                        "cache: kd_weight is 0, so that the teacher is not asked; leave one of them out",
                    ));
                }
                () if cache.top_k == 0 => return fail(RecipeError::must_be("cache: top_k", "at least 1")),
                () if cache.top_k >= student.vocab_size => {
                    return fail(RecipeError::must_be("cache: top_k", format!("below the vocabulary of {}", student.vocab_size)));
                }
                () if deep => {
                    return fail(RecipeError::conflict(
                        &["cache", "hidden", "attention"],
                        "cache: hidden states and attention are not in the cache; leave it out to ask the teacher itself",
                    ));
                }
                () => (),
            }
        }
        if let Some(own) = &self.on_policy {
            let length = self.training.length.min(student.context);
            match () {
                () if deep => {
                    return fail(RecipeError::conflict(
                        &["on_policy", "hidden", "attention"],
                        "on_policy: hidden states and attention are matched on texts of the corpus; use a stage for each",
                    ));
                }
                () if self.cache.is_some() => {
                    return fail(RecipeError::conflict(
                        &["on_policy", "cache"],
                        "on_policy: what the student writes is in no cache; leave it out",
                    ));
                }
                () if self.kd_weight == 0.0 => {
                    return fail(RecipeError::conflict(&["on_policy", "kd_weight"], "on_policy: kd_weight is its weight, and 0"));
                }
                () if self.training.patience > 0 => {
                    return fail(RecipeError::conflict(
                        &["on_policy", "patience"],
                        "on_policy: patience looks at texts of the corpus, which is not what is learnt; leave it out",
                    ));
                }
                () if own.method == OnPolicyMethod::MiniLlm && (self.temperature != 1.0 || own.temperature != 1.0) => {
                    return fail(RecipeError::conflict(
                        &["on_policy", "temperature"],
                        "on_policy: minillm's gradient is that of temperature 1; leave both temperatures out",
                    ));
                }
                () if own.prompt == 0 || own.prompt > length => {
                    return fail(RecipeError::must_be("on_policy: prompt", format!("from 1 to the length of {length}")));
                }
                () if !(0.0..=1.0).contains(&own.share) => return fail(RecipeError::must_be("on_policy: share", "from 0 to 1")),
                () if !(0.0..1.0).contains(&own.teacher_mix) => {
                    return fail(RecipeError::must_be("on_policy: teacher_mix", "from 0 to below 1"));
                }
                () if !(own.temperature > 0.0 && own.temperature.is_finite()) => {
                    return fail(RecipeError::must_be("on_policy: temperature", "a positive number"));
                }
                () if own.method == OnPolicyMethod::MiniLlm && self.divergence != Divergence::ReverseKl => {
                    return fail(RecipeError::conflict(
                        &["on_policy", "divergence"],
                        "on_policy: minillm minimises the reverse KL: set divergence = \"reverse_kl\"",
                    ));
                }
                () => (),
            }
        }
        let join = |path: &PathBuf| folder.join(path);
        Ok(Self {
            teacher: self.teacher.as_ref().map(join),
            cache: self.cache.as_ref().map(|cache| TeacherCache { file: join(&cache.file), ..cache.clone() }),
            training: self.training.checked("distil", student, folder)?,
            ..self.clone()
        })
    }

    /// Whether the teacher is asked for anything.
    pub fn needs_teacher(&self) -> bool {
        self.kd_weight > 0.0 || self.embedding > 0.0 || self.hidden.is_some() || self.attention.is_some()
    }

    /// What is done one after the other for a student of so many blocks.
    pub fn phases(&self, blocks: usize) -> Vec<Phase> {
        let tokens = |share: f64| Training { tokens: ((share * self.training.tokens as f64) as u64).max(1), ..self.training.clone() };
        let block = |block: usize| Phase {
            name: format!("block {block}"),
            only: Some(block),
            plan: Distil {
                kd_weight: 0.0,
                ce_weight: 0.0,
                embedding: 0.0,
                training: tokens(self.progressive / blocks as f64),
                ..self.clone()
            },
        };
        let together = |plan| Phase { name: "all together".into(), only: None, plan };
        match self.progressive {
            0.0 => vec![together(self.clone())],
            1.0 => (0..blocks).map(block).collect(),
            share => {
                let rest = Distil { hidden: None, attention: None, training: tokens(1.0 - share), ..self.clone() };
                (0..blocks).map(block).chain([together(rest)]).collect()
            }
        }
    }
}

/// A part of a distillation.
pub struct Phase {
    /// For reports.
    pub name: String,
    /// The only block that is trained, where it is not all.
    pub only: Option<usize>,
    /// What is learnt, and on how many tokens.
    pub plan: Distil,
}
