//! How much each token of the calibration counts in the statistics.
//!
//! After Sung et al., "RSQ: Learning from Important Tokens Leads to Better Quantized
//! LLMs" (2025), whose Hessian weighs tokens by scores that lie between a least value
//! and 1 in each sequence.

use crate::recipe::TokenImportance;
use std::collections::BTreeMap;
use tch::{Device, Kind, Tensor};

/// Weight of the token with the lowest score of its sequence; the highest has 1.
const LEAST: f64 = 0.01;

/// Source of the token weights of hidden states.
pub enum Importance {
    /// All count alike.
    Equal,
    /// Known from the start: of each batch, `[batch · tokens]`.
    Fixed(Vec<Tensor>),
    /// Norms of what enters the block at hand.
    ActivationNorm,
}

impl Importance {
    /// For sequences of one length that go through blocks `batch` at a time.
    pub fn new(by: TokenImportance, sequences: &[Vec<u32>], batch: usize, device: Device) -> Self {
        match by {
            TokenImportance::Equal => Self::Equal,
            TokenImportance::ActivationNorm => Self::ActivationNorm,
            TokenImportance::Rarity => {
                let mut counts = BTreeMap::new();
                sequences.iter().flatten().for_each(|id| *counts.entry(id).or_insert(0u32) += 1);
                let score = |id: &u32| -f64::from(counts[id]).ln();
                let weights = |some: &[Vec<u32>]| {
                    let scores: Vec<f64> = some.iter().flatten().map(score).collect();
                    between_least_and_one(&Tensor::from_slice(&scores).view([some.len() as i64, -1]).to_device(device))
                };
                Self::Fixed(sequences.chunks(batch).map(weights).collect())
            }
        }
    }

    /// Weights `[batch · tokens]` of a batch whose hidden states are `x` `[batch, tokens,
    /// hidden]`; `None` where all are 1.
    pub fn of(&self, batch: usize, x: &Tensor) -> Option<Tensor> {
        match self {
            Self::Equal => None,
            Self::Fixed(weights) => Some(weights[batch].shallow_clone()),
            Self::ActivationNorm => Some(between_least_and_one(&x.to_kind(Kind::Float).norm_scalaropt_dim(2, [-1], false))),
        }
    }
}

/// Scores `[sequences, tokens]` as weights `[sequences · tokens]`, f32.
fn between_least_and_one(scores: &Tensor) -> Tensor {
    let (least, greatest) = (scores.amin([1], true), scores.amax([1], true));
    let span = (&greatest - &least).clamp_min(f64::MIN_POSITIVE);
    // Where all are alike, all are as important as can be.
    let share = ((scores - least) / span).where_self(&greatest.gt_tensor(&scores.amin([1], true)), &Tensor::ones_like(scores));
    (share * (1.0 - LEAST) + LEAST).to_kind(Kind::Float).view(-1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compress::to_vec;

    #[test]
    fn rare_tokens_and_great_states_count_most() {
        let sequences = vec![vec![5, 5, 5, 9], vec![5, 7, 7, 5], vec![5, 5, 5, 5]];
        let rarity = Importance::new(TokenImportance::Rarity, &sequences, 2, Device::Cpu);
        let x = Tensor::zeros([2, 4, 3], (Kind::Float, Device::Cpu));
        let found = to_vec(&rarity.of(0, &x).unwrap());
        assert_eq!(found[..4], [0.01, 0.01, 0.01, 1.0]);
        assert_eq!(found[4..], [0.01, 1.0, 1.0, 0.01]);
        assert_eq!(to_vec(&rarity.of(1, &x).unwrap()), [1.0; 4]);

        let x = Tensor::from_slice2(&[[3.0f32, 4.0], [0.0, 1.0], [0.0, 3.0]]).unsqueeze(0);
        let found = to_vec(&Importance::ActivationNorm.of(0, &x).unwrap());
        assert!((found[0] - 1.0).abs() < 1e-6 && (found[1] - 0.01).abs() < 1e-6 && (found[2] - 0.505).abs() < 1e-6, "{found:?}");
    }
}
