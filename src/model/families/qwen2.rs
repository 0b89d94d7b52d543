//! `qwen2`: Llama with biases on q, k and v, and a window in the upper blocks where
//! it is switched on.
//!
//! Source: transformers, `configuration_qwen2.py` and `modeling_qwen2.py`.

use super::{Config, Family, layer_types, llama};
use crate::error::Result;
use crate::model::ModelSpec;
use serde_json::json;

/// The row of this family.
pub const FAMILY: Family = Family { model_type: "qwen2", models: "Qwen2, Qwen2.5", spec, ..llama::FAMILY };

fn spec(config: &Config) -> Result<ModelSpec> {
    let mut spec = windowed(config)?;
    for attention in spec.attentions_mut() {
        (attention.qkv_bias, attention.output_bias) = (true, false);
    }
    Ok(spec)
}

/// What Qwen3 shares.
pub(super) fn windowed(config: &Config) -> Result<ModelSpec> {
    let config = config.or(json!({ "num_key_value_heads": 32, "max_position_embeddings": 32768, "sliding_window": 4096 }));
    let mut spec = llama::spec(&config)?;
    let switched_on = config.flag_or("use_sliding_window", false)?;
    let window = config.size_opt("sliding_window")?.filter(|_| switched_on);
    // A whole number that may be 0.
    let full = config.count_or("max_window_layers", 28)?;
    layer_types::slide(&config, &mut spec, window, |i| window.is_some() && i >= full)?;
    Ok(spec)
}
