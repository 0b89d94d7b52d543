//! What works on each token alone.

use super::{Norm, is_default};
use serde::{Deserialize, Serialize};

/// `down(norm(hidden))`, where `hidden` is `activation(gate(x)) · up(x)` or, without
/// a gate, `activation(up(x))`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FeedForward {
    /// Width between `up` and `down`.
    pub width: usize,
    /// What is multiplied with what.
    #[serde(default, skip_serializing_if = "is_default")]
    pub gate: Gate,
    /// Applied to the gate, or to `up` where there is none.
    pub activation: Activation,
    /// Biases on all projections.
    pub bias: bool,
    /// Norm of `hidden`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hidden_norm: Option<Norm>,
    /// An earlier block whose feed-forward's parameters this one uses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weights_of: Option<usize>,
}

impl FeedForward {
    /// Gated, no biases.
    pub fn gated(width: usize, activation: Activation) -> Self {
        Self { width, gate: Gate::Hidden, activation, bias: false, hidden_norm: None, weights_of: None }
    }

    /// Not gated, with biases.
    pub fn plain(width: usize, activation: Activation) -> Self {
        Self { gate: Gate::None, bias: true, ..Self::gated(width, activation) }
    }
}

/// Gates of a feed-forward.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Gate {
    /// The hidden numbers are multiplied (Shazeer 2020).
    #[default]
    Hidden,
    /// Nothing is.
    None,
    /// RWKV's channel mixing: what comes out is multiplied by
    /// `sigmoid(receptance(x))`; `up` and `receptance` read mixtures of this token
    /// and the one before (Peng et al. 2023, section 3.1.1, equations 14 and 15).
    Receptance,
}

/// Elementwise nonlinearity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// x · sigmoid(x).
    Silu,
    /// x · Φ(x), by the error function.
    Gelu,
    /// The same by the tanh approximation (Hendrycks and Gimpel 2016).
    GeluTanh,
    /// max(x, 0).
    Relu,
    /// max(x, 0)².
    ReluSquared,
}
