//! What a model *is*, as plain data. Both decoders read this and nothing else,
//! so a spec says what the mathematics does and never which family it is from.
//!
//! It is stored in every native file, so a field that is added gets
//! `#[serde(default, skip_serializing_if = …)]`: files without it keep their
//! meaning, and a reader that does not know it refuses by name what needs it.
//!
//! Widths are per block: pruned models, and some published ones, are not uniform.

use serde::{Deserialize, Serialize};

/// A whole decoder-only model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelSpec {
    /// Where it comes from (`llama`, `mistral`); for messages only.
    pub family: String,
    /// Tokens in the vocabulary.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Longest sequence the model was made for, in tokens.
    pub context: usize,
    /// The blocks, first to last.
    pub blocks: Vec<Block>,
    /// Norm before the head.
    pub final_norm: Norm,
    /// Whether the head is the embedding.
    pub tied: bool,
    /// Tokens with a meaning of their own.
    pub special: SpecialTokens,
}

/// Ids that begin and end a text.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SpecialTokens {
    /// Beginning of a text.
    pub bos: Option<u32>,
    /// Any of these ends a text.
    pub eos: Vec<u32>,
}

/// One block: `x += mixer(norm(x)); x += feed_forward(norm(x))`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Block {
    /// Norm before the mixer.
    pub mixer_norm: Norm,
    /// What mixes tokens.
    pub mixer: Mixer,
    /// Norm before the feed-forward.
    pub ffn_norm: Norm,
    /// What works on each token alone.
    pub ffn: FeedForward,
}

/// How tokens see each other.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mixer {
    /// Softmax attention.
    Attention(Attention),
}

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
    pub rotary: Rotary,
    /// A token sees itself and the `window - 1` before it; all where absent.
    pub window: Option<usize>,
    /// Biases on q, k and v.
    pub qkv_bias: bool,
    /// Bias on the output projection.
    pub output_bias: bool,
}

/// Rotary position embedding over whole heads, half-split pairs (i, i + d/2).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rotary {
    /// Base of the geometric series of wavelengths.
    pub theta: f64,
    /// Stretching to longer contexts.
    pub scaling: RotaryScaling,
}

/// How rotary frequencies are stretched.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RotaryScaling {
    /// As trained.
    None,
    /// All frequencies divided by `factor`.
    Linear {
        /// Ratio of new to old context.
        factor: f64,
    },
    /// Llama 3.1: low frequencies divided by `factor`, high ones kept, a ramp between.
    Llama3 {
        /// Ratio of new to old context.
        factor: f64,
        /// Wavelengths longer than `original_context / low_freq_factor` are divided.
        low_freq_factor: f64,
        /// Wavelengths shorter than `original_context / high_freq_factor` are kept.
        high_freq_factor: f64,
        /// Context before stretching.
        original_context: f64,
    },
}

impl Rotary {
    /// Angle per position of each of the `head_dim / 2` pairs, in radians.
    ///
    /// Source: RoFormer (Su et al. 2021, section 3.2.2); for `Llama3`
    /// transformers, `modeling_rope_utils.py` (`_compute_llama3_parameters`).
    pub fn frequencies(&self, head_dim: usize) -> Vec<f64> {
        let plain = (0..head_dim / 2).map(|i| self.theta.powf(-2.0 * i as f64 / head_dim as f64));
        plain.map(|frequency| self.scaling.apply(frequency)).collect()
    }
}

impl RotaryScaling {
    fn apply(&self, frequency: f64) -> f64 {
        match *self {
            RotaryScaling::None => frequency,
            RotaryScaling::Linear { factor } => frequency / factor,
            RotaryScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } => {
                let turns = original_context * frequency / std::f64::consts::TAU;
                // 0 where the wavelength is long, 1 where it is short.
                let keep = ((turns - low_freq_factor) / (high_freq_factor - low_freq_factor)).clamp(0.0, 1.0);
                keep * frequency + (1.0 - keep) * frequency / factor
            }
        }
    }
}

/// Gated feed-forward: `down(activation(gate(x)) * up(x))`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FeedForward {
    /// Width between `up` and `down`.
    pub width: usize,
    /// Applied to the gate.
    pub activation: Activation,
    /// Biases on all three projections.
    pub bias: bool,
}

/// Elementwise nonlinearity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// x · sigmoid(x).
    Silu,
}

/// Normalisation of the residual stream.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Norm {
    /// Which statistics are divided out.
    pub kind: NormKind,
    /// Added to the mean square.
    pub epsilon: f64,
}

/// Kinds of normalisation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NormKind {
    /// x / sqrt(mean(x²) + ε) · weight (Zhang and Sennrich 2019).
    Rms,
}
