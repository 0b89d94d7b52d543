//! `[stage.sparsify]`: weights of linear layers become zero, by a fraction or N of M.

use super::Precision;
use super::error::{Checked, RecipeError};
use super::resolve::{DAMP_RANGE, check_skip};
use crate::model::{ModelSpec, ParameterKind};
use crate::pattern::matches;
use serde::{Deserialize, Serialize, Serializer};
use std::collections::BTreeSet;

/// A stage that sparsifies.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Sparsify {
    /// By which method.
    pub method: SparsityMethod,
    /// How many weights go.
    pub sparsity: Sparsity,
    /// Linear layers, by canonical name; one that is not listed stays as it is.
    pub layers: BTreeSet<String>,
}

/// What chooses the weights that go, with its options.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum SparsityMethod {
    /// The smallest of a layer.
    Magnitude,
    /// The smallest of each output once multiplied by the norm of what they meet.
    Wanda,
    /// Those whose loss the others make good best.
    SparseGpt(SparseGptOptions),
}

/// How SparseGPT solves.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct SparseGptOptions {
    /// Added to the Hessian's diagonal, relative to its mean.
    pub damp_percent: f64,
    /// Columns that a mask is chosen for at once: Bs of the paper.
    pub block_size: usize,
    /// What Hessians are solved in.
    pub precision: Precision,
}

impl Default for SparseGptOptions {
    fn default() -> Self {
        Self { damp_percent: 0.01, block_size: 128, precision: Precision::F32 }
    }
}

/// How many weights become zero.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Sparsity {
    /// This share of them, wherever they are.
    Unstructured(f64),
    /// All but `n` of any `m` neighbours in a row.
    Pattern {
        /// Weights that stay at most.
        n: usize,
        /// Neighbours, from a multiple of `m` on.
        m: usize,
    },
}

/// As it is written: 0.5 or "2:4".
impl Serialize for Sparsity {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Unstructured(share) => serializer.serialize_f64(*share),
            Self::Pattern { n, m } => serializer.serialize_str(&format!("{n}:{m}")),
        }
    }
}

/// As it is written. What is SparseGPT's alone has no default, so that it is refused
/// elsewhere.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawSparsify {
    method: MethodName,
    sparsity: Option<f64>,
    pattern: Option<String>,
    skip: Vec<String>,
    damp_percent: Option<f64>,
    block_size: Option<usize>,
    precision: Option<Precision>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum MethodName {
    Magnitude,
    Wanda,
    #[default]
    SparseGpt,
}

impl RawSparsify {
    /// For a model.
    pub fn checked(&self, spec: &ModelSpec) -> Checked<Sparsify> {
        let of = RecipeError::at("sparsify");
        let sparsity = self.sparsity().map_err(&of)?;
        let method = self.method(sparsity).map_err(&of)?;
        let parameters = spec.parameters();
        let linear = || parameters.iter().filter(|p| p.kind == ParameterKind::Linear).map(|p| &p.name);
        check_skip(&self.skip, linear()).map_err(&of)?;
        let layers = linear().filter(|name| !self.skip.iter().any(|pattern| matches(pattern, name))).cloned().collect();
        Ok(Sparsify { method, sparsity, layers })
    }

    fn sparsity(&self) -> Checked<Sparsity> {
        const HALF: f64 = 0.5;
        match (self.sparsity, &self.pattern) {
            (Some(_), Some(_)) => {
                Err(RecipeError::conflict(&["sparsity", "pattern"], "sparsity and pattern exclude each other; leave one out"))
            }
            (share, None) => match share.unwrap_or(HALF) {
                share if (0.0..1.0).contains(&share) => Ok(Sparsity::Unstructured(share)),
                share => Err(RecipeError::range("sparsity =", share, "from 0 to below 1; 0.5 makes half of the weights zero")),
            },
            (None, Some(pattern)) => {
                let numbers = pattern.split_once(':').and_then(|(n, m)| Some((n.parse().ok()?, m.parse().ok()?)));
                match numbers {
                    Some((n, m)) if 0 < n && n < m => Ok(Sparsity::Pattern { n, m }),
                    _ => Err(RecipeError::Pattern(pattern.clone())),
                }
            }
        }
    }

    fn method(&self, sparsity: Sparsity) -> Checked<SparsityMethod> {
        let method = match self.method {
            MethodName::SparseGpt => return self.sparse_gpt(sparsity).map(SparsityMethod::SparseGpt),
            MethodName::Magnitude => SparsityMethod::Magnitude,
            MethodName::Wanda => SparsityMethod::Wanda,
        };
        let given: [(&'static str, bool); 3] = [
            ("damp_percent", self.damp_percent.is_some()),
            ("block_size", self.block_size.is_some()),
            ("precision", self.precision.is_some()),
        ];
        match given.into_iter().find(|(_, given)| *given) {
            Some((key, _)) => Err(RecipeError::Unused { key, only: "method = \"sparsegpt\"" }),
            None => Ok(method),
        }
    }

    fn sparse_gpt(&self, sparsity: Sparsity) -> Checked<SparseGptOptions> {
        let defaults = SparseGptOptions::default();
        let options = SparseGptOptions {
            damp_percent: self.damp_percent.unwrap_or(defaults.damp_percent),
            block_size: self.block_size.unwrap_or(defaults.block_size),
            precision: self.precision.unwrap_or(defaults.precision),
        };
        let SparseGptOptions { damp_percent, block_size, .. } = options;
        match sparsity {
            _ if !(damp_percent > 0.0 && damp_percent <= 1.0) => Err(RecipeError::range("damp_percent", damp_percent, DAMP_RANGE)),
            _ if block_size == 0 => Err(RecipeError::must_be("block_size", "at least 1 (the paper's is 128)")),
            Sparsity::Pattern { m, .. } if !block_size.is_multiple_of(m) => {
                let next = block_size.next_multiple_of(m);
                Err(RecipeError::SplitGroups { size: block_size, group: m, next })
            }
            _ => Ok(options),
        }
    }
}
