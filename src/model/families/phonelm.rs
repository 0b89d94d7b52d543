//! `phonelm`: Llama with a gate through max(x, 0), and rotary tables in 8 bits. The
//! published code rounds these to 127 parts of the greatest number in each pass,
//! which makes results depend on how a text is cut; here it is always 127 parts
//! of 1, at most 5e-5 away in logits.
//!
//! Source: UbiquitousLearning/PhoneLM, `modeling_phonelm.py`.

use super::{Config, Family, llama};
use crate::error::Result;
use crate::model::ModelSpec;

/// The row of this family.
pub const FAMILY: Family = Family { model_type: "phonelm", models: "PhoneLM", spec, ..llama::FAMILY };

fn spec(config: &Config) -> Result<ModelSpec> {
    config.forbid("rope_scaling", "the published code has no working one for this family")?;
    let mut spec = llama::spec(config)?;
    spec.attentions_mut().filter_map(|attention| attention.rotary.as_mut()).for_each(|rotary| rotary.steps = Some(127));
    Ok(spec)
}
