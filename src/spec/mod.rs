//! What a model is, as plain data. [`crate::forward`] reads this and nothing else, so a
//! spec says what the mathematics does and never which family it is from.
//!
//! It is stored in every native file, so a field that is added gets
//! `#[serde(default, skip_serializing_if = …)]`: files without it keep their
//! meaning, and a reader that does not know it refuses by name what needs it.
//!
//! Widths are per block: pruned models, and some published ones, are not uniform.

mod attention;
mod block;
mod feed_forward;
mod mask;
mod name;
mod norm;
mod rotary;
mod stored_block;

pub use attention::{Attention, QkNorm, QkSpan, QueryGrowth, alibi_slopes};
pub use block::{Block, Op, SubLayer, SubLayerInput};
pub use feed_forward::{Activation, FeedForward, Gate};
pub use mask::Mask;
pub use name::LayerName;
pub use norm::{Norm, NormKind, NormWeight};
pub use rotary::{Rotary, RotaryScaling};

use serde::{Deserialize, Serialize};

/// True where a field has the value that an absent one stands for.
fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

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
    /// From ids to the residual stream.
    #[serde(default, skip_serializing_if = "is_default")]
    pub embedding: Embedding,
    /// The blocks, first to last.
    pub blocks: Vec<Block>,
    /// Norm before the head.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub final_norm: Option<Norm>,
    /// Whether the head is the embedding.
    pub tied: bool,
    /// From the residual stream to logits.
    #[serde(default, skip_serializing_if = "is_default")]
    pub head: Head,
    /// Tokens with a meaning of their own.
    pub special: SpecialTokens,
}

/// `norm(project(scale · E[id]) + positions)`, each where there is one.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Embedding {
    /// Width of the embedding and the head where it is not the residual stream's;
    /// a matrix leads in behind the one, and another out before the other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub width: Option<usize>,
    /// What rows are multiplied by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scale: Option<f32>,
    /// Vectors that are added by position.
    #[serde(default, skip_serializing_if = "is_default")]
    pub positions: Positions,
    /// Norm of the sum.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub norm: Option<Norm>,
}

/// Absolute positions, added to the embedding.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Positions {
    /// None: mixers know where they are, or need not.
    #[default]
    None,
    /// A table of one row a position of the context.
    Learned,
    /// Sines in the first half of the width, cosines in the second, of
    /// `(first + position) · 10000^(−i / (width/2 − 1))`; a zero behind them where the
    /// width is odd.
    ///
    /// Source: transformers, `modeling_xglm.py` (after tensor2tensor).
    Sinusoidal {
        /// Number of the first position.
        first: usize,
    },
}

impl Positions {
    /// The row of a number in a table of sines and cosines.
    pub fn sinusoid(number: usize, width: usize) -> Vec<f32> {
        let half = width / 2;
        let angle = |i: usize| number as f64 * (-(10_000f64.ln()) * i as f64 / (half as f64 - 1.0)).exp();
        let waves = (0..half).map(|i| angle(i).sin()).chain((0..half).map(|i| angle(i).cos()));
        waves.map(|x| x as f32).chain([0.0]).take(width).collect()
    }
}

/// What follows the product with the head's matrix.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Head {
    /// A bias a token.
    #[serde(default, skip_serializing_if = "is_default")]
    pub bias: bool,
    /// Logits become `softcap · tanh(logit / softcap)`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub softcap: Option<f32>,
}

/// Ids that begin and end a text.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SpecialTokens {
    /// The model's BOS token. Protocols that call for one put it before each window, whether or
    /// not the tokenizer puts it before a text.
    pub bos: Option<u32>,
    /// Any of these ends a text.
    pub eos: Vec<u32>,
    /// Token ids that the tokenizer puts before a text; `None` for `bos` alone. Often empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix: Option<Vec<u32>>,
}

impl SpecialTokens {
    /// The tokens that go before a text: those that the tokenizer puts; `bos` where there was
    /// no tokenizer to ask.
    pub fn prefix(&self) -> &[u32] {
        self.prefix.as_deref().unwrap_or(self.bos.as_slice())
    }

    /// Sets what goes before a text.
    pub fn set_prefix(&mut self, ids: &[u32]) {
        self.prefix = (ids != self.bos.as_slice()).then(|| ids.to_vec());
    }

    /// Adds tokens that end a text.
    pub fn add_eos(&mut self, ids: impl IntoIterator<Item = u32>) {
        for id in ids {
            if !self.eos.contains(&id) {
                self.eos.push(id);
            }
        }
    }
}

impl ModelSpec {
    /// Every attention of every block.
    pub fn attentions_mut(&mut self) -> impl Iterator<Item = &mut Attention> {
        self.sub_layers_mut().filter_map(|sub_layer| match &mut sub_layer.op {
            Op::Attention(attention) => Some(attention),
            Op::Wkv(_) | Op::FeedForward(_) => None,
        })
    }

    /// Every sub-layer of every block.
    pub fn sub_layers_mut(&mut self) -> impl Iterator<Item = &mut SubLayer> {
        self.blocks.iter_mut().flat_map(|block| &mut block.sub_layers)
    }

    /// Every feed-forward of every block.
    pub fn feed_forwards_mut(&mut self) -> impl Iterator<Item = &mut FeedForward> {
        self.sub_layers_mut().filter_map(|sub_layer| match &mut sub_layer.op {
            Op::FeedForward(ffn) => Some(ffn),
            Op::Attention(_) | Op::Wkv(_) => None,
        })
    }

    /// Every attention of every block.
    pub fn attentions(&self) -> impl Iterator<Item = &Attention> {
        self.blocks.iter().flat_map(|block| &block.sub_layers).filter_map(|sub_layer| match &sub_layer.op {
            Op::Attention(attention) => Some(attention),
            Op::Wkv(_) | Op::FeedForward(_) => None,
        })
    }
}

/// RWKV's time mixing: each channel keeps a mean of the values seen, weighted by
/// exp(key), that fades with time. Keys, values and receptances read mixtures of
/// this token and the one before.
///
/// Source: RWKV (Peng et al. 2023, section 3.1.2, equations 11 to 20).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wkv {
    /// Channels of the state.
    pub width: usize,
}
