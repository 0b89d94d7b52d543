//! Two schemes in one stage: the layers that are most sensitive get more bits, within a budget.

use super::error::{Checked, RecipeError};
use super::raw::RawScheme;
use super::resolve::scheme;
use crate::model::{ModelSpec, ParameterKind, Part};
use crate::quant::Scheme;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A wider scheme for the layers that lose most by the stage's own.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct MixedPrecision {
    /// At most so many bits a weight of the linear layers that the stage quantises, scales
    /// included, padding aside.
    pub bits_per_weight: f64,
    /// What those get that need more.
    pub scheme: Scheme,
}

/// As it is written.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "expected a budget, as in mixed_precision = { bits_per_weight = 2.4 }")]
pub(super) struct RawMixedPrecision {
    bits_per_weight: f64,
    #[serde(default = "super::raw::default_bits")]
    bits: usize,
    #[serde(default = "super::raw::default_group_size")]
    group_size: usize,
}

/// A linear layer that the stage quantises.
pub struct Candidate {
    /// Canonical name.
    pub name: String,
    /// How many weights it has.
    pub weights: f64,
    /// Bits of all of them as planned.
    pub bits: f64,
    /// Bits of all of them in the wider scheme.
    pub wide_bits: f64,
}

impl Candidate {
    fn more(&self) -> f64 {
        self.wide_bits - self.bits
    }
}

impl RawMixedPrecision {
    pub fn checked(&self, schemes: &BTreeMap<String, Scheme>, spec: &ModelSpec) -> Checked<MixedPrecision> {
        // Sensitivity counts what a layer loses as planned, as if nothing were lost in more bits.
        if self.bits < 4 {
            return Err(RecipeError::at("mixed_precision")(RecipeError::NarrowWideScheme { bits: self.bits }));
        }
        let raw = RawScheme { bits: self.bits, group_size: self.group_size, ..RawScheme::default() };
        let mixed = MixedPrecision { bits_per_weight: self.bits_per_weight, scheme: scheme("mixed_precision", raw)? };
        mixed.check(schemes, spec)?;
        Ok(mixed)
    }
}

impl MixedPrecision {
    /// Refuses a budget that changes nothing, or that nothing can keep.
    pub fn check(&self, schemes: &BTreeMap<String, Scheme>, spec: &ModelSpec) -> Checked<()> {
        let (mut weights, mut bits, mut wide_bits, mut least_more) = (0.0, 0.0, 0.0, f64::INFINITY);
        for candidate in self.candidates(schemes, spec) {
            weights += candidate.weights;
            bits += candidate.bits;
            wide_bits += candidate.wide_bits;
            least_more = least_more.min(candidate.more());
        }
        let (least, most) = ((bits + least_more) / weights, wide_bits / weights);
        match self.bits_per_weight {
            budget if budget >= least && budget < most => Ok(()),
            budget => {
                let scheme = self.scheme;
                let range =
                    format!("at least {least:.4}, where the smallest layer has {scheme}, and below {most:.4}, where all layers have");
                Err(RecipeError::at("mixed_precision")(RecipeError::range("bits_per_weight =", budget, range)))
            }
        }
    }

    /// The layers that share the budget, block by block.
    pub fn candidates(&self, schemes: &BTreeMap<String, Scheme>, spec: &ModelSpec) -> impl Iterator<Item = Candidate> {
        let parameters = (0..spec.blocks.len()).flat_map(|block| spec.parameters_of(Part::Block(block)));
        parameters.filter(|p| p.kind == ParameterKind::Linear).filter_map(|p| {
            let own = schemes.get(&p.name)?;
            let shape = [p.shape[0], p.shape[1]];
            let weights = (shape[0] * shape[1]) as f64;
            let bits = |scheme: &Scheme| weights * scheme.bits_per_weight(shape);
            Some(Candidate { bits: bits(own), wide_bits: bits(&self.scheme), weights, name: p.name })
        })
    }

    /// Those that get the wider scheme, by what each loses in its own: the greatest loss for
    /// each bit more goes first, as long as one fits. (The greedy solution of the knapsack.)
    pub fn allocate(&self, schemes: &BTreeMap<String, Scheme>, spec: &ModelSpec, sensitivities: &BTreeMap<String, f64>) -> Vec<String> {
        let mut candidates: Vec<Candidate> = self.candidates(schemes, spec).collect();
        let mut left: f64 = candidates.iter().map(|candidate| self.bits_per_weight * candidate.weights - candidate.bits).sum();
        let rate = |candidate: &Candidate| sensitivities[&candidate.name] / candidate.more();
        candidates.sort_by(|a, b| rate(b).total_cmp(&rate(a)));
        candidates.retain(|candidate| {
            let fits = candidate.more() <= left;
            left -= if fits { candidate.more() } else { 0.0 };
            fits
        });
        candidates.into_iter().map(|candidate| candidate.name).collect()
    }
}
