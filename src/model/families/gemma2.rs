//! `gemma2`: Gemma with norms before and behind mixer and feed-forward, tanh caps on
//! scores and logits, and a window in every second block.
//!
//! Source: transformers, `configuration_gemma2.py` and `modeling_gemma2.py`.

use super::{At, Config, Family, Names, gemma, layer_types, llama};
use crate::error::Result;
use crate::model::ModelSpec;
use serde_json::json;

/// The row of this family.
pub const FAMILY: Family = Family { model_type: "gemma2", models: "Gemma 2", spec, names: &NAMES, settle: None };

const NAMES: Names = Names { block: &BLOCK, ..llama::NAMES };

const BLOCK: [(&str, At); 11] = [
    ("attn_norm", At::Module("input_layernorm")),
    ("attn.q", At::Module("self_attn.q_proj")),
    ("attn.k", At::Module("self_attn.k_proj")),
    ("attn.v", At::Module("self_attn.v_proj")),
    ("attn.o", At::Module("self_attn.o_proj")),
    ("attn_output_norm", At::Module("post_attention_layernorm")),
    ("ffn_norm", At::Module("pre_feedforward_layernorm")),
    ("ffn.gate", At::Module("mlp.gate_proj")),
    ("ffn.up", At::Module("mlp.up_proj")),
    ("ffn.down", At::Module("mlp.down_proj")),
    ("ffn_output_norm", At::Module("post_feedforward_layernorm")),
];

fn spec(config: &Config) -> Result<ModelSpec> {
    let config = config.or(json!({
        "num_key_value_heads": 4,
        "query_pre_attn_scalar": 256,
        "sliding_window": 4096,
        "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0,
    }));
    let mut spec = gemma::spec_with(&config, "hidden_activation", "hidden_act")?;
    for sub_layer in spec.sub_layers_mut() {
        sub_layer.output_norm = sub_layer.norm.clone();
    }
    let scale = config.positive("query_pre_attn_scalar")?.sqrt().recip() as f32;
    let softcap = config.positive_opt("attn_logit_softcapping")?.map(|cap| cap as f32);
    for attention in spec.attentions_mut() {
        (attention.scale, attention.softcap) = (scale, softcap);
    }
    spec.head.softcap = config.positive_opt("final_logit_softcapping")?.map(|cap| cap as f32);
    layer_types::slide(&config, &mut spec, config.size_opt("sliding_window")?, |i| i % 2 == 0)?;
    Ok(spec)
}
