//! `gemma3_text`: Gemma 2 with norms of each head of queries and keys in place of the cap on
//! scores, a window in five of six blocks, and rotary positions of another base in those.
//!
//! transformers passes `attn_logit_softcapping` to no attention of this family, so it is not read,
//! and refused where it is set.
//!
//! Source: transformers, `configuration_gemma3.py` and `modeling_gemma3.py`, of 4.57 and 5.23.

use super::rope::{self, RotaryKeys};
use super::{At, Config, Family, Names, gemma, layer_types, llama};
use crate::error::Result;
use crate::model::ModelSpec;
use crate::spec::{Mask, QkNorm, QkSpan};
use serde_json::json;

/// The row of this family.
pub const FAMILY: Family = Family { model_type: "gemma3_text", models: "Gemma 3, its text models", spec, names: &NAMES, settle: None };

const NAMES: Names = Names { block: &BLOCK, ..llama::NAMES };

const BLOCK: [(&str, At); 13] = [
    ("attn_norm", At::Module("input_layernorm")),
    ("attn.q", At::Module("self_attn.q_proj")),
    ("attn.k", At::Module("self_attn.k_proj")),
    ("attn.v", At::Module("self_attn.v_proj")),
    ("attn.o", At::Module("self_attn.o_proj")),
    ("attn.q_norm", At::Module("self_attn.q_norm")),
    ("attn.k_norm", At::Module("self_attn.k_norm")),
    ("attn_output_norm", At::Module("post_attention_layernorm")),
    ("ffn_norm", At::Module("pre_feedforward_layernorm")),
    ("ffn.gate", At::Module("mlp.gate_proj")),
    ("ffn.up", At::Module("mlp.up_proj")),
    ("ffn.down", At::Module("mlp.down_proj")),
    ("ffn_output_norm", At::Module("post_feedforward_layernorm")),
];

const GLOBAL: RotaryKeys = RotaryKeys { default_theta: 1e6, ..RotaryKeys::WHOLE };
const LOCAL: RotaryKeys = RotaryKeys { theta: "rope_local_base_freq", ..RotaryKeys::WHOLE };

fn spec(config: &Config) -> Result<ModelSpec> {
    let config = config.or(json!({
        "num_key_value_heads": 4,
        "max_position_embeddings": 131_072,
        "query_pre_attn_scalar": 256,
        "sliding_window": 4096,
    }));
    let [global, local] = rope::by_kind(&config)?;
    let mut spec = gemma::spec_with(&global, "hidden_activation", "hidden_act")?;
    for sub_layer in spec.sub_layers_mut() {
        sub_layer.output_norm = sub_layer.norm.clone();
    }
    spec.head.softcap = config.positive_opt("final_logit_softcapping")?.map(|cap| cap as f32);
    let pattern = config.size_or("sliding_window_pattern", 6)?;
    layer_types::slide(&config, &mut spec, config.size_opt("sliding_window")?, |i| !(i + 1).is_multiple_of(pattern))?;
    let scale = config.positive("query_pre_attn_scalar")?.sqrt().recip() as f32;
    let qk_norm = spec.final_norm.clone().map(|norm| QkNorm { norm, span: QkSpan::Head });
    for attention in spec.attentions_mut() {
        // Both are read where one kind of block is all that there is.
        let (global, local) = (rope::rotary(&global, attention.head_dim, &GLOBAL)?, rope::rotary(&local, attention.head_dim, &LOCAL)?);
        attention.rotary = Some(if attention.mask == Mask::Causal { global } else { local });
        (attention.scale, attention.qk_norm) = (scale, qk_norm.clone());
    }
    Ok(spec)
}
