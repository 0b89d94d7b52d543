//! `bitnet`: Llama with a norm of the contexts before the output projection, one of
//! the feed-forward's hidden numbers before `down`, and a squared ReLU.
//!
//! Source: transformers, `configuration_bitnet.py` and `modeling_bitnet.py`.

use super::rope::RotaryKeys;
use super::{At, Config, Family, Names, llama};
use crate::error::Result;
use crate::model::ModelSpec;
use crate::spec::Norm;
use serde_json::json;

/// The row of this family.
pub const FAMILY: Family = Family {
    model_type: "bitnet",
    models: "BitNet b1.58 2B4T and its like; packed ternary weights are read",
    spec,
    names: &NAMES,
    settle: None,
};

const NAMES: Names = Names { block: &BLOCK, ..llama::NAMES };

const BLOCK: [(&str, At); 11] = [
    ("attn_norm", At::Module("input_layernorm")),
    ("attn.q", At::Module("self_attn.q_proj")),
    ("attn.k", At::Module("self_attn.k_proj")),
    ("attn.v", At::Module("self_attn.v_proj")),
    ("attn.context_norm", At::Module("self_attn.attn_sub_norm")),
    ("attn.o", At::Module("self_attn.o_proj")),
    ("ffn_norm", At::Module("post_attention_layernorm")),
    ("ffn.gate", At::Module("mlp.gate_proj")),
    ("ffn.up", At::Module("mlp.up_proj")),
    ("ffn.hidden_norm", At::Module("mlp.ffn_sub_norm")),
    ("ffn.down", At::Module("mlp.down_proj")),
];

fn spec(config: &Config) -> Result<ModelSpec> {
    let config = config.or(json!({
        "num_key_value_heads": 5,
        "hidden_act": "relu2",
        "rms_norm_eps": 1e-5,
        "bos_token_id": 128_000,
        "eos_token_id": 128_001,
    }));
    let keys = RotaryKeys { default_theta: 500_000.0, ..RotaryKeys::WHOLE };
    let mut spec = llama::spec_with(&config, Norm::rms(config.positive("rms_norm_eps")?), &keys)?;
    let norm = spec.final_norm.clone();
    spec.feed_forwards_mut().for_each(|ffn| ffn.hidden_norm = norm.clone());
    spec.attentions_mut().for_each(|attention| attention.context_norm = norm.clone());
    Ok(spec)
}
