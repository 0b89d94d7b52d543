//! `stablelm`: Llama with layer norms, a quarter of each head turned and, in some,
//! mixer and feed-forward side by side and a norm of its own for each head of
//! queries and keys.
//!
//! Source: transformers, `configuration_stablelm.py` and `modeling_stablelm.py`.

use super::rope::RotaryKeys;
use super::{At, Config, Family, Names, llama};
use crate::error::Result;
use crate::model::ModelSpec;
use crate::spec::{Norm, QkNorm, QkSpan};
use serde_json::json;

/// The row of this family.
pub const FAMILY: Family = Family { model_type: "stablelm", models: "StableLM", spec, names: &NAMES, settle: None };

const NAMES: Names = Names { block: &BLOCK, ..llama::NAMES };

const BLOCK: [(&str, At); 11] = [
    ("attn_norm", At::Module("input_layernorm")),
    ("attn.q", At::Module("self_attn.q_proj")),
    ("attn.k", At::Module("self_attn.k_proj")),
    ("attn.v", At::Module("self_attn.v_proj")),
    ("attn.o", At::Module("self_attn.o_proj")),
    ("attn.q_norm", At::EachHead("self_attn.q_layernorm.norms")),
    ("attn.k_norm", At::EachHead("self_attn.k_layernorm.norms")),
    ("ffn_norm", At::Module("post_attention_layernorm")),
    ("ffn.gate", At::Module("mlp.gate_proj")),
    ("ffn.up", At::Module("mlp.up_proj")),
    ("ffn.down", At::Module("mlp.down_proj")),
];

fn spec(config: &Config) -> Result<ModelSpec> {
    let config = config.or(json!({
        "num_key_value_heads": 32,
        "max_position_embeddings": 4096,
        "bos_token_id": 0,
        "eos_token_id": 0,
    }));
    let norm = Norm::layer(config.positive_or("layer_norm_eps", 1e-5)?);
    let mut spec = llama::spec_with(&config, norm.clone(), &RotaryKeys::partial(0.25))?;
    let qkv_bias = config.flag_or("use_qkv_bias", false)?;
    let qk_norm = QkNorm { norm: Norm { bias: false, ..norm }, span: QkSpan::EachHead };
    let qk_norm = config.flag_or("qk_layernorm", false)?.then_some(qk_norm);
    for attention in spec.attentions_mut() {
        (attention.qkv_bias, attention.output_bias) = (qkv_bias, false);
        attention.qk_norm = qk_norm.clone();
    }
    if config.flag_or("use_parallel_residual", false)? {
        spec.blocks = spec.blocks.into_iter().map(|block| block.parallel(true)).collect();
    }
    Ok(spec)
}
