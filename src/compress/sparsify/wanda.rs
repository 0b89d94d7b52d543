//! Wanda: of each output's weights those go that are smallest once multiplied by the
//! norm of what they meet, |W[i,j]| · ‖X[j]‖₂.
//!
//! Sun, Liu, Bair and Kolter, "A Simple and Effective Pruning Approach for Large
//! Language Models" (2023), section 3, equation 1 and algorithm 1. ‖X[j]‖² is the
//! Hessian's diagonal up to a factor that all columns have.

use super::{SparseLayer, Sparsifier, magnitudes, without};
use crate::compress::calibrate::InputStatistics;
use crate::compress::solve::mask::lowest;
use crate::compress::tensors::to_vec;
use crate::error::Result;
use crate::recipe::Sparsity;
use tch::Tensor;

/// The method.
pub struct Wanda {
    /// How many weights go.
    pub sparsity: Sparsity,
}

impl Sparsifier for Wanda {
    fn sparsify(&self, weights: &[Tensor], input: &InputStatistics) -> Result<Vec<SparseLayer>> {
        let norms = to_vec(&input.hessian.diag(0).sqrt());
        let prune = |weight: &Tensor| {
            let mut scores = magnitudes(weight);
            for row in scores.chunks_exact_mut(norms.len()) {
                row.iter_mut().zip(&norms).for_each(|(score, norm)| *score *= norm);
            }
            without(weight, &lowest(&scores, norms.len(), norms.len(), self.sparsity))
        };
        Ok(weights.iter().map(prune).collect())
    }
}
