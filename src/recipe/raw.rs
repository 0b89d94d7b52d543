//! A recipe as it is written. Unknown keys are errors that point at their line.
//! A new method = one variant of `RawStage`, one of [`super::Method`].

use super::data_type::RawDataType;
use super::messages::plain;
use super::sparsify::RawSparsify;
use super::student::RawStudent;
use super::ternary::RawTernary;
use crate::error::{Error, Result};
use crate::eval::Protocol;
use crate::quant::quant_params::GridSearch;
use crate::recipe::{AwqScales, Distil, Precision, PruneDepth, PruneWidth, TokenImportance};
use crate::runtime::Activations;
use crate::text::read::whole;
use serde::{Deserialize, Deserializer};
use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// The whole file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawRecipe {
    /// The file it came from; paths inside are relative to its folder.
    #[serde(skip)]
    pub path: PathBuf,
    /// Texts that the command line names in place of the recipe's: paths need not be UTF-8.
    #[serde(skip)]
    pub(super) texts: TextFiles,
    #[serde(default)]
    pub(super) calibration: RawCalibration,
    #[serde(default)]
    pub(super) stage: Vec<RawStage>,
    #[serde(default)]
    pub(super) evaluate: RawEvaluate,
    #[serde(default)]
    pub(super) gate: RawGate,
    #[serde(default)]
    pub(super) output: RawOutput,
}

/// Texts that were named outside the recipe.
#[derive(Clone, Debug, Default)]
pub(super) struct TextFiles {
    pub calibration: Option<PathBuf>,
    pub evaluation: Option<PathBuf>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawCalibration {
    pub text: String,
    pub sequences: usize,
    pub length: usize,
    pub seed: u64,
    pub token_importance: TokenImportance,
}

impl Default for RawCalibration {
    fn default() -> Self {
        Self { text: SELF.into(), sequences: 128, length: 512, seed: 0, token_importance: TokenImportance::default() }
    }
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawEvaluate {
    pub text: String,
    pub protocol: Protocol,
    pub window: Option<usize>,
    pub max_windows: Option<usize>,
    pub activations: Activations,
    pub tasks: Option<String>,
    pub task_limit: Option<usize>,
}

impl Default for RawEvaluate {
    fn default() -> Self {
        Self {
            text: SELF.into(),
            protocol: Protocol::default(),
            window: None,
            max_windows: None,
            activations: Activations::default(),
            tasks: None,
            task_limit: None,
        }
    }
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawGate {
    pub max_perplexity_increase: Option<f64>,
    pub max_size_bytes: Option<u64>,
    pub min_accuracy: BTreeMap<String, f64>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawOutput {
    pub format: String,
}

impl Default for RawOutput {
    fn default() -> Self {
        Self { format: "native".into() }
    }
}

/// One `[[stage]]`: exactly one method.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum RawStage {
    Rtn(RawRtn),
    Gptq(RawGptq),
    Awq(RawAwq),
    LlmInt8(RawLlmInt8),
    Ternary(Box<RawTernary>),
    Student(RawStudent),
    Distil(Box<Distil>),
    PruneDepth(PruneDepth),
    PruneWidth(Box<PruneWidth>),
    Sparsify(RawSparsify),
}

/// A quantising stage: keys of its own beside those that all of them have, which
/// serde cannot flatten into a struct that refuses unknown keys. Where a method has
/// defaults of its own, the functions that make bits, group size and symmetry are named.
macro_rules! quantising {
    ($(#[$doc:meta])* $name:ident { $($fields:tt)* }) => {
        quantising!($(#[$doc])* $name("default_bits", "default_group_size", "bool::default") { $($fields)* });
    };
    ($(#[$doc:meta])* $name:ident($bits:literal, $group_size:literal, $symmetric:literal) { $($fields:tt)* }) => {
        $(#[$doc])*
        #[derive(Clone, Debug, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub(super) struct $name {
            #[serde(default = $bits)]
            pub bits: usize,
            #[serde(default = $group_size, deserialize_with = "group_size")]
            pub group_size: usize,
            #[serde(default = $symmetric)]
            pub symmetric: bool,
            #[serde(default)]
            pub data_type: RawDataType,
            #[serde(default)]
            pub centred: bool,
            #[serde(default)]
            pub embeddings: RawScheme,
            pub head: Option<RawScheme>,
            #[serde(default)]
            pub skip: Vec<String>,
            $($fields)*
        }

        impl $name {
            /// What linear layers are quantised to.
            pub fn linear(&self) -> RawScheme {
                RawScheme {
                    bits: self.bits,
                    group_size: self.group_size,
                    symmetric: self.symmetric,
                    data_type: self.data_type,
                    centred: self.centred,
                }
            }

            /// What else is, and what is not.
            pub fn others(&self) -> RawOthers<'_> {
                RawOthers::new(self.embeddings, self.head, &self.skip)
            }
        }
    };
}

/// What a stage quantises besides linear layers, and to what; and what it leaves.
pub(super) struct RawOthers<'a> {
    pub embeddings: RawScheme,
    pub head: RawScheme,
    pub skip: &'a [String],
}

impl<'a> RawOthers<'a> {
    /// A head that is not named is quantised as embeddings are.
    pub fn new(embeddings: RawScheme, head: Option<RawScheme>, skip: &'a [String]) -> Self {
        Self { embeddings, head: head.unwrap_or(embeddings), skip }
    }
}

quantising!(RawRtn {
    pub rescale: Option<RawRescale>,
    #[serde(default)]
    pub grid: RawGrid,
    #[serde(default)]
    pub importance: bool,
});

quantising!(RawAwq {
    #[serde(default = "default_points")]
    pub points: usize,
    #[serde(default = "default_true")]
    pub duo_scaling: bool,
    #[serde(default = "default_true")]
    pub clip: bool,
});

quantising!(RawGptq {
    pub rescale: Option<RawRescale>,
    #[serde(default = "least_error")]
    pub grid: RawGrid,
    #[serde(default)]
    pub act_order: RawActOrder,
    #[serde(default = "default_damp_percent")]
    pub damp_percent: f64,
    #[serde(default)]
    pub static_groups: bool,
    #[serde(default)]
    pub true_sequential: bool,
    #[serde(default)]
    pub precision: Precision,
});

quantising!(
    /// The paper's scheme unless told: vector-wise, a scale an output row.
    RawLlmInt8("eight_bits", "whole_rows", "always") {
        #[serde(default = "default_threshold")]
        pub threshold: f64,
    }
);

/// A choice of grid: its name, or what is searched.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(untagged, expecting = "expected \"min_max\", \"least_error\", or a table of shrink, steps, norm and zero_points")]
pub(super) enum RawGrid {
    Named(GridName),
    Search(GridSearch),
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum GridName {
    MinMax,
    LeastError,
}

impl Default for RawGrid {
    fn default() -> Self {
        Self::Named(GridName::MinMax)
    }
}

fn least_error() -> RawGrid {
    RawGrid::Named(GridName::LeastError)
}

/// A way to rescale: its name, or what it is told.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(untagged, expecting = "expected \"awq\", \"smooth\", { awq = { points = 20, duo_scaling = true } } or { smooth = 0.5 }")]
pub(super) enum RawRescale {
    Named(RescaleName),
    Told(RescaleTold),
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum RescaleName {
    Awq,
    Smooth,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum RescaleTold {
    Awq(AwqScales),
    Smooth(f64),
}

/// true, false or "group_aware".
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(untagged, expecting = "expected true, false or \"group_aware\"")]
pub(super) enum RawActOrder {
    Switch(bool),
    Named(OrderName),
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum OrderName {
    GroupAware,
}

impl Default for RawActOrder {
    fn default() -> Self {
        Self::Switch(true)
    }
}

/// Scheme of embeddings or head.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawScheme {
    pub bits: usize,
    #[serde(deserialize_with = "group_size")]
    pub group_size: usize,
    pub symmetric: bool,
    pub data_type: RawDataType,
    pub centred: bool,
}

impl Default for RawScheme {
    fn default() -> Self {
        Self { bits: 8, group_size: default_group_size(), symmetric: false, data_type: RawDataType::Int, centred: false }
    }
}

/// Columns of a group; 0, or -1 as other tools write it, is a whole row.
fn group_size<'de, D: Deserializer<'de>>(deserializer: D) -> std::result::Result<usize, D::Error> {
    let columns = i64::deserialize(deserializer)?;
    let unknown = || serde::de::Error::custom(format!("expected a number of columns, or 0 for a whole row, found {columns}"));
    if columns == -1 { Ok(0) } else { usize::try_from(columns).map_err(|_| unknown()) }
}

pub(super) fn default_bits() -> usize {
    4
}
pub(super) fn default_group_size() -> usize {
    64
}
fn default_points() -> usize {
    AwqScales::default().points
}
fn default_true() -> bool {
    true
}
fn default_damp_percent() -> f64 {
    0.01
}
fn default_threshold() -> f64 {
    6.0
}
fn eight_bits() -> usize {
    8
}
fn whole_rows() -> usize {
    0
}
fn always() -> bool {
    true
}

/// In place of a file name: sampled from the model.
pub(super) const SELF: &str = "self";

impl RawRecipe {
    /// Reads a recipe and applies `--set` assignments such as `gptq.bits=3`.
    pub fn read(path: &Path, sets: &[String]) -> Result<Self> {
        let failed = |reason| Error::Recipe { path: path.to_owned(), reason };
        let text = whole(path).map_err(|error| match error {
            Error::Io { source, .. } if source.kind() == ErrorKind::IsADirectory => {
                failed("is a folder: the first argument is the recipe, a TOML file, and --model names the model".into())
            }
            Error::Io { source, .. } if source.kind() != ErrorKind::PermissionDenied => failed(format!("cannot be read: {source}")),
            Error::Format { reason, .. } => failed(reason),
            other => other,
        })?;
        Self::parse(&text, path, sets)
    }

    /// The same from a text; `path` is for messages and relative paths.
    pub fn parse(text: &str, path: &Path, sets: &[String]) -> Result<Self> {
        let error = |e: toml::de::Error| {
            let text = e.to_string();
            let (place, message) = text.trim_end().rsplit_once(e.message()).unwrap_or(("", ""));
            Error::Recipe { path: path.to_owned(), reason: format!("{place}{}{message}", plain(e.message())) }
        };
        // Parsed as written first, so that errors point at lines.
        let mut recipe: RawRecipe = toml::from_str(text).map_err(error)?;
        if !sets.is_empty() {
            let mut table: toml::Table = toml::from_str(text).map_err(error)?;
            for set in sets {
                super::set::apply(&mut table, set)?;
                // Read after each, so that the message names the one that is wrong.
                let read = table.clone().try_into();
                recipe = read.map_err(|e: toml::de::Error| Error::Usage(format!("--set {set}: {}", plain(e.message()))))?;
            }
        }
        recipe.path = path.to_owned();
        Ok(recipe)
    }
}
