//! Softmax attention.

use super::{Mask, Norm, Rotary, is_default};
use serde::{Deserialize, Serialize};

/// Causal softmax attention with grouped queries.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attention {
    /// Query heads.
    pub n_heads: usize,
    /// Key and value heads; divides `n_heads`.
    pub n_kv_heads: usize,
    /// Width of one head.
    pub head_dim: usize,
    /// What scores are multiplied by before the softmax.
    pub scale: f32,
    /// Rotary positions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotary: Option<Rotary>,
    /// ALiBi: `slope · (key position − query position)` is added to the scores, one
    /// slope a query head (Press et al. 2022, section 3). Empty where there is none.
    #[serde(default, skip_serializing_if = "is_default")]
    pub alibi: Vec<f32>,
    /// Keys that each query sees. Files call it `window`: `null` is [`Mask::Causal`].
    #[serde(rename = "window")]
    pub mask: Mask,
    /// Biases on q, k and v.
    pub qkv_bias: bool,
    /// Bias on the output projection.
    pub output_bias: bool,
    /// q, k and v are cut off at ± this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub qkv_clip: Option<f32>,
    /// Norms of queries and keys, before they are turned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub qk_norm: Option<QkNorm>,
    /// Queries that grow with their position, behind the turning.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub query_growth: Option<QueryGrowth>,
    /// Scores become `softcap · tanh(score / softcap)`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub softcap: Option<f32>,
    /// Norm of all heads' contexts together, before the output projection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context_norm: Option<Norm>,
}

impl Attention {
    /// Plain attention without positions: scale 1/√head_dim, no biases.
    pub fn new(n_heads: usize, n_kv_heads: usize, head_dim: usize) -> Self {
        Self {
            n_heads,
            n_kv_heads,
            head_dim,
            scale: (head_dim as f32).sqrt().recip(),
            rotary: None,
            alibi: Vec::new(),
            mask: Mask::Causal,
            qkv_bias: false,
            output_bias: false,
            qkv_clip: None,
            qk_norm: None,
            query_growth: None,
            softcap: None,
            context_norm: None,
        }
    }

    /// Width of all queries.
    pub fn q_width(&self) -> usize {
        self.n_heads * self.head_dim
    }

    /// Width of all keys, and of all values.
    pub fn kv_width(&self) -> usize {
        self.n_kv_heads * self.head_dim
    }
}

/// Norms of queries and keys.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QkNorm {
    /// The same kind for both.
    pub norm: Norm,
    /// What is normed together.
    pub span: QkSpan,
}

/// What a norm of queries or keys runs over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum QkSpan {
    /// Each head, by weights that all share.
    Head,
    /// Each head, by weights of its own.
    EachHead,
    /// All heads together.
    All,
}

/// Queries are multiplied by `1 + beta · ln(1 + ⌊position / every⌋)`.
///
/// Source: transformers, `modeling_ministral3.py` (`get_llama_4_attn_scale`).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QueryGrowth {
    /// How strongly.
    pub beta: f32,
    /// Positions between two steps.
    pub every: usize,
}

impl QueryGrowth {
    /// The factor at a position.
    pub fn at(&self, position: usize) -> f32 {
        1.0 + self.beta * ((1 + position / self.every) as f32).ln()
    }
}

/// ALiBi's slopes: a geometric series from 2^(−8/n), for a number of heads n that
/// is a power of two; otherwise that of the power below, then every second one of
/// the power above.
///
/// Source: Press et al. 2022, `attention_with_linear_biases` (`get_slopes`).
pub fn alibi_slopes(n_heads: usize) -> Vec<f32> {
    let below = if n_heads.is_power_of_two() { n_heads } else { n_heads.next_power_of_two() / 2 };
    let slope = |power: usize, i: usize| (-8.0 * (i + 1) as f64 / power as f64).exp2() as f32;
    let rest = (0..n_heads - below).map(|i| slope(2 * below, 2 * i));
    (0..below).map(|i| slope(below, i)).chain(rest).collect()
}
