//! `ministral3`: Llama with a window in every block or none, YaRN, and queries that
//! grow with their position.
//!
//! Source: transformers, `configuration_ministral3.py` and `modeling_ministral3.py`.

use super::{Config, Family, llama, mistral, rope};
use crate::error::Result;
use crate::model::ModelSpec;
use crate::spec::QueryGrowth;
use serde_json::json;

/// The row of this family.
pub const FAMILY: Family = Family { model_type: "ministral3", models: "Ministral 3, its text model", spec, ..llama::FAMILY };

fn spec(config: &Config) -> Result<ModelSpec> {
    let config = config.or(json!({
        "head_dim": 128,
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": 262_144,
        "sliding_window": null,
        "rope_parameters": {
            "type": "yarn",
            "rope_theta": 1e6,
            "factor": 16,
            "original_max_position_embeddings": 16384,
            "beta_fast": 32,
            "beta_slow": 1,
            "mscale": 1,
            "mscale_all_dim": 1,
            "llama_4_scaling_beta": 0.1,
        },
    }));
    let (mut spec, _) = mistral::spec_and_window(&config)?;
    let growth = match rope::parameters(&config)? {
        Some(parameters) => QueryGrowth {
            beta: parameters.object.positive("llama_4_scaling_beta")? as f32,
            every: rope::original_context(&parameters.object, &config)? as usize,
        },
        None => return Err(config.error("\"rope_parameters\" is missing")),
    };
    spec.attentions_mut().for_each(|attention| attention.query_growth = Some(growth));
    Ok(spec)
}
