//! `qwen3`: Llama with a norm of each head of queries and keys, and Qwen2's windows.
//!
//! Source: transformers, `configuration_qwen3.py` and `modeling_qwen3.py`.

use super::{Config, Family, llama, qwen2};
use crate::error::Result;
use crate::model::ModelSpec;
use crate::spec::{QkNorm, QkSpan};
use serde_json::json;

/// The row of this family.
pub const FAMILY: Family = Family { model_type: "qwen3", models: "Qwen3", spec, ..llama::FAMILY };

fn spec(config: &Config) -> Result<ModelSpec> {
    let mut spec = qwen2::windowed(&config.or(json!({ "head_dim": 128 })))?;
    let qk_norm = spec.final_norm.clone().map(|norm| QkNorm { norm, span: QkSpan::Head });
    spec.attentions_mut().for_each(|attention| attention.qk_norm = qk_norm.clone());
    Ok(spec)
}
