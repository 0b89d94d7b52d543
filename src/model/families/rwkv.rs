//! `rwkv` (RWKV-4): no attention but a mean of values that fades with time; the
//! feed-forward is gated by a receptance, and both read mixtures of a token and
//! the one before. Layer norm before both, and one of the embedding, which files
//! keep in the first block.
//!
//! `rescale_every` guards against overflow in half precision: every so many
//! blocks the residual stream is halved, and what later blocks add with it. In
//! f32 there is nothing to guard against, and but for the norms' epsilon, which
//! is not halved with it, the result is the same. It is not read.
//!
//! Source: transformers, `configuration_rwkv.py` and `modeling_rwkv.py`.

use super::{At, Config, Family, Names};
use crate::error::Result;
use crate::model::ModelSpec;
use crate::spec::{Activation, Block, Embedding, FeedForward, Gate, Norm, Op, Wkv};

/// The row of this family.
pub const FAMILY: Family = Family { model_type: "rwkv", models: "RWKV-4", spec, names: &NAMES, settle: None };

const NAMES: Names = Names {
    blocks: "rwkv.blocks",
    block: &[
        ("attn_norm", At::Module("ln1")),
        ("wkv.decay", At::Tensor("attention.time_decay")),
        ("wkv.first", At::Tensor("attention.time_first")),
        ("wkv.mix_key", At::Tensor("attention.time_mix_key")),
        ("wkv.mix_value", At::Tensor("attention.time_mix_value")),
        ("wkv.mix_receptance", At::Tensor("attention.time_mix_receptance")),
        ("wkv.key", At::Module("attention.key")),
        ("wkv.value", At::Module("attention.value")),
        ("wkv.receptance", At::Module("attention.receptance")),
        ("wkv.output", At::Module("attention.output")),
        ("ffn_norm", At::Module("ln2")),
        ("ffn.mix_up", At::Tensor("feed_forward.time_mix_key")),
        ("ffn.mix_receptance", At::Tensor("feed_forward.time_mix_receptance")),
        ("ffn.up", At::Module("feed_forward.key")),
        ("ffn.receptance", At::Module("feed_forward.receptance")),
        ("ffn.down", At::Module("feed_forward.value")),
    ],
    outside: &[
        ("embeddings", At::Module("rwkv.embeddings")),
        ("embedding_norm", At::Module("rwkv.blocks.0.pre_ln")),
        ("final_norm", At::Module("rwkv.ln_out")),
        ("head", At::Module("head")),
    ],
    transposed: false,
};

fn spec(config: &Config) -> Result<ModelSpec> {
    let hidden_size = config.size_or("hidden_size", 4096)?;
    let vocab_size = config.size_or("vocab_size", 50_277)?;
    let norm = Norm::layer(config.positive_or("layer_norm_epsilon", 1e-5)?);
    let wkv = Wkv { width: config.size_or("attention_hidden_size", hidden_size)? };
    let ffn = FeedForward {
        gate: Gate::Receptance,
        ..FeedForward::gated(config.size_or("intermediate_size", 4 * hidden_size)?, Activation::ReluSquared)
    };
    let block = Block::pre_norm(norm.clone(), Op::Wkv(wkv), ffn);
    Ok(ModelSpec {
        family: "rwkv".to_owned(),
        vocab_size,
        hidden_size,
        context: config.size_or(config.either(&["max_position_embeddings", "context_length"]), 1024)?,
        embedding: Embedding { norm: Some(norm), ..Embedding::default() },
        blocks: vec![block; config.blocks_or("num_hidden_layers", 32)?],
        // Its epsilon is torch's own, whatever the other norms have.
        final_norm: Some(Norm::layer(1e-5)),
        tied: config.flag_or("tie_word_embeddings", false)?,
        head: Default::default(),
        special: config.special_tokens_or(0, 0, vocab_size)?,
    })
}
