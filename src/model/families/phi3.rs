//! `phi3`, so Phi-3, 3.5 and 4-mini: Llama with q, k and v in one matrix, gate and up
//! in another, a window in every block, and LongRoPE for long contexts.
//!
//! Source: transformers, `configuration_phi3.py` and `modeling_phi3.py`.

use super::rope::RotaryKeys;
use super::{At, Config, Family, Names, llama};
use crate::error::Result;
use crate::model::ModelSpec;
use crate::spec::Norm;
use serde_json::json;

/// The row of this family.
pub const FAMILY: Family = Family { model_type: "phi3", models: "Phi-3, Phi-3.5-mini, Phi-4-mini", spec, names: &NAMES, settle: None };

const NAMES: Names = Names { block: &BLOCK, ..llama::NAMES };

const QKV: At = At::Fused("self_attn.qkv_proj", &["attn.q", "attn.k", "attn.v"]);
const GATE_UP: At = At::Fused("mlp.gate_up_proj", &["ffn.gate", "ffn.up"]);

const BLOCK: [(&str, At); 9] = [
    ("attn_norm", At::Module("input_layernorm")),
    ("attn.q", QKV),
    ("attn.k", QKV),
    ("attn.v", QKV),
    ("attn.o", At::Module("self_attn.o_proj")),
    ("ffn_norm", At::Module("post_attention_layernorm")),
    ("ffn.gate", GATE_UP),
    ("ffn.up", GATE_UP),
    ("ffn.down", At::Module("mlp.down_proj")),
];

fn spec(config: &Config) -> Result<ModelSpec> {
    let config = config.or(json!({
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": 4096,
        "original_max_position_embeddings": 4096,
        "bos_token_id": 1,
        "eos_token_id": 32000,
    }));
    let norm = Norm::rms(config.positive("rms_norm_eps")?);
    let mut spec = llama::spec_with(&config, norm, &RotaryKeys::partial(1.0))?;
    let window = config.size_opt("sliding_window")?;
    spec.attentions_mut().for_each(|attention| attention.mask = window.into());
    Ok(spec)
}
