//! `xglm`: an embedding multiplied by the root of its width, sinusoidal positions
//! that count from 2, layer norm before mixer and feed-forward, biases on all, a
//! feed-forward without a gate, the embedding as the head.
//!
//! The norms' epsilon is torch's own, 1e-5; no key changes it.
//!
//! Source: transformers, `configuration_xglm.py` and `modeling_xglm.py`.

use super::{At, Config, Family, Names};
use crate::error::Result;
use crate::model::ModelSpec;
use crate::spec::{Attention, Block, Embedding, FeedForward, Norm, Op, Positions};

/// The row of this family.
pub const FAMILY: Family = Family { model_type: "xglm", models: "XGLM", spec, names: &NAMES, settle: None };

const NAMES: Names = Names {
    blocks: "model.layers",
    block: &[
        ("attn_norm", At::Module("self_attn_layer_norm")),
        ("attn.q", At::Module("self_attn.q_proj")),
        ("attn.k", At::Module("self_attn.k_proj")),
        ("attn.v", At::Module("self_attn.v_proj")),
        ("attn.o", At::Module("self_attn.out_proj")),
        ("ffn_norm", At::Module("final_layer_norm")),
        ("ffn.up", At::Module("fc1")),
        ("ffn.down", At::Module("fc2")),
    ],
    outside: &[
        ("embeddings", At::Module("model.embed_tokens")),
        ("final_norm", At::Module("model.layer_norm")),
        ("head", At::Module("lm_head")),
    ],
    transposed: false,
};

/// Number of the first position.
const FIRST: usize = 2;

fn spec(config: &Config) -> Result<ModelSpec> {
    config.refuse("add_cross_attention", "only models without an encoder are supported")?;
    check_padding(config)?;
    let hidden_size = config.size_or(config.either(&["hidden_size", "d_model"]), 1024)?;
    let (n_heads, head_dim) = config.even_heads(config.either(&["num_attention_heads", "attention_heads"]), 16, hidden_size)?;
    let vocab_size = config.size_or("vocab_size", 256_008)?;
    let scaled = config.flag_or("scale_embedding", true)?;
    let norm = Norm::layer(1e-5);
    let attention = Attention { qkv_bias: true, output_bias: true, ..Attention::new(n_heads, n_heads, head_dim) };
    let ffn = FeedForward::plain(config.size_or("ffn_dim", 4096)?, config.activation("activation_function", "gelu")?);
    let block = Block::pre_norm(norm.clone(), Op::Attention(attention), ffn);
    Ok(ModelSpec {
        family: "xglm".to_owned(),
        vocab_size,
        hidden_size,
        context: config.size_or("max_position_embeddings", 2048)?,
        embedding: Embedding {
            scale: scaled.then(|| (hidden_size as f64).sqrt() as f32),
            positions: Positions::Sinusoidal { first: FIRST },
            ..Embedding::default()
        },
        blocks: vec![block; config.blocks_or(config.either(&["num_hidden_layers", "num_layers"]), 24)?],
        final_norm: Some(norm),
        tied: config.flag_or("tie_word_embeddings", true)?,
        head: Default::default(),
        special: config.special_tokens_or(0, 2, vocab_size)?,
    })
}

/// The row of this number is zero in the table of positions, which matters where
/// a position has it.
fn check_padding(config: &Config) -> Result<()> {
    match config.optional("pad_token_id", "a token id", serde_json::Value::as_u64)? {
        Some(id) if id >= FIRST as u64 => {
            Err(config.error(format!("\"pad_token_id\" is {id}, which takes away a position; only 0 and 1 are supported")))
        }
        _ => Ok(()),
    }
}
