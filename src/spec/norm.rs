//! Normalisation.

use super::is_default;
use serde::{Deserialize, Serialize};

/// Normalisation over the last dimension.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Norm {
    /// Which statistics are divided out.
    pub kind: NormKind,
    /// Added to the mean square or the variance.
    pub epsilon: f64,
    /// What the result is multiplied by.
    #[serde(default, skip_serializing_if = "is_default")]
    pub weight: NormWeight,
    /// Whether a bias is added.
    #[serde(default, skip_serializing_if = "is_default")]
    pub bias: bool,
}

impl Norm {
    /// RMS norm with weights.
    pub fn rms(epsilon: f64) -> Self {
        Self { kind: NormKind::Rms, epsilon, weight: NormWeight::Plain, bias: false }
    }

    /// Layer norm with weights and biases.
    pub fn layer(epsilon: f64) -> Self {
        Self { kind: NormKind::Layer, epsilon, weight: NormWeight::Plain, bias: true }
    }
}

/// Kinds of normalisation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NormKind {
    /// x / sqrt(mean(x²) + ε) (Zhang and Sennrich 2019).
    Rms,
    /// (x − mean(x)) / sqrt(var(x) + ε) (Ba et al. 2016).
    Layer,
}

/// What a norm's result is multiplied by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NormWeight {
    /// w.
    #[default]
    Plain,
    /// 1 + w.
    OnePlus,
    /// Nothing; no weight is stored.
    None,
}
