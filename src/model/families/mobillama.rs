//! `mobillama`: Llama with one feed-forward for all blocks, theta fixed at 10,000
//! and a head of its own. Configurations name a number of key heads that the
//! published code does not read, and do not say whether the feed-forward is
//! shared; the weights tell both.
//!
//! Source: mbzuai-oryx/MobiLlama, `model_utils/modeling_mobillama.py`.

use super::{Config, Family, llama};
use crate::checkpoint::Checkpoint;
use crate::error::Result;
use crate::model::ModelSpec;
use crate::spec::Rotary;

/// The row of this family.
pub const FAMILY: Family = Family { model_type: "mobillama", models: "MobiLlama", spec, settle: Some(settle), ..llama::FAMILY };

fn spec(config: &Config) -> Result<ModelSpec> {
    let mut spec = llama::spec(config)?;
    spec.tied = false;
    spec.attentions_mut().for_each(|attention| attention.rotary = Some(Rotary::plain(10_000.0)));
    Ok(spec)
}

fn settle(mut spec: ModelSpec, checkpoint: &Checkpoint) -> Result<ModelSpec> {
    let tensor = |block: usize, role: &str| {
        let name = format!("model.layers.{block}.{role}.weight");
        checkpoint.find(&name).map(|name| checkpoint.tensor(name)).transpose()
    };
    let key_rows = tensor(0, "self_attn.k_proj")?.and_then(|key| key.shape.first().copied());
    for attention in spec.attentions_mut() {
        attention.n_kv_heads = key_rows.map_or(attention.n_heads, |rows| rows / attention.head_dim);
    }
    // Some files hold the one feed-forward under each block's name.
    let first = tensor(0, "mlp.up_proj")?;
    for (i, ffn) in spec.feed_forwards_mut().enumerate().skip(1) {
        let own = tensor(i, "mlp.up_proj")?;
        let shared = own.is_none_or(|own| first.as_ref().is_some_and(|first| own.shape == first.shape && *own.bytes == *first.bytes));
        ffn.weights_of = shared.then_some(0);
    }
    Ok(spec)
}
