//! `bloom`: no positions but ALiBi's slopes on the scores, a norm of the
//! embedding, layer norm before mixer and feed-forward, biases, a feed-forward
//! of four times the width with the tanh approximation of GELU, the embedding as
//! the head. One matrix holds q, k and v, head by head.
//!
//! Nothing in the mathematics ends at a length; the context is what the first
//! files say they were trained with (`seq_length`).
//!
//! Source: transformers, `configuration_bloom.py` and `modeling_bloom.py`.

use super::{At, Config, Family, Names};
use crate::error::Result;
use crate::model::ModelSpec;
use crate::spec::{Activation, Attention, Block, Embedding, FeedForward, Norm, Op, alibi_slopes};

/// Heads at most, far above any there are: every block lists a slope for each.
const MAX_HEADS: usize = 1 << 12;

/// The row of this family.
pub const FAMILY: Family = Family { model_type: "bloom", models: "BLOOM", spec, names: &NAMES, settle: None };

const QKV: At = At::ByHead("self_attention.query_key_value", &["attn.q", "attn.k", "attn.v"]);

const NAMES: Names = Names {
    blocks: "transformer.h",
    block: &[
        ("attn_norm", At::Module("input_layernorm")),
        ("attn.q", QKV),
        ("attn.k", QKV),
        ("attn.v", QKV),
        ("attn.o", At::Module("self_attention.dense")),
        ("ffn_norm", At::Module("post_attention_layernorm")),
        ("ffn.up", At::Module("mlp.dense_h_to_4h")),
        ("ffn.down", At::Module("mlp.dense_4h_to_h")),
    ],
    outside: &[
        ("embeddings", At::Module("transformer.word_embeddings")),
        ("embedding_norm", At::Module("transformer.word_embeddings_layernorm")),
        ("final_norm", At::Module("transformer.ln_f")),
        ("head", At::Module("lm_head")),
    ],
    transposed: false,
};

fn spec(config: &Config) -> Result<ModelSpec> {
    config.refuse("apply_residual_connection_post_layernorm", "a residual stream behind the norm is not supported")?;
    if config.size_or("pretraining_tp", 1)? > 1 {
        config.refuse("slow_but_exact", "it leaves out biases where \"pretraining_tp\" is above 1; set it to false")?;
    }
    let hidden_size = config.size_or(config.either(&["n_embed", "hidden_size"]), 64)?;
    let (n_heads, head_dim) = config.even_heads(config.either(&["num_attention_heads", "n_head"]), 8, hidden_size)?;
    if n_heads > MAX_HEADS {
        return Err(config.error(format!("{n_heads} heads are too many; ALiBi is supported for at most {MAX_HEADS}")));
    }
    let vocab_size = config.size_or("vocab_size", 250_880)?;
    let norm = Norm::layer(config.positive_or("layer_norm_epsilon", 1e-5)?);
    let attention =
        Attention { alibi: alibi_slopes(n_heads), qkv_bias: true, output_bias: true, ..Attention::new(n_heads, n_heads, head_dim) };
    let ffn = FeedForward::plain(4 * hidden_size, Activation::GeluTanh);
    let block = Block::pre_norm(norm.clone(), Op::Attention(attention), ffn);
    Ok(ModelSpec {
        family: "bloom".to_owned(),
        vocab_size,
        hidden_size,
        context: config.size_or("seq_length", 2048)?,
        embedding: Embedding { norm: Some(norm.clone()), ..Embedding::default() },
        blocks: vec![block; config.blocks_or(config.either(&["num_hidden_layers", "n_layer"]), 2)?],
        final_norm: Some(norm),
        tied: config.flag_or("tie_word_embeddings", true)?,
        head: Default::default(),
        special: config.special_tokens_or(1, 2, vocab_size)?,
    })
}
