//! Norms that BitNet has and others have not: one of the contexts before `attn.o`, one of
//! the feed-forward's hidden numbers before `ffn.down`.

use super::ModelSpec;
use super::spec::{Mixer, Norm};

/// What they keep a quotient finite with.
const EPSILON: f64 = 1e-5;

impl ModelSpec {
    /// The same with those norms before linear layers, by canonical name, that are wanted to
    /// have one; where there is one already, it stays.
    pub fn with_sub_norms(&self, wanted: impl Fn(&str) -> bool) -> Result<Self, String> {
        let mut spec = self.clone();
        for (i, block) in spec.blocks.iter_mut().enumerate() {
            let Mixer::Attention(attention) = &mut block.mixer else {
                return Err(format!("sub_norms: block {i} has no attention to insert a norm into; leave it out"));
            };
            if block.weights_of.is_some() || block.ffn.weights_of.is_some() {
                return Err(format!("sub_norms: block {i} shares weights with another; leave it out"));
            }
            for (role, norm) in [("attn.o", &mut attention.context_norm), ("ffn.down", &mut block.ffn.hidden_norm)] {
                if wanted(&self.block_name(i, role)) {
                    norm.get_or_insert(Norm::rms(EPSILON));
                }
            }
        }
        Ok(spec)
    }
}
