//! `smollm3`: Llama without rotary positions in every fourth block (NoPE), and a window in
//! those blocks where it is switched on.
//!
//! Source: transformers, `configuration_smollm3.py` and `modeling_smollm3.py`.

use super::rope::RotaryKeys;
use super::{Config, Family, layer_types, llama};
use crate::error::Result;
use crate::model::ModelSpec;
use crate::spec::Norm;
use serde_json::{Value, json};

/// The row of this family.
pub const FAMILY: Family = Family { model_type: "smollm3", models: "SmolLM3", spec, ..llama::FAMILY };

fn spec(config: &Config) -> Result<ModelSpec> {
    let config = config.or(json!({
        "num_key_value_heads": 4, "max_position_embeddings": 32768, "tie_word_embeddings": true
    }));
    let norm = Norm::rms(config.positive_or("rms_norm_eps", 1e-6)?);
    let mut spec = llama::spec_with(&config, norm, &RotaryKeys { default_theta: 2e6, ..RotaryKeys::WHOLE })?;
    spec.special = config.special_tokens_or(128_000, 128_001, spec.vocab_size)?;
    let has_rotary = has_rotary(&config, spec.blocks.len())?;
    let switched_on = config.flag_or("use_sliding_window", false)?;
    let window = config.size_opt("sliding_window")?.filter(|_| switched_on);
    layer_types::slide(&config, &mut spec, window, |i| window.is_some() && !has_rotary[i])?;
    for (attention, has_rotary) in spec.attentions_mut().zip(has_rotary) {
        attention.rotary = attention.rotary.take().filter(|_| has_rotary);
    }
    Ok(spec)
}

/// For each block, true if it has rotary positions: 1 in `no_rope_layers` means that it does. A list that
/// is too long is cut off, as in transformers.
fn has_rotary(config: &Config, blocks: usize) -> Result<Vec<bool>> {
    let interval = config.size_or("no_rope_layer_interval", 4)?;
    let number = |v: &Value| v.as_u64().filter(|&n| n <= 1).map(|n| n == 1);
    let list = config.optional("no_rope_layers", "a list of 0 and 1", |v| v.as_array()?.iter().map(number).collect::<Option<Vec<_>>>())?;
    match list {
        None => Ok((1..=blocks).map(|n| !n.is_multiple_of(interval)).collect()),
        Some(list) if list.len() < blocks => {
            Err(config.error(format!("\"no_rope_layers\" has {} entries for {blocks} blocks", list.len())))
        }
        Some(list) => Ok(list[..blocks].to_vec()),
    }
}
