//! `llama`, so TinyLlama, SmolLM2, Llama 3.2 and many more: RMS norm before mixer and
//! feed-forward, grouped-query attention with rotary positions, gated feed-forward.
//!
//! Source: transformers, `configuration_llama.py` and `modeling_llama.py`.

use super::rope::{self, RotaryKeys};
use super::{At, Config, Family, Names};
use crate::error::Result;
use crate::model::ModelSpec;
use crate::spec::{Attention, Block, FeedForward, Norm, Op};
use serde_json::json;

/// The row of this family.
pub const FAMILY: Family =
    Family { model_type: "llama", models: "TinyLlama, SmolLM2, AMD-Llama-135m, Llama 3.2", spec: llama, names: &NAMES, settle: None };

/// Names that many families have.
pub(super) const NAMES: Names = Names { blocks: "model.layers", block: &BLOCK, outside: &OUTSIDE, transposed: false };

const BLOCK: [(&str, At); 11] = [
    ("attn_norm", At::Module("input_layernorm")),
    ("attn.q", At::Module("self_attn.q_proj")),
    ("attn.k", At::Module("self_attn.k_proj")),
    ("attn.v", At::Module("self_attn.v_proj")),
    ("attn.o", At::Module("self_attn.o_proj")),
    ("attn.q_norm", At::Module("self_attn.q_norm")),
    ("attn.k_norm", At::Module("self_attn.k_norm")),
    ("ffn_norm", At::Module("post_attention_layernorm")),
    ("ffn.gate", At::Module("mlp.gate_proj")),
    ("ffn.up", At::Module("mlp.up_proj")),
    ("ffn.down", At::Module("mlp.down_proj")),
];

/// Outside the blocks.
pub(super) const OUTSIDE: [(&str, At); 3] =
    [("embeddings", At::Module("model.embed_tokens")), ("final_norm", At::Module("model.norm")), ("head", At::Module("lm_head"))];

/// Defaults of the configuration class.
fn llama(config: &Config) -> Result<ModelSpec> {
    spec(&config.or(json!({ "bos_token_id": 1, "eos_token_id": 2 })))
}

/// Reads a configuration with the keys of `llama`; kin start from it.
pub(super) fn spec(config: &Config) -> Result<ModelSpec> {
    spec_with(config, Norm::rms(config.positive_or("rms_norm_eps", 1e-6)?), &RotaryKeys::WHOLE)
}

/// Reads a configuration with the keys of `llama`, but with other norms and rotary keys.
pub(super) fn spec_with(config: &Config, norm: Norm, keys: &RotaryKeys) -> Result<ModelSpec> {
    let hidden_size = config.size("hidden_size")?;
    let (n_heads, head_dim) = config.heads("num_attention_heads", hidden_size)?;
    let n_kv_heads = config.size_or("num_key_value_heads", n_heads)?;
    let attention_bias = config.flag_or("attention_bias", false)?;
    let attention = Attention {
        rotary: Some(rope::rotary(config, head_dim, keys)?),
        qkv_bias: attention_bias,
        output_bias: attention_bias,
        ..Attention::new(n_heads, n_kv_heads, head_dim)
    };
    let ffn = FeedForward {
        bias: config.flag_or("mlp_bias", false)?,
        ..FeedForward::gated(config.size("intermediate_size")?, config.activation("hidden_act", "silu")?)
    };
    let block = Block::pre_norm(norm.clone(), Op::Attention(attention), ffn);
    Ok(ModelSpec {
        family: config.string("model_type")?.to_owned(),
        vocab_size: config.size("vocab_size")?,
        hidden_size,
        context: config.size_or("max_position_embeddings", 2048)?,
        embedding: Default::default(),
        blocks: vec![block; config.blocks("num_hidden_layers")?],
        final_norm: Some(norm),
        tied: config.flag_or("tie_word_embeddings", false)?,
        head: Default::default(),
        special: config.special_tokens()?,
    })
}
