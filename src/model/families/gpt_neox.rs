//! `gpt_neox` (Pythia): attention and feed-forward side by side, each through a
//! layer norm of its own, rotary positions on the first quarter of each head,
//! biases, a head of its own. One matrix holds q, k and v, head by head.
//!
//! Source: transformers, `configuration_gpt_neox.py` and `modeling_gpt_neox.py`.

use super::rope::{self, RotaryKeys};
use super::{At, Config, Family, Names};
use crate::error::Result;
use crate::model::ModelSpec;
use crate::spec::{Attention, Block, FeedForward, Norm, Op};

/// The row of this family.
pub const FAMILY: Family = Family { model_type: "gpt_neox", models: "Pythia, GPT-NeoX", spec, names: &NAMES, settle: None };

const QKV: At = At::ByHead("attention.query_key_value", &["attn.q", "attn.k", "attn.v"]);

const NAMES: Names = Names {
    blocks: "gpt_neox.layers",
    block: &[
        ("attn_norm", At::Module("input_layernorm")),
        ("attn.q", QKV),
        ("attn.k", QKV),
        ("attn.v", QKV),
        ("attn.o", At::Module("attention.dense")),
        ("ffn_norm", At::Module("post_attention_layernorm")),
        ("ffn.up", At::Module("mlp.dense_h_to_4h")),
        ("ffn.down", At::Module("mlp.dense_4h_to_h")),
    ],
    outside: &[
        ("embeddings", At::Module("gpt_neox.embed_in")),
        ("final_norm", At::Module("gpt_neox.final_layer_norm")),
        ("head", At::Module("embed_out")),
    ],
    transposed: false,
};

const ROTARY: RotaryKeys = RotaryKeys { theta: "rotary_emb_base", share: Some(("rotary_pct", 0.25)), ..RotaryKeys::WHOLE };

fn spec(config: &Config) -> Result<ModelSpec> {
    let hidden_size = config.size_or("hidden_size", 6144)?;
    let (n_heads, head_dim) = config.even_heads("num_attention_heads", 64, hidden_size)?;
    let vocab_size = config.size_or("vocab_size", 50_432)?;
    let norm = Norm::layer(config.positive_or("layer_norm_eps", 1e-5)?);
    let attention_bias = config.flag_or("attention_bias", true)?;
    let attention = Attention {
        rotary: Some(rope::rotary(config, head_dim, &ROTARY)?),
        qkv_bias: attention_bias,
        output_bias: attention_bias,
        ..Attention::new(n_heads, n_heads, head_dim)
    };
    let ffn = FeedForward::plain(config.size_or("intermediate_size", 24_576)?, config.activation("hidden_act", "gelu")?);
    let parallel = config.flag_or("use_parallel_residual", true)?;
    let block = Block::pre_norm(norm.clone(), Op::Attention(attention), ffn);
    let block = if parallel { block.parallel(false) } else { block };
    Ok(ModelSpec {
        family: "gpt_neox".to_owned(),
        vocab_size,
        hidden_size,
        context: config.size_or("max_position_embeddings", 2048)?,
        embedding: Default::default(),
        blocks: vec![block; config.blocks_or("num_hidden_layers", 44)?],
        final_norm: Some(norm),
        tied: config.flag_or("tie_word_embeddings", false)?,
        head: Default::default(),
        special: config.special_tokens_or(0, 2, vocab_size)?,
    })
}
