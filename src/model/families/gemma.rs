//! `gemma`: Llama with norms that multiply by 1 + w, embeddings that are scaled by
//! √hidden, and a gate of GELU by tanh.
//!
//! Source: transformers, `configuration_gemma.py` and `modeling_gemma.py`.

use super::rope::RotaryKeys;
use super::{Config, Family, llama};
use crate::error::Result;
use crate::model::ModelSpec;
use crate::spec::{Activation, Norm, NormWeight};
use serde_json::json;

/// The row of this family.
pub const FAMILY: Family = Family { model_type: "gemma", models: "Gemma", spec, ..llama::FAMILY };

fn spec(config: &Config) -> Result<ModelSpec> {
    let config = config.or(json!({ "num_key_value_heads": 16 }));
    spec_with(&config, "hidden_act", "hidden_activation")
}

/// What Gemma 2 shares; `deciding` is the key of the activation, which `other` must
/// not contradict.
pub(super) fn spec_with(config: &Config, deciding: &str, other: &str) -> Result<ModelSpec> {
    let config = config.or(json!({
        "head_dim": 256, "max_position_embeddings": 8192, "tie_word_embeddings": true, "bos_token_id": 2, "eos_token_id": 1
    }));
    if config.flag_or("use_bidirectional_attention", false)? {
        return Err(config.error("\"use_bidirectional_attention\": true is not known; every token sees what came before it"));
    }
    let norm = Norm { weight: NormWeight::OnePlus, ..Norm::rms(config.positive_or("rms_norm_eps", 1e-6)?) };
    let mut spec = llama::spec_with(&config, norm, &RotaryKeys::WHOLE)?;
    let activation = activation(&config, deciding, other)?;
    spec.feed_forwards_mut().for_each(|ffn| ffn.activation = activation);
    spec.embedding.scale = Some((spec.hidden_size as f32).sqrt());
    Ok(spec)
}

fn activation(config: &Config, deciding: &str, other: &str) -> Result<Activation> {
    let named = |key| match config.string_or(key, "")? {
        "" => Ok(None),
        // The first releases say so and mean the approximation.
        "gelu" if key == "hidden_act" => {
            if deciding == key {
                config.note_unused("hidden_act = \"gelu\" (its tanh approximation is used)".to_owned());
            }
            Ok(Some(Activation::GeluTanh))
        }
        _ => config.activation(key, "").map(Some),
    };
    let decided = named(deciding)?.unwrap_or(Activation::GeluTanh);
    match named(other)? {
        Some(different) if different != decided => {
            let values = [deciding, other].map(|key| config.string_or(key, "gelu_pytorch_tanh"));
            let [decided, different] = values;
            Err(config.error(format!("\"{other}\" \"{}\" contradicts \"{deciding}\" \"{}\"", different?, decided?)))
        }
        _ => Ok(decided),
    }
}
