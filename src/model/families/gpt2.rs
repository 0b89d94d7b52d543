//! `gpt2` (Cerebras-GPT and LaMini-GPT too): learned positions, layer norm before
//! mixer and feed-forward, attention with biases, a feed-forward without a gate,
//! the embedding as the head. Matrices are stored `[in, out]`, and q, k and v
//! under each other in one.
//!
//! `reorder_and_upcast_attn` computes the same in another order.
//!
//! Source: transformers, `configuration_gpt2.py` and `modeling_gpt2.py`.

use super::{At, Config, Family, Names};
use crate::error::Result;
use crate::model::ModelSpec;
use crate::spec::{Attention, Block, Embedding, FeedForward, Norm, Op, Positions};

/// The row of this family.
pub const FAMILY: Family =
    Family { model_type: "gpt2", models: "GPT-2, Cerebras-GPT, LaMini-GPT, Megatron-LM's GPT", spec, names: &NAMES, settle: None };

const QKV: At = At::Fused("attn.c_attn", &["attn.q", "attn.k", "attn.v"]);

const NAMES: Names = Names {
    blocks: "transformer.h",
    block: &[
        ("attn_norm", At::Module("ln_1")),
        ("attn.q", QKV),
        ("attn.k", QKV),
        ("attn.v", QKV),
        ("attn.o", At::Module("attn.c_proj")),
        ("ffn_norm", At::Module("ln_2")),
        ("ffn.up", At::Module("mlp.c_fc")),
        ("ffn.down", At::Module("mlp.c_proj")),
    ],
    outside: &OUTSIDE,
    transposed: true,
};

/// Outside the blocks, in GPT-Neo too.
pub(super) const OUTSIDE: [(&str, At); 4] = [
    ("embeddings", At::Module("transformer.wte")),
    ("positions", At::Module("transformer.wpe")),
    ("final_norm", At::Module("transformer.ln_f")),
    ("head", At::Module("lm_head")),
];

fn spec(config: &Config) -> Result<ModelSpec> {
    config.refuse("add_cross_attention", "only models without an encoder are supported")?;
    let hidden_size = config.size_or(config.either(&["hidden_size", "n_embd"]), 768)?;
    let (n_heads, head_dim) = config.even_heads(config.either(&["num_attention_heads", "n_head"]), 12, hidden_size)?;
    let vocab_size = config.size_or("vocab_size", 50_257)?;
    let scaled = config.flag_or("scale_attn_weights", true)?;
    let scaled_by_block = config.flag_or("scale_attn_by_inverse_layer_idx", false)?;
    let norm = Norm::layer(config.positive_or("layer_norm_epsilon", 1e-5)?);
    let ffn = FeedForward::plain(config.size_or("n_inner", 4 * hidden_size)?, config.activation("activation_function", "gelu_new")?);
    let block = |i: usize| {
        let mut attention = Attention { qkv_bias: true, output_bias: true, ..Attention::new(n_heads, n_heads, head_dim) };
        if !scaled {
            attention.scale = 1.0;
        }
        if scaled_by_block {
            attention.scale /= (i + 1) as f32;
        }
        Block::pre_norm(norm.clone(), Op::Attention(attention), ffn.clone())
    };
    Ok(ModelSpec {
        family: "gpt2".to_owned(),
        vocab_size,
        hidden_size,
        context: config.size_or(config.either(&["max_position_embeddings", "n_positions"]), 1024)?,
        embedding: Embedding { positions: Positions::Learned, ..Embedding::default() },
        blocks: (0..config.blocks_or(config.either(&["num_hidden_layers", "n_layer"]), 12)?).map(block).collect(),
        final_norm: Some(norm),
        tied: config.flag_or("tie_word_embeddings", true)?,
        head: Default::default(),
        special: config.special_tokens_or(50_256, 50_256, vocab_size)?,
    })
}
