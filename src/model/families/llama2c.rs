//! llama2.c checkpoints: a Llama whose header is seven numbers. Rotary theta and
//! the norm's epsilon are those that its `run.c` hard-codes; the tokenizer's
//! beginning and end of text are 1 and 2.
//!
//! Source: karpathy/llama2.c, `run.c` (`forward`, `rmsnorm`, `generate`).

use super::{Source, Transform, renamed};
use crate::checkpoint::llama2c::Header;
use crate::model::ModelSpec;
use crate::model::spec::*;

/// The spec of such a file, and where its parameters lie.
pub fn read_header(header: &Header) -> (ModelSpec, Vec<(String, Source)>) {
    let norm = Norm { kind: NormKind::Rms, epsilon: 1e-5 };
    let head_dim = header.dim / header.n_heads;
    let block = Block {
        mixer_norm: norm.clone(),
        mixer: Mixer::Attention(Attention {
            n_heads: header.n_heads,
            n_kv_heads: header.n_kv_heads,
            head_dim,
            scale: (head_dim as f32).sqrt().recip(),
            rotary: Rotary { theta: 10_000.0, scaling: RotaryScaling::None },
            window: None,
            qkv_bias: false,
            output_bias: false,
        }),
        ffn_norm: norm.clone(),
        ffn: FeedForward { width: header.hidden_dim, activation: Activation::Silu, bias: false },
    };
    let spec = ModelSpec {
        family: "llama".to_owned(),
        vocab_size: header.vocab_size,
        hidden_size: header.dim,
        context: header.seq_len,
        blocks: vec![block; header.n_layers],
        final_norm: norm,
        tied: header.shared_classifier,
        special: SpecialTokens { bos: Some(1), eos: vec![2] },
    };
    let sources = sources(&spec, header);
    (spec, sources)
}

/// Canonical role -> name in the file.
const NAMES: [(&str, &str); 12] = [
    ("attn_norm", "attention_norm"),
    ("attn.q", "wq"),
    ("attn.k", "wk"),
    ("attn.v", "wv"),
    ("attn.o", "wo"),
    ("ffn_norm", "ffn_norm"),
    ("ffn.gate", "w1"),
    ("ffn.down", "w2"),
    ("ffn.up", "w3"),
    ("embeddings", "tok_embeddings"),
    ("final_norm", "norm"),
    ("head", "output"),
];

fn sources(spec: &ModelSpec, header: &Header) -> Vec<(String, Source)> {
    renamed(spec, |block, role| {
        let name = NAMES.iter().find(|(canonical, _)| *canonical == role).expect("every role has a name").1;
        let tensor = block.map_or(name.to_owned(), |i| format!("layers.{i}.{name}"));
        let transform = match role {
            "attn.q" => Transform::SplitRotaryPairs { n_heads: header.n_heads },
            "attn.k" => Transform::SplitRotaryPairs { n_heads: header.n_kv_heads },
            _ => Transform::None,
        };
        Source { tensor, transform }
    })
}
