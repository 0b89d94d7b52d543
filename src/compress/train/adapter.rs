//! Low-rank corrections that are trained in place of a matrix.
//!
//! Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models" (2021), section 4.1.

use crate::random::Random;
use tch::{Device, Kind, Tensor};

/// W + alpha / rank · B A.
pub struct Adapter {
    /// `[rank, in]`
    pub a: Tensor,
    /// `[out, rank]`, zero at first, so that nothing is changed.
    pub b: Tensor,
    scale: f64,
}

impl Adapter {
    /// For the matrix of a name `[out, in]`; A is drawn by the seed and the name.
    pub fn new(name: &str, matrix: &Tensor, rank: usize, alpha: f64, seed: u64) -> Self {
        let (outputs, inputs) = matrix.size2().expect("a matrix");
        let of = (matrix.kind(), matrix.device());
        Self {
            a: drawn(Random::named(seed, name), [rank as i64, inputs], of),
            b: Tensor::zeros([outputs, rank as i64], of).set_requires_grad(true),
            scale: alpha / rank as f64,
        }
    }

    /// The corrected matrix.
    pub fn applied(&self, matrix: &Tensor) -> Tensor {
        matrix + self.b.matmul(&self.a) * self.scale
    }
}

/// A matrix `[out, in]` to be trained: uniform within ±1/√in.
pub fn drawn(random: Random, [outputs, inputs]: [i64; 2], (kind, device): (Kind, Device)) -> Tensor {
    let bound = 1.0 / (inputs as f64).sqrt();
    let numbers: Vec<f32> = (0..(outputs * inputs) as u64).map(|i| (bound * (2.0 * random.uniform(i) - 1.0)) as f32).collect();
    Tensor::from_slice(&numbers).view([outputs, inputs]).to_kind(kind).to_device(device).set_requires_grad(true)
}
