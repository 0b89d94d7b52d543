//! `phi`, so Phi-1, 1.5 and 2: attention and a plain feed-forward side by side behind
//! one layer norm, biases everywhere, half of each head turned.
//!
//! Source: transformers, `configuration_phi.py` and `modeling_phi.py`.

use super::rope::{self, RotaryKeys};
use super::{At, Config, Family, Names};
use crate::error::Result;
use crate::model::ModelSpec;
use crate::spec::{Attention, Block, FeedForward, Head, Norm, Op, QkNorm, QkSpan};
use serde_json::json;

/// The row of this family.
pub const FAMILY: Family = Family { model_type: "phi", models: "Phi-1, Phi-1.5, Phi-2", spec, names: &NAMES, settle: None };

const NAMES: Names = Names { blocks: "model.layers", block: &BLOCK, outside: &OUTSIDE, transposed: false };

const BLOCK: [(&str, At); 9] = [
    ("attn_norm", At::Module("input_layernorm")),
    ("attn.q", At::Module("self_attn.q_proj")),
    ("attn.k", At::Module("self_attn.k_proj")),
    ("attn.v", At::Module("self_attn.v_proj")),
    ("attn.o", At::Module("self_attn.dense")),
    ("attn.q_norm", At::Module("self_attn.q_layernorm")),
    ("attn.k_norm", At::Module("self_attn.k_layernorm")),
    ("ffn.up", At::Module("mlp.fc1")),
    ("ffn.down", At::Module("mlp.fc2")),
];

const OUTSIDE: [(&str, At); 3] = [
    ("embeddings", At::Module("model.embed_tokens")),
    ("final_norm", At::Module("model.final_layernorm")),
    ("head", At::Module("lm_head")),
];

fn spec(config: &Config) -> Result<ModelSpec> {
    let config = config.or(json!({ "bos_token_id": 1, "eos_token_id": 2 }));
    let hidden_size = config.size("hidden_size")?;
    let (n_heads, head_dim) = config.heads("num_attention_heads", hidden_size)?;
    let norm = Norm::layer(config.positive_or("layer_norm_eps", 1e-5)?);
    let qk_norm = config.flag_or("qk_layernorm", false)?.then(|| QkNorm { norm: norm.clone(), span: QkSpan::Head });
    let attention = Attention {
        rotary: Some(rope::rotary(&config, head_dim, &RotaryKeys::partial(0.5))?),
        qkv_bias: true,
        output_bias: true,
        qk_norm,
        ..Attention::new(n_heads, config.size_or("num_key_value_heads", n_heads)?, head_dim)
    };
    let ffn = FeedForward::plain(config.size("intermediate_size")?, config.activation("hidden_act", "gelu_new")?);
    let block = Block::pre_norm(norm.clone(), Op::Attention(attention), ffn).parallel(true);
    Ok(ModelSpec {
        family: config.string("model_type")?.to_owned(),
        vocab_size: config.size("vocab_size")?,
        hidden_size,
        context: config.size_or("max_position_embeddings", 2048)?,
        embedding: Default::default(),
        blocks: vec![block; config.blocks("num_hidden_layers")?],
        final_norm: Some(norm),
        tied: config.flag_or("tie_word_embeddings", false)?,
        head: Head { bias: true, softcap: None },
        special: config.special_tokens()?,
    })
}
