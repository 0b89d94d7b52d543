//! `mistral`: Llama with a sliding window in every block.
//!
//! Source: transformers, `configuration_mistral.py` and `modeling_mistral.py`.

use super::{Config, Family, llama};
use crate::error::Result;
use crate::model::ModelSpec;
use crate::model::spec::Mixer;

/// The row of this family.
pub const FAMILY: Family = Family { model_type: "mistral", spec, sources: llama::sources };

fn spec(config: &Config) -> Result<ModelSpec> {
    // Keys that are absent stand for the first release's values; `null` for none.
    let mut spec = llama::spec_with(config, |_| 8)?;
    let absent = (!config.mentions("sliding_window")).then_some(4096);
    let window = config.size_opt("sliding_window")?.or(absent);
    for block in &mut spec.blocks {
        let Mixer::Attention(attention) = &mut block.mixer;
        attention.window = window;
    }
    Ok(spec)
}
