//! Magnitude pruning: the smallest weights of a layer go.
//!
//! Han, Pool, Tran and Dally, "Learning both Weights and Connections for Efficient
//! Neural Networks" (2015), section 3, without its retraining. The calibration does not
//! count.

use super::{SparseLayer, Sparsifier, magnitudes, without};
use crate::compress::calibrate::InputStatistics;
use crate::compress::solve::mask::lowest;
use crate::error::Result;
use crate::recipe::Sparsity;
use tch::Tensor;

/// The method.
pub struct Magnitude {
    /// How many weights go.
    pub sparsity: Sparsity,
}

impl Sparsifier for Magnitude {
    fn sparsify(&self, weights: &[Tensor], _: &InputStatistics) -> Result<Vec<SparseLayer>> {
        let prune = |weight: &Tensor| {
            let columns = weight.size()[1] as usize;
            without(weight, &lowest(&magnitudes(weight), columns, weight.numel(), self.sparsity))
        };
        Ok(weights.iter().map(prune).collect())
    }
}
