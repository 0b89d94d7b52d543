//! llama2.c checkpoints: a Llama whose header is seven numbers. Rotary theta and
//! the norm's epsilon are those that its `run.c` hard-codes; the tokenizer's
//! beginning and end of text are 1 and 2.
//!
//! Source: karpathy/llama2.c, `run.c` (`forward`, `rmsnorm`, `generate`).

use super::{At, Names};
use crate::checkpoint::llama2c::Header;
use crate::model::ModelSpec;
use crate::spec::{Activation, Attention, Block, FeedForward, Norm, Op, Rotary, SpecialTokens};

/// The spec of such a file.
pub fn spec(header: &Header) -> ModelSpec {
    let norm = Norm::rms(1e-5);
    let attention = Attention {
        rotary: Some(Rotary::plain(10_000.0)),
        ..Attention::new(header.n_heads, header.n_kv_heads, header.dim / header.n_heads)
    };
    let ffn = FeedForward::gated(header.hidden_dim, Activation::Silu);
    let block = Block::pre_norm(norm.clone(), Op::Attention(attention), ffn);
    ModelSpec {
        family: "llama".to_owned(),
        vocab_size: header.vocab_size,
        hidden_size: header.dim,
        context: header.seq_len,
        embedding: Default::default(),
        blocks: vec![block; header.n_layers],
        final_norm: Some(norm),
        tied: header.shared_classifier,
        head: Default::default(),
        special: SpecialTokens { bos: Some(1), eos: vec![2], prefix: None },
    }
}

/// Its names.
pub const NAMES: Names = Names {
    blocks: "layers",
    block: &[
        ("attn_norm", At::Tensor("attention_norm")),
        ("attn.q", At::RotaryPairs("wq")),
        ("attn.k", At::RotaryPairs("wk")),
        ("attn.v", At::Tensor("wv")),
        ("attn.o", At::Tensor("wo")),
        ("ffn_norm", At::Tensor("ffn_norm")),
        ("ffn.gate", At::Tensor("w1")),
        ("ffn.down", At::Tensor("w2")),
        ("ffn.up", At::Tensor("w3")),
    ],
    outside: &[("embeddings", At::Tensor("tok_embeddings")), ("final_norm", At::Tensor("norm")), ("head", At::Tensor("output"))],
    transposed: false,
};
