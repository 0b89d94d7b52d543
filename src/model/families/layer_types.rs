//! Which blocks have a window.

use super::Config;
use crate::error::Result;
use crate::model::ModelSpec;

/// Gives a window to the blocks that `layer_types` calls `sliding_attention` or,
/// where there is no such list, to those that `slides` says.
pub fn slide(config: &Config, spec: &mut ModelSpec, window: Option<usize>, slides: impl Fn(usize) -> bool) -> Result<()> {
    let blocks = spec.blocks.len();
    let sliding: Vec<bool> = match config.strings_opt("layer_types")? {
        None => (0..blocks).map(slides).collect(),
        Some(kinds) if kinds.len() != blocks => {
            return Err(config.error(format!(
                "\"layer_types\" has {} entries for {blocks} blocks; where layers were taken out, keep the entries of those that stayed",
                kinds.len()
            )));
        }
        Some(kinds) => kinds.into_iter().map(|kind| is_sliding(config, kind)).collect::<Result<_>>()?,
    };
    if window.is_none() && sliding.contains(&true) {
        return Err(config.error("\"sliding_window\": blocks of sliding attention need one, and there is none or it is not used"));
    }
    spec.attentions_mut().zip(sliding).for_each(|(attention, sliding)| attention.mask = window.filter(|_| sliding).into());
    Ok(())
}

fn is_sliding(config: &Config, kind: &str) -> Result<bool> {
    match kind {
        "sliding_attention" => Ok(true),
        "full_attention" => Ok(false),
        other => Err(config.error(format!("\"layer_types\": \"{other}\" is not known; known are full_attention, sliding_attention"))),
    }
}
