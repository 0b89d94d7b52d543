//! `openelm`: blocks of differing widths. The number of heads and the width of the
//! feed-forward follow from multipliers that grow from the first block to the
//! last; queries and keys are normed by head.
//!
//! Source: apple/OpenELM, `configuration_openelm.py` and `modeling_openelm.py`.

use super::rope::{self, RotaryKeys};
use super::{At, Config, Family, Names};
use crate::error::Result;
use crate::model::ModelSpec;
use crate::spec::{Attention, Block, FeedForward, Gate, Norm, Op, QkNorm, QkSpan};
use serde_json::Value;

/// The row of this family.
pub const FAMILY: Family = Family { model_type: "openelm", models: "OpenELM", spec, names: &NAMES, settle: None };

const QKV: At = At::Fused("attn.qkv_proj", &["attn.q", "attn.k", "attn.v"]);

const NAMES: Names = Names {
    blocks: "transformer.layers",
    block: &[
        ("attn_norm", At::Module("attn_norm")),
        ("attn.q", QKV),
        ("attn.k", QKV),
        ("attn.v", QKV),
        ("attn.q_norm", At::Module("attn.q_norm")),
        ("attn.k_norm", At::Module("attn.k_norm")),
        ("attn.o", At::Module("attn.out_proj")),
        ("ffn_norm", At::Module("ffn_norm")),
        ("ffn.gate", At::Fused("ffn.proj_1", &["ffn.gate", "ffn.up"])),
        // The only rows where there is no gate.
        ("ffn.up", At::Fused("ffn.proj_1", &["ffn.gate", "ffn.up"])),
        ("ffn.down", At::Module("ffn.proj_2")),
    ],
    outside: &[
        ("embeddings", At::Module("transformer.token_embeddings")),
        ("final_norm", At::Module("transformer.norm")),
        ("head", At::Module("lm_head")),
    ],
    transposed: false,
};

const ROTARY: RotaryKeys = RotaryKeys { theta: "rope_freq_constant", ..RotaryKeys::partial(1.0) };

fn spec(config: &Config) -> Result<ModelSpec> {
    let hidden_size = config.size("model_dim")?;
    let head_dim = config.size("head_dim")?;
    let groups = config.size_or("num_gqa_groups", 1)?;
    let divisor = config.size_or("ffn_dim_divisor", 256)?;
    let n_blocks = config.blocks("num_transformer_layers")?;
    let kind = config.string_or("normalization_layer_name", "rms_norm")?;
    if kind != "rms_norm" {
        return Err(config.error(format!("normalization_layer_name \"{kind}\" is not known; known is rms_norm")));
    }
    // No key changes its epsilon.
    let norm = Norm::rms(1e-6);
    let qk_norm = config.flag_or("normalize_qk_projections", false)?.then(|| QkNorm { norm: norm.clone(), span: QkSpan::Head });
    let rotary = rope::rotary(config, head_dim, &ROTARY)?;
    let gate = if config.flag_or("ffn_with_glu", true)? { Gate::Hidden } else { Gate::None };
    let activation = config.activation("activation_fn_name", "swish")?;
    let widths =
        multipliers(config, "qkv_multipliers", 1.0, n_blocks)?.into_iter().zip(multipliers(config, "ffn_multipliers", 4.0, n_blocks)?);
    let block = |(qkv, ffn): (f64, f64)| {
        let n_heads = to_multiple(hidden_size as f64 * qkv, head_dim.saturating_mul(groups)) / head_dim;
        let attention =
            Attention { rotary: Some(rotary.clone()), qk_norm: qk_norm.clone(), ..Attention::new(n_heads, n_heads / groups, head_dim) };
        let ffn = FeedForward { gate, ..FeedForward::gated(to_multiple(hidden_size as f64 * ffn, divisor), activation) };
        Block::pre_norm(norm.clone(), Op::Attention(attention), ffn)
    };
    Ok(ModelSpec {
        family: "openelm".to_owned(),
        vocab_size: config.size_or("vocab_size", 32_000)?,
        hidden_size,
        context: config.size_or("max_context_length", 2048)?,
        embedding: Default::default(),
        blocks: widths.map(block).collect(),
        final_norm: Some(norm.clone()),
        tied: config.flag_or("share_input_output_layers", false)?,
        head: Default::default(),
        special: config.special_tokens()?,
    })
}

/// One number a block: from one for all, from those of the first and the last, or
/// from a list of all.
fn multipliers(config: &Config, key: &str, otherwise: f64, n_blocks: usize) -> Result<Vec<f64>> {
    let positive = |v: &Value| v.as_f64().filter(|&x| x > 0.0 && x.is_finite());
    let read = |v: &Value| v.as_array().map_or_else(|| positive(v).map(|x| vec![x]), |all| all.iter().map(positive).collect());
    let given = config.optional(key, "a positive number or a list of them", read)?.unwrap_or_else(|| vec![otherwise]);
    match given[..] {
        [all] => Ok(vec![all; n_blocks]),
        [first, last] => {
            let step = (last - first) / (n_blocks.max(2) - 1) as f64;
            Ok((0..n_blocks).map(|i| ((first + step * i as f64) * 100.0).round_ties_even() / 100.0).collect())
        }
        _ if given.len() == n_blocks => Ok(given),
        _ => Err(config.error(format!("\"{key}\" has {} numbers for {n_blocks} blocks", given.len()))),
    }
}

/// The nearest multiple that is not 0, or the next where that one falls short by
/// more than a tenth.
fn to_multiple(value: f64, of: usize) -> usize {
    let nearest = ((value + (of / 2) as f64) as usize / of * of).max(of);
    if (nearest as f64) < 0.9 * value { nearest.saturating_add(of) } else { nearest }
}
