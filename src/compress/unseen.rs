//! Inputs that calibration has told nothing of: a neuron that no token fired, or a handful did.
//!
//! By its statistics such an input costs nothing, and a method that believes them ruins its column:
//! GPTQ's program sets it to zero, SparseGPT and Wanda remove its weights first, AWQ's scales are
//! paid for by it. Of an input that a few tokens met, GPTQ fits the column to the errors on those
//! tokens. On another text that uses the input, more is lost than by plain rounding.
//!
//! Here such inputs are given the mean second moment of all others and no correlation: GPTQ then
//! rounds their columns plainly and makes nothing good by them, and a search weighs their errors as
//! it weighs those of an ordinary input.

use super::calibrate::InputStatistics;
use super::tensors::to_vec64;
use crate::report::UnseenInputs;
use tch::{Kind, Tensor};

/// An input counts as unseen where the tokens that met it are fewer than this …
const FEW_TOKENS: f64 = 16.0;
/// … and than this share of all tokens.
const FEW_OF_ALL: f64 = 1.0 / 32.0;

/// Counts of unseen inputs, and the Hessian before they were filled in.
pub struct Unseen {
    /// How many there are.
    pub inputs: UnseenInputs,
    /// The Hessian before it was filled in, by which errors on the calibration are measured.
    pub hessian: Tensor,
}

/// Unseen inputs of a layer, by their sums over tokens.
pub struct Marks {
    /// Inputs that no token met.
    never: Vec<bool>,
    /// Inputs that a few tokens met.
    rarely: Vec<bool>,
    /// Mean second moment of all others; 1 where there is none.
    pub mean_square: f64,
}

impl Marks {
    /// From Σ|x| and Σx² over `tokens`.
    ///
    /// (Σ|x|)² / Σx² is the number of tokens that met an input where all met it alike, and less
    /// otherwise (Cauchy and Schwarz). An input of large second moment is an outlier that few
    /// tokens make, such as the first of each sequence, and is seen.
    pub fn new(tokens: f64, magnitudes: &[f64], squares: &[f64]) -> Self {
        let few = FEW_TOKENS.min(FEW_OF_ALL * tokens);
        let mean = |of: &dyn Fn(usize) -> bool| {
            let members: Vec<f64> = (0..squares.len()).filter(|&i| of(i)).map(|i| squares[i]).collect();
            members.iter().sum::<f64>() / members.len().max(1) as f64
        };
        let never: Vec<bool> = squares.iter().map(|&square| square <= 0.0).collect();
        let mean_of_met = mean(&|i| !never[i]);
        let is_rare = |i: usize| !never[i] && squares[i] < mean_of_met && magnitudes[i].powi(2) / squares[i] < few;
        let rarely: Vec<bool> = (0..squares.len()).map(is_rare).collect();
        let mean_square = mean(&|i| !never[i] && !rarely[i]) / tokens;
        Self { never, rarely, mean_square: if mean_square > 0.0 { mean_square } else { 1.0 } }
    }

    /// True if an input is unseen.
    pub fn has(&self, input: usize) -> bool {
        self.never[input] || self.rarely[input]
    }

    /// Unseen inputs `[in]`, 1 where one is.
    pub fn mask(&self) -> Vec<bool> {
        (0..self.never.len()).map(|input| self.has(input)).collect()
    }

    /// Counts of unseen inputs; `None` where there are none.
    pub fn count(&self) -> Option<UnseenInputs> {
        let count = |marks: &[bool]| marks.iter().filter(|mark| **mark).count();
        let (never, rarely) = (count(&self.never), count(&self.rarely));
        (never + rarely > 0).then(|| UnseenInputs { never, rarely, share: (never + rarely) as f64 / self.never.len() as f64 })
    }
}

impl InputStatistics {
    /// The unseen inputs.
    pub fn unseen(&self) -> Marks {
        let sums = |means: &Tensor, factor: f64| to_vec64(means).into_iter().map(|mean| mean * factor * self.tokens).collect::<Vec<_>>();
        Marks::new(self.tokens, &sums(&self.mean_magnitude, 1.0 / self.power), &sums(&self.hessian.diag(0), 0.5))
    }

    /// Gives unseen inputs the mean second moment and mean magnitude of all others, and no
    /// correlation. `None`, and nothing changes, where there are none.
    pub fn fill_unseen(&mut self) -> Option<Unseen> {
        let marks = self.unseen();
        let inputs = marks.count()?;
        let hessian = self.hessian.copy();
        let device = hessian.device();
        let mask = marks.mask();
        let places: Vec<i64> = (0..mask.len() as i64).filter(|&i| mask[i as usize]).collect();
        let places = Tensor::from_slice(&places).to_device(device);
        let mask = Tensor::from_slice(&mask).to_device(device);
        let _ = self.hessian.index_fill_(0, &places, 0.0);
        let _ = self.hessian.index_fill_(1, &places, 0.0);
        let _ = self.hessian.diagonal(0, 0, 1).masked_fill_(&mask, 2.0 * marks.mean_square);
        let seen = self.mean_magnitude.masked_select(&mask.logical_not());
        let mean = if seen.numel() == 0 { 1.0 } else { seen.mean(Kind::Double).double_value(&[]) };
        self.mean_magnitude = self.mean_magnitude.masked_fill(&mask, mean);
        Some(Unseen { inputs, hessian })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compress::to_vec;
    use tch::Device;

    /// Of a thousand tokens, none meets input 1, four meet input 3, forty input 4, and input 5 is an
    /// outlier of four tokens.
    #[test]
    fn inputs_that_few_tokens_met_are_filled_in() {
        tch::manual_seed(1);
        let x = Tensor::randn([1000, 6], (Kind::Float, Device::Cpu));
        let met = |input: i64, tokens: i64, factor: f64| {
            let mut column = x.narrow(1, input, 1);
            let _ = column.narrow(0, tokens, 1000 - tokens).fill_(0.0);
            let _ = column.g_mul_scalar_(factor);
        };
        met(1, 0, 1.0);
        met(3, 4, 1.0);
        met(4, 40, 1.0);
        met(5, 4, 100.0);
        let hessian = x.tr().matmul(&x) * (2.0 / 1000.0);
        let mean_magnitude = x.abs().mean_dim(0, false, Kind::Float);
        let mut input = InputStatistics {
            tokens: 1000.0,
            power: 1.0,
            hessian: hessian.copy(),
            greatest_magnitude: mean_magnitude.copy(),
            mean_magnitude,
        };
        let unseen = input.fill_unseen().unwrap();
        assert_eq!((unseen.inputs.never, unseen.inputs.rarely), (1, 1));
        assert!((unseen.inputs.share - 1.0 / 3.0).abs() < 1e-12);
        assert!(unseen.hessian.equal(&hessian), "errors are measured by what was met");
        let diagonal = to_vec(&hessian.diag(0));
        let mean = (diagonal[0] + diagonal[2] + diagonal[4] + diagonal[5]) / 4.0;
        for (i, row) in to_vec(&input.hessian).chunks(6).enumerate() {
            for (j, &number) in row.iter().enumerate() {
                let expected = match ([1, 3].contains(&i) || [1, 3].contains(&j), i == j) {
                    (true, true) => mean,
                    (true, false) => 0.0,
                    (false, _) => hessian.double_value(&[i as i64, j as i64]) as f32,
                };
                assert!((number - expected).abs() <= 1e-5 * mean, "{i}, {j}: {number}, not {expected}");
            }
        }
        // Where every input is met, nothing changes.
        let mut met = InputStatistics {
            tokens: 1000.0,
            power: 1.0,
            hessian: Tensor::eye(6, (Kind::Float, Device::Cpu)),
            mean_magnitude: Tensor::full([6], 0.5, (Kind::Float, Device::Cpu)),
            greatest_magnitude: Tensor::ones([6], (Kind::Float, Device::Cpu)),
        };
        assert!(met.fill_unseen().is_none());
    }
}
