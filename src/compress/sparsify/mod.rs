//! Methods that make weights of linear layers zero. A new one = one file here, one
//! variant of [`SparsityMethod`], one arm of [`sparsifier`].
//!
//! What they leave is as dense as it was: zeros are stored and multiplied like other
//! numbers. It is to compare methods by, and for runtimes that skip zeros.

mod magnitude;
mod sparsegpt;
mod wanda;

pub use magnitude::Magnitude;
pub use sparsegpt::{SparseGpt, sparsegpt};
pub use wanda::Wanda;

use super::calibrate::InputStatistics;
use super::tensors::to_vec;
use crate::error::Result;
use crate::recipe::{Sparsify, SparsityMethod};
use tch::Tensor;

/// A sparsified layer.
pub struct SparseLayer {
    /// `[out, in]`; what is gone is exactly zero.
    pub weight: Tensor,
    /// What the user should know, such as damping that had to be raised.
    pub remarks: Vec<String>,
}

/// A method that works on linear layers which share an input. Pure: no I/O.
pub trait Sparsifier {
    /// Sparsifies all layers `[out, in]`, f32, of one input by what is known of it.
    fn sparsify(&self, weights: &[Tensor], input: &InputStatistics) -> Result<Vec<SparseLayer>>;
}

/// What carries a plan out.
pub fn sparsifier(plan: &Sparsify) -> Box<dyn Sparsifier> {
    let sparsity = plan.sparsity;
    match plan.method {
        SparsityMethod::Magnitude => Box::new(Magnitude { sparsity }),
        SparsityMethod::Wanda => Box::new(Wanda { sparsity }),
        SparsityMethod::SparseGpt(options) => Box::new(SparseGpt { sparsity, options }),
    }
}

/// A weight without what is marked, and otherwise as it was.
fn without(weight: &Tensor, marks: &[bool]) -> SparseLayer {
    let marks = Tensor::from_slice(marks).view_as(weight).to_device(weight.device());
    SparseLayer { weight: weight.masked_fill(&marks, 0.0), remarks: Vec::new() }
}

/// |W|, row by row.
fn magnitudes(weight: &Tensor) -> Vec<f32> {
    to_vec(&weight.abs())
}
