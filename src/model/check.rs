//! Checks that a spec makes sense by itself. Specs come from configurations and file
//! headers that anyone may have written; what passes here cannot overflow a size
//! or divide by zero further up.

use super::{ModelSpec, SpecError};
use crate::spec::{
    Attention, Block, Embedding, FeedForward, Gate, Head, Mask, Norm, Op, Positions, Rotary, RotaryScaling, SubLayer, SubLayerInput,
};
use std::collections::BTreeSet;

/// Blocks of a model at most, far above any there is.
pub const MAX_BLOCKS: usize = 1 << 12;
/// Sub-layers of a block at most.
const MAX_SUB_LAYERS: usize = 64;
/// Greatest vocabulary, and greatest width of anything: a matrix of this by this
/// in f32 still counts its bytes in 64 bits.
pub const MAX_WIDTH: usize = 1 << 24;

type Checked = Result<(), SpecError>;

impl ModelSpec {
    /// Fails with the reason where no such model can be.
    pub fn check(&self) -> Checked {
        size("vocab_size", self.vocab_size, MAX_WIDTH)?;
        size("hidden_size", self.hidden_size, MAX_WIDTH)?;
        size("the embedding's width", self.embedding_width(), MAX_WIDTH)?;
        size("context", self.context, u32::MAX as usize)?;
        size("the number of blocks", self.blocks.len(), MAX_BLOCKS)?;
        for (i, block) in self.blocks.iter().enumerate() {
            block.check().and_then(|()| self.check_sharing(i)).map_err(SpecError::at(format!("block {i}")))?;
        }
        // All of them are named, so that one that is added cannot be forgotten here.
        let Embedding { width: _, scale, positions, norm: embedding_norm } = &self.embedding;
        let Head { bias: _, softcap } = &self.head;
        norm("embedding norm", embedding_norm)?;
        norm("final norm", &self.final_norm)?;
        optional("the embedding's scale", *scale)?;
        optional("the logits' softcap", *softcap)?;
        let turning_points: BTreeSet<usize> =
            self.attentions().filter_map(|attention| attention.rotary.as_ref()?.scaling.turning_point()).collect();
        if turning_points.len() > 1 {
            return Err(SpecError::TurningPoints(turning_points));
        }
        match *positions {
            Positions::Learned => size("the table of positions", self.context, MAX_WIDTH)?,
            Positions::Sinusoidal { first } => {
                size("the first position", first.saturating_add(1), MAX_WIDTH)?;
                if self.hidden_size < 4 {
                    return Err(SpecError::SinusoidalWidth(self.hidden_size));
                }
            }
            Positions::None => (),
        }
        match self.special.bos {
            Some(bos) if bos as usize >= self.vocab_size => Err(SpecError::Bos { bos, vocab_size: self.vocab_size }),
            _ => Ok(()),
        }
    }

    /// Weights can be shared only with a block that came before, has its own, and is
    /// of the same shape.
    fn check_sharing(&self, i: usize) -> Checked {
        let block = &self.blocks[i];
        let shared_ffn = |block: &Block| block.feed_forward().and_then(|ffn| ffn.weights_of);
        let owner = |j: usize| match self.blocks.get(j).filter(|_| j < i) {
            Some(owner) if owner.weights_of.is_none() && shared_ffn(owner).is_none() => Ok(owner),
            _ => Err(SpecError::Owner(j)),
        };
        let own_ffn = block.feed_forward().map(|ffn| FeedForward { weights_of: None, ..ffn.clone() });
        let alike = match (block.weights_of, shared_ffn(block)) {
            (None, None) => true,
            (Some(j), None) => Block { weights_of: None, ..block.clone() } == *owner(j)?,
            (None, Some(j)) => own_ffn.as_ref() == owner(j)?.feed_forward(),
            (Some(_), Some(_)) => false,
        };
        if alike { Ok(()) } else { Err(SpecError::Rule("it shares the weights of a block that is not like it")) }
    }
}

impl Block {
    fn check(&self) -> Checked {
        size("the number of sub-layers", self.sub_layers.len(), MAX_SUB_LAYERS)?;
        for (i, sub_layer) in self.sub_layers.iter().enumerate() {
            // Every field is named, so that none that is added can be forgotten here.
            let SubLayer { input, norm: input_norm, op, output_norm, sum_norm } = sub_layer;
            match op {
                Op::Attention(attention) => attention.check()?,
                Op::Wkv(wkv) => size("the width of the recurrent state", wkv.width, MAX_WIDTH)?,
                Op::FeedForward(ffn) => ffn.check()?,
            }
            if *input == SubLayerInput::SharedNorm && input_norm.is_some() {
                return Err(SpecError::Rule("a sub-layer that reads through the norm of the one before it has none of its own"));
            }
            if i == 0 && *input != SubLayerInput::HiddenStates {
                return Err(SpecError::Rule("its first sub-layer reads the hidden states, for there is none before it"));
            }
            let looks_back = matches!(op, Op::FeedForward(ffn) if ffn.gate == Gate::Receptance);
            let norms_before = self.sub_layers[..i].iter().any(|other| other.sum_norm.is_some());
            if *input != SubLayerInput::HiddenStates && (norms_before || looks_back) {
                return Err(SpecError::Rule("sub-layers side by side leave no place for a norm or a token between them"));
            }
            [input_norm, output_norm, sum_norm].into_iter().try_for_each(|n| norm("a norm", n))?;
        }
        let shares = |sub_layer: &SubLayer| matches!(&sub_layer.op, Op::FeedForward(ffn) if ffn.weights_of.is_some());
        if self.repeats_a_kind() && self.sub_layers.iter().any(shares) {
            return Err(SpecError::Rule("it has several sub-layers of a kind and shares one with another block"));
        }
        Ok(())
    }
}

impl FeedForward {
    fn check(&self) -> Checked {
        let Self { width, gate: _, activation: _, bias: _, hidden_norm, weights_of: _ } = self;
        size("the feed-forward's width", *width, MAX_WIDTH)?;
        norm("the hidden norm", hidden_norm)
    }
}

impl Attention {
    fn check(&self) -> Checked {
        let Self {
            n_heads,
            n_kv_heads,
            head_dim,
            scale,
            rotary,
            alibi,
            mask,
            qkv_bias: _,
            output_bias: _,
            qkv_clip,
            qk_norm,
            query_growth,
            softcap,
            context_norm,
        } = self;
        let (n_heads, n_kv_heads, head_dim) = (*n_heads, *n_kv_heads, *head_dim);
        size("the number of heads", n_heads, MAX_WIDTH)?;
        size("the number of kv heads", n_kv_heads, MAX_WIDTH)?;
        size("head_dim", head_dim, MAX_WIDTH)?;
        if !n_heads.is_multiple_of(n_kv_heads) {
            return Err(SpecError::KvHeads { n_heads, n_kv_heads });
        }
        if n_heads.checked_mul(head_dim).is_none_or(|width| width > MAX_WIDTH) {
            return Err(SpecError::WideHeads { n_heads, head_dim, max: MAX_WIDTH });
        }
        if *mask == Mask::Window(0) {
            return Err(SpecError::Rule("a window of 0 tokens sees nothing"));
        }
        if !alibi.is_empty() && alibi.len() != n_heads {
            return Err(SpecError::AlibiSlopes { slopes: alibi.len(), n_heads });
        }
        if alibi.iter().any(|slope| !slope.is_finite()) {
            return Err(SpecError::Rule("an ALiBi slope is not a number"));
        }
        positive("the scale of attention", f64::from(*scale))?;
        optional("the clip of q, k and v", *qkv_clip)?;
        optional("the scores' softcap", *softcap)?;
        norm("the context norm", context_norm)?;
        if let Some(qk_norm) = qk_norm {
            qk_norm.norm.check()?;
        }
        if let Some(growth) = query_growth {
            size("the positions between two steps of the queries' growth", growth.every, u32::MAX as usize)?;
            positive("the queries' growth", growth.beta.into())?;
        }
        rotary.as_ref().map_or(Ok(()), |rotary| rotary.check(head_dim))
    }
}

impl Rotary {
    fn check(&self, head_dim: usize) -> Checked {
        positive("rope theta", self.theta)?;
        if self.steps == Some(0) {
            return Err(SpecError::Rule("rotary tables cannot be rounded to 0 steps"));
        }
        let dims = self.dims(head_dim);
        if !dims.is_multiple_of(2) || dims == 0 || dims > head_dim {
            return Err(match self.dims {
                None => SpecError::OddHeadDim(head_dim),
                Some(_) => SpecError::RotaryDims { dims, head_dim },
            });
        }
        match &self.scaling {
            RotaryScaling::None => Ok(()),
            RotaryScaling::Linear { factor } => positive("rope factor", *factor),
            RotaryScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } => {
                positive("rope factor", *factor)?;
                positive("rope low_freq_factor", *low_freq_factor)?;
                positive("rope high_freq_factor", *high_freq_factor)?;
                positive("rope original context", *original_context)?;
                if low_freq_factor < high_freq_factor {
                    return Ok(());
                }
                Err(SpecError::RopeFrequencies { low: *low_freq_factor, high: *high_freq_factor })
            }
            RotaryScaling::Yarn { factor, ramp_start, ramp_end, amplitude } => {
                positive("rope factor", *factor)?;
                positive("rope amplitude", *amplitude)?;
                if ramp_start.is_finite() && ramp_end.is_finite() && ramp_start < ramp_end {
                    return Ok(());
                }
                Err(SpecError::RopeRamp { start: *ramp_start, end: *ramp_end })
            }
            RotaryScaling::LongRope { short, long, original_context, amplitude } => {
                size("rope original context", *original_context, u32::MAX as usize)?;
                positive("rope amplitude", *amplitude)?;
                for (name, factors) in [("short_factor", short), ("long_factor", long)] {
                    if factors.len() != dims / 2 {
                        return Err(SpecError::RopeFactors { name, found: factors.len(), dims });
                    }
                    factors.iter().try_for_each(|&f| positive(&format!("rope {name}"), f))?;
                }
                Ok(())
            }
        }
    }
}

impl Norm {
    fn check(&self) -> Checked {
        positive("the norm's epsilon", self.epsilon)
    }
}

fn norm(what: &str, norm: &Option<Norm>) -> Checked {
    norm.as_ref().map_or(Ok(()), |norm| norm.check().map_err(SpecError::at(what)))
}

fn size(what: &'static str, value: usize, max: usize) -> Checked {
    if (1..=max).contains(&value) { Ok(()) } else { Err(SpecError::Size { what, value, max }) }
}

fn optional(what: &str, value: Option<f32>) -> Checked {
    value.map_or(Ok(()), |value| positive(what, value.into()))
}

fn positive(what: &str, value: f64) -> Checked {
    if value > 0.0 && value.is_finite() { Ok(()) } else { Err(SpecError::NotPositive { what: what.to_owned(), value }) }
}
