//! Two schemes in one stage: the layers that need more get more, within a budget.

use super::raw::RawScheme;
use super::resolve::scheme;
use crate::model::{ModelSpec, ParameterKind, Part};
use crate::quant::Scheme;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A richer scheme for the layers that lose most by the stage's own.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Mix {
    /// At most so many bits a weight of the linear layers that the stage quantises, scales
    /// included.
    pub budget: f64,
    /// What those get that need more.
    pub scheme: Scheme,
}

/// As it is written.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawMix {
    budget: f64,
    #[serde(default = "four_bits")]
    bits: usize,
    #[serde(default = "columns_of_group")]
    group_size: usize,
}

fn four_bits() -> usize {
    4
}

fn columns_of_group() -> usize {
    64
}

/// A linear layer that the stage quantises.
pub struct MixedLayer {
    /// Canonical name.
    pub name: String,
    /// How many it has.
    pub weights: f64,
    /// What all of them take as planned.
    pub bits: f64,
    /// What they would take in the richer scheme.
    pub richer_bits: f64,
}

impl RawMix {
    /// For the schemes of a stage.
    pub fn checked(&self, method: &str, schemes: &BTreeMap<String, Scheme>, spec: &ModelSpec) -> Result<Mix, String> {
        let raw = RawScheme { bits: self.bits, group_size: self.group_size, ..RawScheme::default() };
        let mix = Mix { budget: self.budget, scheme: scheme(&format!("{method}: mix"), raw)? };
        let all = |bits: fn(&MixedLayer) -> f64| {
            let (sum, weights) = mix.layers(schemes, spec).fold((0.0, 0.0), |sums, l| (sums.0 + bits(&l), sums.1 + l.weights));
            sum / weights
        };
        let (least, most) = (all(|layer| layer.bits), all(|layer| layer.richer_bits));
        match () {
            () if least >= most => Err(format!("{method}: mix: {} takes no more bits than the stage's own; set more bits", mix.scheme)),
            () if !(self.budget > least && self.budget < most) => Err(format!(
                "{method}: mix: budget = {} must lie between {least:.3}, the bits a weight of layers without a mix, and {most:.3}, those of {}",
                self.budget, mix.scheme
            )),
            () => Ok(mix),
        }
    }
}

impl Mix {
    /// The layers that share the budget, block by block.
    pub fn layers(&self, schemes: &BTreeMap<String, Scheme>, spec: &ModelSpec) -> impl Iterator<Item = MixedLayer> {
        let parameters = (0..spec.blocks.len()).flat_map(|block| spec.parameters_of(Part::Block(block)));
        parameters.filter(|p| p.kind == ParameterKind::Linear).filter_map(|p| {
            let own = schemes.get(&p.name)?;
            let shape = [p.shape[0], p.shape[1]];
            let weights = (shape[0] * shape[1]) as f64;
            let bits = |scheme: &Scheme| weights * scheme.bits_per_weight(shape);
            Some(MixedLayer { bits: bits(own), richer_bits: bits(&self.scheme), weights, name: p.name })
        })
    }

    /// Those that get the richer scheme where the others keep their own, by what each loses
    /// in its own: the greatest loss for each bit more goes first, as long as one fits.
    pub fn richer(&self, schemes: &BTreeMap<String, Scheme>, spec: &ModelSpec, lost: &BTreeMap<String, f64>) -> Vec<String> {
        let mut layers: Vec<MixedLayer> = self.layers(schemes, spec).collect();
        let mut left: f64 = layers.iter().map(|layer| self.budget * layer.weights - layer.bits).sum();
        let more = |layer: &MixedLayer| layer.richer_bits - layer.bits;
        layers.sort_by(|a, b| (lost[&b.name] / more(b)).total_cmp(&(lost[&a.name] / more(a))));
        layers.retain(|layer| {
            let fits = more(layer) <= left;
            left -= if fits { more(layer) } else { 0.0 };
            fits
        });
        layers.into_iter().map(|layer| layer.name).collect()
    }
}
