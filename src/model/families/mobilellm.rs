//! `mobilellm`: Llama that may share its embedding with the head, and in the -LS
//! models runs each block twice in a row.
//!
//! Source: facebookresearch/MobileLLM, `utils/modeling_llama.py`.

use super::{Config, Family, llama};
use crate::error::Result;
use crate::model::ModelSpec;
use crate::spec::Block;

/// The row of this family.
pub const FAMILY: Family = Family { model_type: "mobilellm", models: "MobileLLM, MobileLLM-LS", spec, ..llama::FAMILY };

fn spec(config: &Config) -> Result<ModelSpec> {
    let mut spec = llama::spec(config)?;
    // Its own key decides, whatever the usual one says.
    spec.tied = config.flag_or("share_embedding", false)?;
    if config.flag_or("layer_sharing", false)? {
        let twice = |(i, block): (usize, Block)| [block.clone(), Block { weights_of: Some(2 * i), ..block }];
        spec.blocks = spec.blocks.into_iter().enumerate().flat_map(twice).collect();
    }
    Ok(spec)
}
