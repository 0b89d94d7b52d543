//! Low-rank corrections that are trained in place of a matrix.
//!
//! Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models" (2021), section 4.1.

use crate::random::Random;
use tch::{Kind, Tensor};

/// W + alpha / rank · B A.
pub struct Adapter {
    /// `[rank, in]`
    pub a: Tensor,
    /// `[out, rank]`, zero at first, so that nothing is changed.
    pub b: Tensor,
    scale: f64,
}

impl Adapter {
    /// For the matrix of a name `[out, in]`; A is uniform within ±1/√in, drawn from the
    /// seed and the name.
    pub fn new(name: &str, matrix: &Tensor, rank: usize, alpha: f64, seed: u64) -> Self {
        let (outputs, inputs) = matrix.size2().expect("a matrix");
        let stream = name.bytes().fold(0, |hash: u64, byte| hash.wrapping_mul(0x0100_0000_01b3) ^ u64::from(byte));
        let random = Random::new(seed, stream);
        let bound = 1.0 / (inputs as f64).sqrt();
        let a: Vec<f32> = (0..rank as u64 * inputs as u64).map(|i| (bound * (2.0 * random.uniform(i) - 1.0)) as f32).collect();
        let leaf = |tensor: Tensor| tensor.to_device(matrix.device()).to_kind(matrix.kind()).set_requires_grad(true);
        Self {
            a: leaf(Tensor::from_slice(&a).view([rank as i64, inputs])),
            b: leaf(Tensor::zeros([outputs, rank as i64], (Kind::Float, matrix.device()))),
            scale: alpha / rank as f64,
        }
    }

    /// The corrected matrix.
    pub fn applied(&self, matrix: &Tensor) -> Tensor {
        matrix + self.b.matmul(&self.a) * self.scale
    }
}
