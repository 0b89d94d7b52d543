//! `olmo`: Llama with layer norms that store nothing, and q, k and v cut off.
//!
//! Source: transformers, `configuration_olmo.py` and `modeling_olmo.py`.

use super::rope::RotaryKeys;
use super::{Config, Family, llama};
use crate::error::Result;
use crate::model::ModelSpec;
use crate::spec::{Norm, NormWeight};
use serde_json::json;

/// The row of this family.
pub const FAMILY: Family = Family { model_type: "olmo", models: "OLMo", spec, ..llama::FAMILY };

fn spec(config: &Config) -> Result<ModelSpec> {
    let config = config.or(json!({ "eos_token_id": 50279 }));
    // The epsilon is in the code, not in configurations.
    let norm = Norm { weight: NormWeight::None, bias: false, ..Norm::layer(1e-5) };
    let mut spec = llama::spec_with(&config, norm, &RotaryKeys::WHOLE)?;
    let clip = config.positive_opt("clip_qkv")?.map(|clip| clip as f32);
    spec.attentions_mut().for_each(|attention| attention.qkv_clip = clip);
    Ok(spec)
}
