//! `ministral`: Mistral where each block says whether it has the window.
//!
//! Source: transformers, `configuration_ministral.py` and `modeling_ministral.py`.

use super::{Config, Family, layer_types, llama, mistral};
use crate::error::Result;
use crate::model::ModelSpec;

/// The row of this family.
pub const FAMILY: Family = Family { model_type: "ministral", models: "Ministral", spec, ..llama::FAMILY };

fn spec(config: &Config) -> Result<ModelSpec> {
    let (mut spec, window) = mistral::spec_and_window(config)?;
    layer_types::slide(config, &mut spec, window, |_| window.is_some())?;
    Ok(spec)
}
