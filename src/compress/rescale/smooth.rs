//! SmoothQuant: the outliers of activations are moved into the weights as far as
//! both are equally hard to quantise.
//!
//! Xiao, Lin, Seznec, Wu, Demouth and Han, "SmoothQuant: Accurate and Efficient
//! Post-Training Quantization for Large Language Models" (2023), section 4,
//! equation 4. As there, inputs behind norms are smoothed, and no others.

use super::{Channels, Reader, Rescaling};
use crate::forward::trace::Producer;
use tch::{Kind, Tensor};

/// The method.
pub struct Smooth {
    /// How much of the difficulty goes to the weights: 0 none, 1 all.
    pub alpha: f64,
}

impl Rescaling for Smooth {
    fn takes(&self, producer: &Producer) -> bool {
        !matches!(producer, Producer::Rows { .. })
    }

    /// max |X_j|^α / max |W_j|^(1 − α) for each channel j.
    fn scales(&self, readers: &[Reader], channels: &Channels) -> Option<Tensor> {
        let greatest = |numbers: &dyn Fn(&Reader) -> Tensor| {
            let all: Vec<Tensor> = readers.iter().map(|reader| channels.greatest(&numbers(reader))).collect();
            Tensor::stack(&all, 0).amax(0, false)
        };
        let activations = greatest(&|reader| reader.input.greatest_magnitude.shallow_clone());
        let weights = greatest(&|reader| reader.weight.abs().amax(0, false));
        let scales = activations.pow_tensor_scalar(self.alpha) / weights.pow_tensor_scalar(1.0 - self.alpha);
        // A channel that is never used, or never read, is scaled as the others are on the whole:
        // left as it was, it would make the ranges of its groups too wide, or too narrow.
        let idle = activations.eq(0.0).logical_or(&weights.eq(0.0));
        let others = scales.masked_select(&idle.logical_not());
        let middle = if others.numel() == 0 { 1.0 } else { others.log().mean(Kind::Double).exp().double_value(&[]) };
        Some(scales.masked_fill(&idle, middle).clamp_min(1e-5))
    }
}
