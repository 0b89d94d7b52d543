//! Whether a spec makes sense by itself. Specs come from configurations and file
//! headers that anyone may have written; what passes here cannot overflow a size
//! or divide by zero further up.

use super::ModelSpec;
use super::spec::{Attention, Block, Mixer, Norm, Rotary, RotaryScaling};

/// Blocks of a model at most, far above any there is.
pub const MAX_BLOCKS: usize = 1 << 12;
/// Greatest vocabulary, and greatest width of anything: a matrix of this by this
/// in f32 still counts its bytes in 64 bits.
pub const MAX_WIDTH: usize = 1 << 24;

type Checked = Result<(), String>;

impl ModelSpec {
    /// Fails with the reason where no such model can be.
    pub fn check(&self) -> Checked {
        size("vocab_size", self.vocab_size, MAX_WIDTH)?;
        size("hidden_size", self.hidden_size, MAX_WIDTH)?;
        size("context", self.context, u32::MAX as usize)?;
        size("the number of blocks", self.blocks.len(), MAX_BLOCKS)?;
        for (i, block) in self.blocks.iter().enumerate() {
            block.check().map_err(|reason| format!("block {i}: {reason}"))?;
        }
        self.final_norm.check().map_err(|reason| format!("final norm: {reason}"))?;
        match self.special.bos {
            Some(bos) if bos as usize >= self.vocab_size => {
                Err(format!("the beginning-of-text token is {bos}, but the vocabulary has {} tokens", self.vocab_size))
            }
            _ => Ok(()),
        }
    }
}

impl Block {
    fn check(&self) -> Checked {
        let Mixer::Attention(attention) = &self.mixer;
        attention.check()?;
        size("the feed-forward's width", self.ffn.width, MAX_WIDTH)?;
        self.mixer_norm.check()?;
        self.ffn_norm.check()
    }
}

impl Attention {
    fn check(&self) -> Checked {
        let Self { n_heads, n_kv_heads, head_dim, .. } = *self;
        size("the number of heads", n_heads, MAX_WIDTH)?;
        size("the number of kv heads", n_kv_heads, MAX_WIDTH)?;
        size("head_dim", head_dim, MAX_WIDTH)?;
        if !n_heads.is_multiple_of(n_kv_heads) {
            return Err(format!("{n_heads} heads cannot share {n_kv_heads} kv heads: the first must be a multiple of the second"));
        }
        if !head_dim.is_multiple_of(2) {
            return Err(format!("head_dim is {head_dim}; rotary positions turn pairs, so it must be even"));
        }
        if n_heads.checked_mul(head_dim).is_none_or(|width| width > MAX_WIDTH) {
            return Err(format!("{n_heads} heads of {head_dim} are wider than {MAX_WIDTH}"));
        }
        if self.window == Some(0) {
            return Err("a window of 0 tokens sees nothing".into());
        }
        positive("the scale of attention", self.scale.into())?;
        self.rotary.check()
    }
}

impl Rotary {
    fn check(&self) -> Checked {
        positive("rope theta", self.theta)?;
        match self.scaling {
            RotaryScaling::None => Ok(()),
            RotaryScaling::Linear { factor } => positive("rope factor", factor),
            RotaryScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } => {
                positive("rope factor", factor)?;
                positive("rope low_freq_factor", low_freq_factor)?;
                positive("rope high_freq_factor", high_freq_factor)?;
                positive("rope original context", original_context)?;
                if low_freq_factor < high_freq_factor {
                    return Ok(());
                }
                Err(format!("rope low_freq_factor {low_freq_factor} must be below high_freq_factor {high_freq_factor}"))
            }
        }
    }
}

impl Norm {
    fn check(&self) -> Checked {
        positive("the norm's epsilon", self.epsilon)
    }
}

fn size(what: &str, value: usize, greatest: usize) -> Checked {
    if (1..=greatest).contains(&value) { Ok(()) } else { Err(format!("{what} is {value}; it must be from 1 to {greatest}")) }
}

fn positive(what: &str, value: f64) -> Checked {
    if value > 0.0 && value.is_finite() { Ok(()) } else { Err(format!("{what} is {value}; it must be a positive number")) }
}
