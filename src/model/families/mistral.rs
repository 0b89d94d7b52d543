//! `mistral`: Llama with a sliding window in every block.
//!
//! Source: transformers, `configuration_mistral.py` and `modeling_mistral.py`.

use super::{Config, Family, llama};
use crate::error::Result;
use crate::model::ModelSpec;
use serde_json::json;

/// The row of this family.
pub const FAMILY: Family = Family { model_type: "mistral", models: "Mistral, Ministral-8B", spec, names: &llama::NAMES, settle: None };

fn spec(config: &Config) -> Result<ModelSpec> {
    Ok(spec_and_window(config)?.0)
}

/// What kin start from.
pub(super) fn spec_and_window(config: &Config) -> Result<(ModelSpec, Option<usize>)> {
    // Keys that are absent stand for the first release's values; `null` for none.
    let config = config.or(json!({
        "num_key_value_heads": 8, "max_position_embeddings": 131_072, "sliding_window": 4096, "bos_token_id": 1, "eos_token_id": 2
    }));
    let mut spec = llama::spec(&config)?;
    let window = config.size_opt("sliding_window")?;
    spec.attentions_mut().for_each(|attention| attention.mask = window.into());
    Ok((spec, window))
}
