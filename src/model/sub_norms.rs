//! Norms that BitNet has and others have not: one of the contexts before `attn.o`, one of
//! the feed-forward's hidden numbers before `ffn.down`.

use super::{ModelSpec, SpecError};
use crate::forward::names::{attn, ffn};
use crate::spec::{Norm, Op};

/// What they keep a quotient finite with.
const EPSILON: f64 = 1e-5;

impl ModelSpec {
    /// The same with those norms before linear layers, by canonical name, that are wanted to
    /// have one; where there is one already, it stays.
    pub fn with_sub_norms(&self, wanted: impl Fn(&str) -> bool) -> Result<Self, SpecError> {
        let mut spec = self.clone();
        self.check_one_of_a_kind()?;
        for (i, block) in spec.blocks.iter_mut().enumerate() {
            if block.attention().is_none() {
                return Err(SpecError::SubNormWithoutAttention(i));
            }
            if block.weights_of.is_some() || block.feed_forward().is_some_and(|ffn| ffn.weights_of.is_some()) {
                return Err(SpecError::SubNormOfShared(i));
            }
            for sub_layer in &mut block.sub_layers {
                let (before, norm) = match &mut sub_layer.op {
                    Op::Attention(attention) => (attn::O, &mut attention.context_norm),
                    Op::FeedForward(ffn) => (ffn::DOWN, &mut ffn.hidden_norm),
                    Op::Wkv(_) => continue,
                };
                if wanted(&self.block_name(i, before)) {
                    norm.get_or_insert(Norm::rms(EPSILON));
                }
            }
        }
        Ok(spec)
    }
}
