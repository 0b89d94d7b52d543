//! Model families: what a `config.json` means, and which tensor is which
//! canonical parameter. A new family = one file here and one row in [`FAMILIES`].

mod bitnet;
mod bloom;
mod config;
mod foreign_keys;
mod gemma;
mod gemma2;
mod gemma3_text;
mod gpt2;
mod gpt_neo;
mod gpt_neox;
mod layer_types;
mod llama;
pub mod llama2c;
mod ministral;
mod ministral3;
mod mistral;
mod mobilellm;
mod mobillama;
mod names;
mod nearest;
mod olmo;
mod olmo2;
mod openelm;
mod openlm;
mod opt;
mod phi;
mod phi3;
mod phonelm;
mod quantized;
mod qwen2;
mod qwen3;
mod rope;
mod rwkv;
mod smollm3;
mod stablelm;
mod xglm;

pub use config::Config;
pub use foreign_keys::{is_classified, unused, warn};
pub use names::{At, Names};
pub use quantized::{BitNet, KEYS as QUANTIZATION_KEYS, Quantization, quantized};

use super::ModelSpec;
use crate::checkpoint::Checkpoint;
use crate::error::Result;
use std::path::Path;

/// A family of models.
pub struct Family {
    /// `model_type` in `config.json`.
    pub model_type: &'static str,
    /// Published models of it.
    pub models: &'static str,
    /// Reads the configuration.
    pub spec: fn(&Config) -> Result<ModelSpec>,
    /// How its parameters are named.
    pub names: &'static Names,
    /// Settles what the configuration leaves open and only the weights tell.
    pub settle: Option<Settle>,
}

/// A spec made right by a look at the names and shapes of the weights.
pub type Settle = fn(ModelSpec, &Checkpoint) -> Result<ModelSpec>;

/// Every family.
pub static FAMILIES: &[Family] = &[
    bitnet::FAMILY,
    bloom::FAMILY,
    gemma::FAMILY,
    gemma2::FAMILY,
    gemma3_text::FAMILY,
    gpt2::FAMILY,
    gpt_neo::FAMILY,
    gpt_neox::FAMILY,
    llama::FAMILY,
    ministral::FAMILY,
    ministral3::FAMILY,
    mistral::FAMILY,
    mobilellm::FAMILY,
    mobillama::FAMILY,
    olmo::FAMILY,
    olmo2::FAMILY,
    openelm::FAMILY,
    openlm::FAMILY,
    opt::FAMILY,
    phi::FAMILY,
    phi3::FAMILY,
    phonelm::FAMILY,
    qwen2::FAMILY,
    qwen3::FAMILY,
    rwkv::FAMILY,
    smollm3::FAMILY,
    stablelm::FAMILY,
    xglm::FAMILY,
];

/// Name of the configuration in a model's folder.
pub const CONFIG: &str = "config.json";

/// Reads a `config.json`: the spec, and the family it is of.
pub fn read_config(path: &Path) -> Result<(ModelSpec, &'static Family)> {
    read(&Config::read(path)?)
}

/// The same from a configuration that is parsed already. Of weights that are [quantised
/// already](quantized) it says nothing, but fails where keys that the family does not read change
/// the mathematics.
pub fn read(config: &Config) -> Result<(ModelSpec, &'static Family)> {
    let model_type = config.string("model_type")?;
    let family = FAMILIES.iter().find(|f| f.model_type == model_type).ok_or_else(|| nearest::unknown(config, config.path(), model_type))?;
    quantized(config)?;
    let mut spec = (family.spec)(config)?;
    config.check_special_tokens(&mut spec.special, spec.vocab_size)?;
    spec.check().map_err(|error| config.error(error.to_string()))?;
    foreign_keys::refuse(config, &spec)?;
    Ok((spec, family))
}

/// Tensors of published checkpoints that follow from the rest: rotary tables,
/// masks, and the copy of the embedding that some tied models carry.
pub fn is_ignored(name: &str) -> bool {
    const ENDS: [&str; 9] = [
        ".inv_freq",
        "rope.cos",
        "rope.sin",
        "lm_head.weight",
        "attn.bias",
        "attention.bias",
        "masked_bias",
        "embed_positions.weights",
        "position_ids",
    ];
    ENDS.iter().any(|end| name.ends_with(end))
}
