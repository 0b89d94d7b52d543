//! `olmo2`: Llama with norms of what mixer and feed-forward add in place of those
//! before them, and norms over all queries and over all keys of a token.
//!
//! Source: transformers, `configuration_olmo2.py` and `modeling_olmo2.py`.

use super::rope::RotaryKeys;
use super::{At, Config, Family, Names, llama};
use crate::error::Result;
use crate::model::ModelSpec;
use crate::spec::{Norm, QkNorm, QkSpan};
use serde_json::json;

/// The row of this family.
pub const FAMILY: Family = Family { model_type: "olmo2", models: "OLMo 2", spec, names: &NAMES, settle: None };

const NAMES: Names = Names { block: &BLOCK, ..llama::NAMES };

const BLOCK: [(&str, At); 11] = [
    ("attn.q", At::Module("self_attn.q_proj")),
    ("attn.k", At::Module("self_attn.k_proj")),
    ("attn.v", At::Module("self_attn.v_proj")),
    ("attn.o", At::Module("self_attn.o_proj")),
    ("attn.q_norm", At::Module("self_attn.q_norm")),
    ("attn.k_norm", At::Module("self_attn.k_norm")),
    ("attn_output_norm", At::Module("post_attention_layernorm")),
    ("ffn.gate", At::Module("mlp.gate_proj")),
    ("ffn.up", At::Module("mlp.up_proj")),
    ("ffn.down", At::Module("mlp.down_proj")),
    ("ffn_output_norm", At::Module("post_feedforward_layernorm")),
];

fn spec(config: &Config) -> Result<ModelSpec> {
    let config = config.or(json!({ "eos_token_id": 50279 }));
    let norm = Norm::rms(config.positive_or("rms_norm_eps", 1e-5)?);
    let mut spec = llama::spec_with(&config, norm.clone(), &RotaryKeys::WHOLE)?;
    for sub_layer in spec.sub_layers_mut() {
        sub_layer.output_norm = sub_layer.norm.take();
    }
    for attention in spec.attentions_mut() {
        attention.qk_norm = Some(QkNorm { norm: norm.clone(), span: QkSpan::All });
    }
    Ok(spec)
}
