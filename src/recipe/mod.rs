//! Recipes: what to do to a model, in TOML.
//!
//! [`raw`] is what people write, checked for spelling by serde; `resolve` turns
//! it into a [`Recipe`] for one model and refuses what cannot work before any
//! weight is read.

mod data_type;
mod distil;
mod error;
mod messages;
mod mixed_precision;
mod prune;
pub mod raw;
mod resolve;
mod set;
mod sparsify;
mod student;
mod ternary;
mod training;

pub use distil::{
    AttentionLoss, AttentionMatch, Distil, Divergence, HiddenLoss, HiddenMatch, OnPolicy, OnPolicyMethod, Phase, TeacherCache,
};
pub use mixed_precision::{Candidate, MixedPrecision};
pub use prune::{Aggregate, Cut, LayerSaliency, Needs, Normalise, PruneDepth, PruneWidth, Saliency, Target};
pub use raw::RawRecipe;
pub use sparsify::{SparseGptOptions, Sparsify, Sparsity, SparsityMethod};
pub use ternary::{Qat, TernaryOptions, TernarySolver};
pub use training::{Adapters, Decay, Optimizer, Trainable, TrainableName, Training};

use crate::eval::Protocol;
use crate::model::{ModelSpec, StudentShape};
use crate::quant::Scheme;
use crate::quant::quant_params::{GridChoice, GridSearch};
use crate::runtime::Activations;
use error::Checked;
pub use error::RecipeError;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A recipe that fits its model. Its JSON goes into the output's metadata.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Recipe {
    /// What statistics are taken over.
    pub calibration: Calibration,
    /// What is done, in order.
    pub stages: Vec<Stage>,
    /// How the result is measured.
    pub evaluate: Evaluate,
    /// What it must not miss.
    pub gate: Gate,
    /// What is written.
    pub output: OutputFormat,
}

impl Recipe {
    /// A model of the kind that comes out, where `spec` has gone into stage number `from`
    /// (from 0), as far as it is known before. `None` where the stages do not say.
    pub fn example(&self, from: usize, spec: &ModelSpec) -> Option<ModelSpec> {
        self.stages[from..].iter().try_fold(spec.clone(), |spec, stage| stage.example(&spec))
    }
}

/// Where tokens come from.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TextSource {
    /// Sampled from the model itself.
    #[serde(rename = "self")]
    Model,
    /// A file. Its name is recorded, the folders of the machine are not.
    File(#[serde(serialize_with = "file_name")] PathBuf),
}

impl TextSource {
    /// The file, where it is one.
    pub fn file(&self) -> Option<&Path> {
        match self {
            TextSource::Model => None,
            TextSource::File(path) => Some(path),
        }
    }
}

fn file_name<S: serde::Serializer>(path: &Path, serializer: S) -> std::result::Result<S::Ok, S::Error> {
    serializer.serialize_str(&path.file_name().unwrap_or_default().to_string_lossy())
}

fn file_name_of_some<S: serde::Serializer>(path: &Option<PathBuf>, serializer: S) -> std::result::Result<S::Ok, S::Error> {
    file_name(path.as_deref().unwrap_or(Path::new("")), serializer)
}

/// Calibration sequences.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Calibration {
    /// Where from.
    pub text: TextSource,
    /// How many.
    pub sequences: usize,
    /// Tokens of each.
    pub length: usize,
    /// Where in the text they lie, and what is sampled.
    pub seed: u64,
    /// How much each token counts in what methods know of their inputs.
    #[serde(skip_serializing_if = "TokenImportance::is_equal")]
    pub token_importance: TokenImportance,
}

/// What makes a token of the calibration count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TokenImportance {
    /// All count alike.
    #[default]
    Equal,
    /// Few like it in the calibration.
    Rarity,
    /// The norm of its hidden state before the block.
    ActivationNorm,
}

impl TokenImportance {
    fn is_equal(&self) -> bool {
        *self == Self::Equal
    }
}

/// The measurement before and after.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Evaluate {
    /// Held-out text.
    pub text: TextSource,
    /// How it is cut.
    pub protocol: Protocol,
    /// Tokens of a window.
    pub window: usize,
    /// Only the first windows.
    pub max_windows: Option<usize>,
    /// What the written model's weights multiply.
    pub activations: Activations,
    /// Tasks to measure accuracy on: a folder of `*.jsonl`, or one such file.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "file_name_of_some")]
    pub tasks: Option<PathBuf>,
    /// Only the first items of each.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub task_limit: Option<usize>,
}

/// Limits that a shipped model must keep.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Gate {
    /// Relative: 0.05 = 5 %.
    pub max_perplexity_increase: Option<f64>,
    /// Size of the written file.
    pub max_size_bytes: Option<u64>,
    /// Accuracy at least, a fraction, by task.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub min_accuracy: BTreeMap<String, f64>,
}

impl Gate {
    /// Whether there is anything to miss.
    pub fn is_set(&self) -> bool {
        *self != Self::default()
    }
}

/// What is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum OutputFormat {
    /// `model.thimble`
    #[serde(rename = "native")]
    Native,
    /// A Hugging Face directory in full precision.
    #[serde(rename = "hf")]
    HuggingFace,
}

impl OutputFormat {
    /// All of them, by name in a recipe.
    pub const NAMES: [(&str, Self); 2] = [("native", Self::Native), ("hf", Self::HuggingFace)];

    /// Whether it holds codes.
    pub fn is_packed(self) -> bool {
        match self {
            Self::Native => true,
            Self::HuggingFace => false,
        }
    }
}

/// One step, resolved. Closed: a stage that some part does not handle must not
/// compile.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Weights become codes.
    Quantize(Quantize),
    /// A smaller model takes the place of its teacher.
    Student(StudentShape),
    /// Weights are trained to do as a teacher does.
    Distil(Box<Distil>),
    /// Layers are taken out.
    PruneDepth(PruneDepth),
    /// Heads and channels are taken out.
    PruneWidth(Box<PruneWidth>),
    /// Weights become zero.
    Sparsify(Sparsify),
}

impl Stage {
    /// Its name in a recipe.
    pub fn method(&self) -> &'static str {
        match self {
            Stage::Quantize(quantize) => quantize.method.name(),
            Stage::Student(_) => "student",
            Stage::Distil(_) => "distil",
            Stage::PruneDepth(_) => "prune_depth",
            Stage::PruneWidth(_) => "prune_width",
            Stage::Sparsify(_) => "sparsify",
        }
    }

    /// Whether weights are codes behind it.
    pub fn leaves_codes(&self) -> bool {
        match self {
            Stage::Quantize(_) => true,
            Stage::Sparsify(_) | Stage::Student(_) | Stage::Distil(_) | Stage::PruneDepth(_) | Stage::PruneWidth(_) => false,
        }
    }

    /// What it learns, where it does.
    pub fn distil(&self) -> Option<&Distil> {
        match self {
            Stage::Distil(plan) => Some(plan),
            Stage::Quantize(plan) => plan.qat.as_ref().map(|qat| &qat.distil),
            Stage::Sparsify(_) | Stage::Student(_) | Stage::PruneDepth(_) | Stage::PruneWidth(_) => None,
        }
    }

    /// Share of the calibration that it reads.
    pub fn calibration_use(&self) -> CalibrationUse {
        match self {
            Stage::Quantize(plan) if plan.mixed_precision.is_none() && plan.qat.is_none() && !plan.reads_inputs() => CalibrationUse::Sample,
            Stage::Quantize(_) | Stage::PruneDepth(_) | Stage::PruneWidth(_) | Stage::Sparsify(_) => CalibrationUse::All,
            Stage::Student(_) | Stage::Distil(_) => CalibrationUse::Nothing,
        }
    }

    /// A model of the kind that comes out of it.
    pub fn example(&self, spec: &ModelSpec) -> Option<ModelSpec> {
        match self {
            Stage::Quantize(plan) => Some(plan.reshape(spec.clone())),
            Stage::Distil(_) | Stage::Sparsify(_) => Some(spec.clone()),
            Stage::Student(shape) => shape.apply(spec).ok(),
            Stage::PruneDepth(plan) => plan.stand_in(spec).apply(spec).ok(),
            Stage::PruneWidth(plan) => plan.example(spec).apply(spec).ok(),
        }
    }

    /// The spec of a model once this is done to it, as far as it is known before: which
    /// layers stay, and widths that are searched, are not.
    pub fn reshape(&self, spec: ModelSpec) -> ModelSpec {
        match self {
            Stage::Quantize(plan) => plan.reshape(spec),
            Stage::Distil(_) | Stage::Sparsify(_) => spec,
            Stage::Student(shape) => shape.apply(&spec).expect("it was checked"),
            Stage::PruneDepth(plan) => plan.stand_in(&spec).apply(&spec).expect("it was checked"),
            Stage::PruneWidth(plan) => plan.stand_in(&spec).apply(&spec).expect("it was checked"),
        }
    }
}

/// Share of the calibration that a stage reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum CalibrationUse {
    /// Nothing.
    Nothing,
    /// [`CalibrationUse::SAMPLE_TOKENS`] tokens, on which the errors of layers are measured.
    Sample,
    /// All sequences.
    All,
}

impl CalibrationUse {
    /// Tokens that the relative error of a layer is measured on where no method reads
    /// statistics: the first of the calibration. An error is a ratio of sums over tokens and
    /// outputs, so that few tokens tell it to within some percent.
    pub const SAMPLE_TOKENS: usize = 128;

    /// Sequences, and their length, of a calibration of so many of this length.
    pub fn shape(self, sequences: usize, length: usize) -> (usize, usize) {
        match self {
            Self::Nothing => (0, 0),
            Self::Sample => {
                let length = length.min(Self::SAMPLE_TOKENS);
                (sequences.min(Self::SAMPLE_TOKENS.div_ceil(length.max(1))), length)
            }
            Self::All => (sequences, length),
        }
    }
}

/// A stage that quantises.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Quantize {
    /// By which method.
    pub method: Method,
    /// What is done to scales before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rescale: Option<Rescale>,
    /// What each matrix is quantised to, by canonical name; one that is not listed
    /// stays in 16 bits.
    pub schemes: BTreeMap<String, Scheme>,
    /// What layers get that lose most by those schemes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mixed_precision: Option<MixedPrecision>,
    /// Quantisation-aware training before the layers are rounded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub qat: Option<Box<Qat>>,
}

impl Quantize {
    /// The spec of a model once this is done to it.
    fn reshape(&self, spec: ModelSpec) -> ModelSpec {
        match &self.qat {
            Some(qat) if qat.sub_norms => self.with_sub_norms(&spec).expect("it was checked"),
            _ => spec,
        }
    }

    /// What is ternary, and its schemes.
    pub fn ternary_layers(&self) -> impl Iterator<Item = (&String, &Scheme)> {
        self.schemes.iter().filter(|(_, scheme)| scheme.code.is_ternary())
    }

    /// What solves layers before they are trained, where the stage trains them.
    pub fn untrained_method(&self) -> Method {
        match (self.method, &self.qat) {
            (Method::Ternary(options), Some(qat)) => {
                Method::Ternary(TernaryOptions { solver: qat.start.unwrap_or(TernarySolver::BEST), ..options })
            }
            (method, _) => method,
        }
    }

    /// True if what layers become depends on statistics of their inputs. Beside ternary layers,
    /// those of other schemes are GPTQ's.
    pub fn reads_inputs(&self) -> bool {
        let is_ternary = matches!(self.method, Method::Ternary(_));
        let has_others = || self.schemes.iter().any(|(name, scheme)| name.starts_with("blocks.") && !scheme.code.is_ternary());
        self.method.reads_inputs() || self.rescale.is_some() || is_ternary && has_others()
    }

    /// Whether the layers of a block are solved one input after the other. Those that were
    /// trained are rounded as forwards saw them, whatever they meet; GPTQ's among them are to
    /// meet what the rounded ones make.
    pub fn is_sequential(&self) -> bool {
        let rounds = |scheme: &Scheme| scheme.code.is_ternary();
        let has_others = || self.schemes.iter().any(|(name, scheme)| name.starts_with("blocks.") && !rounds(scheme));
        self.method.is_sequential() || self.qat.is_some() && has_others()
    }

    /// With norms before what it quantises.
    pub fn with_sub_norms(&self, spec: &ModelSpec) -> Checked<ModelSpec> {
        Ok(spec.with_sub_norms(|name| self.schemes.contains_key(name))?)
    }
}

/// A quantiser of linear layers, with its options.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// Round to nearest.
    Rtn(RtnOptions),
    /// GPTQ.
    Gptq(GptqOptions),
    /// Round to nearest on clipped ranges, behind AWQ's scales.
    Awq(AwqOptions),
    /// LLM.int8().
    LlmInt8(LlmInt8Options),
    /// −1, 0 and 1.
    Ternary(TernaryOptions),
}

impl Method {
    /// Its name in a recipe.
    pub fn name(&self) -> &'static str {
        match self {
            Method::Rtn(_) => "rtn",
            Method::Gptq(_) => "gptq",
            Method::Awq(_) => "awq",
            Method::LlmInt8(_) => "llm_int8",
            Method::Ternary(_) => "ternary",
        }
    }

    /// Whether it may be given weights that are codes already. Those of ternary weights may
    /// not: their scales would be those of codes.
    pub fn takes_codes(&self) -> bool {
        match self {
            Method::Rtn(_) | Method::Gptq(_) | Method::Awq(_) | Method::LlmInt8(_) => true,
            Method::Ternary(_) => false,
        }
    }

    /// True if the method uses statistics of the calibration inputs.
    pub fn reads_inputs(&self) -> bool {
        match self {
            Method::Rtn(options) => options.importance,
            Method::Ternary(options) => options.solver != TernarySolver::Absmean,
            Method::Gptq(_) | Method::Awq(_) | Method::LlmInt8(_) => true,
        }
    }

    /// Whether the layers of a block are solved one input after the other, each on
    /// what the solved ones before it make of the calibration.
    pub fn is_sequential(&self) -> bool {
        match self {
            Method::Rtn(_) | Method::Awq(_) | Method::LlmInt8(_) | Method::Ternary(_) => false,
            Method::Gptq(options) => options.true_sequential,
        }
    }
}

/// How rounding to nearest finds its scales and zero points.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct RtnOptions {
    /// How the scale and zero point of a group are chosen.
    pub grid: GridChoice,
    /// Whether errors are weighted by the second moments of the activations they meet.
    pub importance: bool,
}

/// What AWQ does besides scaling.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct AwqOptions {
    /// Whether groups are clipped.
    pub clip: bool,
}

/// How scale is moved between activations and weights before anything is rounded.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Rescale {
    /// AWQ's search.
    Awq(AwqScales),
    /// SmoothQuant's migration.
    Smooth {
        /// Share of the difficulty that goes to the weights.
        alpha: f64,
    },
}

/// How AWQ searches for scales.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AwqScales {
    /// Strengths that are tried, from 0 to below 1.
    pub points: usize,
    /// Whether the magnitudes of weights count too.
    pub duo_scaling: bool,
}

impl Default for AwqScales {
    fn default() -> Self {
        Self { points: 20, duo_scaling: true }
    }
}

/// How GPTQ solves.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct GptqOptions {
    /// The order of columns.
    pub act_order: ActOrder,
    /// Added to the Hessian's diagonal, relative to its mean.
    pub damp_percent: f64,
    /// How the scale and zero point of a group are chosen.
    pub grid: GridChoice,
    /// Whether scales and zero points are those of the weight before anything is rounded, and groups
    /// those of the model's order of columns.
    pub static_groups: bool,
    /// See [`Method::is_sequential`].
    pub true_sequential: bool,
    /// What Hessians are solved in.
    pub precision: Precision,
}

impl Default for GptqOptions {
    fn default() -> Self {
        Self {
            act_order: ActOrder::On,
            damp_percent: 0.01,
            grid: GridChoice::LeastError(GridSearch::DEFAULT),
            static_groups: false,
            true_sequential: false,
            precision: Precision::F32,
        }
    }
}

/// What LLM.int8() keeps in 16 bits.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct LlmInt8Options {
    /// A column of an input is an outlier where its magnitude reaches this anywhere in the
    /// calibration: α of the paper, section 3.2.
    pub threshold: f64,
}

/// The order in which GPTQ solves columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ActOrder {
    /// As they come.
    Off,
    /// By falling second moment of their activations.
    On,
    /// Groups by falling mean second moment, and columns inside each: the file needs no other
    /// order of columns than the model's.
    GroupAware,
}

/// Floats that Hessians are solved in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    /// Single.
    #[default]
    F32,
    /// Double.
    F64,
}
