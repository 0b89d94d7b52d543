//! Model families: what a `config.json` means, and which tensor is which
//! canonical parameter. A new family = one file here and one row in [`FAMILIES`].

mod config;
mod llama;
pub mod llama2c;
mod mistral;

pub use config::Config;

use super::ModelSpec;
use crate::error::{Error, Result};
use std::path::Path;

/// A family of models.
pub struct Family {
    /// `model_type` in `config.json`.
    pub model_type: &'static str,
    /// Reads the configuration.
    pub spec: fn(&Config) -> Result<ModelSpec>,
    /// Where each canonical parameter of such a model lies.
    pub sources: fn(&ModelSpec) -> Vec<(String, Source)>,
}

/// Every family.
pub static FAMILIES: &[Family] = &[llama::FAMILY, mistral::FAMILY];

/// Name of the configuration in a model's folder.
pub const CONFIG: &str = "config.json";

/// Where a parameter lies in a checkpoint, and how it must be rearranged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// Name in the file.
    pub tensor: String,
    /// From the file's layout to the canonical one.
    pub transform: Transform,
}

/// Rearrangements of a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transform {
    /// Canonical already.
    None,
    /// Rows of each head are rotary pairs side by side (2i, 2i + 1); canonical
    /// is half-split (i, i + head_dim/2).
    SplitRotaryPairs {
        /// Heads in the tensor.
        n_heads: usize,
    },
}

impl Source {
    /// A tensor as it is.
    pub fn whole(tensor: impl Into<String>) -> Self {
        Self { tensor: tensor.into(), transform: Transform::None }
    }
}

/// Sources for families whose tensors are renamed and nothing else: `rename`
/// gets the canonical name with the block's number taken out.
pub fn renamed(spec: &ModelSpec, rename: impl Fn(Option<usize>, &str) -> Source) -> Vec<(String, Source)> {
    let place = |name: &str| match name.strip_prefix("blocks.").and_then(|rest| rest.split_once('.')) {
        Some((block, role)) => rename(block.parse().ok(), role),
        None => rename(None, name),
    };
    spec.parameters()
        .into_iter()
        .map(|p| {
            let source = place(&p.name);
            (p.name, source)
        })
        .collect()
}

/// Reads a `config.json`: the spec, and where its parameters lie.
pub fn read_config(path: &Path) -> Result<(ModelSpec, Vec<(String, Source)>)> {
    let config = Config::read(path)?;
    let model_type = config.string("model_type")?;
    let family = FAMILIES.iter().find(|f| f.model_type == model_type).ok_or_else(|| Error::UnknownModelType {
        path: path.to_owned(),
        found: model_type.to_owned(),
        known: FAMILIES.iter().map(|f| f.model_type).collect::<Vec<_>>().join(", "),
    })?;
    config.forbid("quantization_config", "this checkpoint is quantised already: start from the full-precision one")?;
    let spec = (family.spec)(&config)?;
    spec.check().map_err(|reason| config.error(reason))?;
    let sources = (family.sources)(&spec);
    Ok((spec, sources))
}

/// Tensors of published checkpoints that follow from the rest: rotary tables,
/// and the copy of the embedding that some tied models carry.
pub fn is_ignored(name: &str) -> bool {
    ["rotary_emb.inv_freq", "rope.cos", "rope.sin", "lm_head.weight"].iter().any(|end| name.ends_with(end))
}
