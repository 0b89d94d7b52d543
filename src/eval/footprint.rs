//! Bytes and bits of a model, everything counted.

use crate::error::Result;
use crate::model::ParameterKind;
use crate::quant::{Weight, WeightStore};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// How much room a model's tensors take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Footprint {
    /// Unique weights; tied ones count once.
    pub parameters: u64,
    /// 8 × bytes of all tensors (codes, scales, zero points or offsets, places of
    /// columns, columns in 16 bits, codebooks, padding; not the tokenizer) over
    /// [`Footprint::parameters`].
    pub bits_per_weight: f64,
    /// The same over the linear layers of the blocks alone.
    pub bits_per_weight_linear: f64,
}

impl Footprint {
    /// Measures a model.
    pub fn of(store: &dyn WeightStore) -> Result<Self> {
        let (mut counted, mut codebooks) = (BTreeSet::new(), BTreeSet::new());
        let (mut weights, mut bytes, mut linear_weights, mut linear_bytes) = (0u64, 0u64, 0u64, 0u64);
        for parameter in store.spec().parameters() {
            let count = parameter.shape.iter().map(|&n| n as u64).product::<u64>();
            let weight = store.stored(&parameter.name)?;
            let mut size = weight.len_bytes() as u64;
            if let Weight::Packed(tensor) = &weight {
                let new = tensor.shared().filter(|(name, _)| counted.insert((*name).to_owned()));
                size += new.map(|(_, places)| size_of_val(places) as u64).sum::<u64>();
            }
            if let Weight::Packed(tensor) = &weight
                && let Some(codebook) =
                    tensor.codebook.as_ref().filter(|b| b.name.as_ref().is_some_and(|name| codebooks.insert(name.clone())))
            {
                size += codebook.len_bytes() as u64;
            }
            weights += count;
            bytes += size;
            if parameter.kind == ParameterKind::Linear {
                linear_weights += count;
                linear_bytes += size;
            }
        }
        let bits = |bytes: u64, weights: u64| 8.0 * bytes as f64 / weights as f64;
        Ok(Self { parameters: weights, bits_per_weight: bits(bytes, weights), bits_per_weight_linear: bits(linear_bytes, linear_weights) })
    }
}
