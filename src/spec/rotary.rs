//! Rotary position embedding.

use super::is_default;
use serde::{Deserialize, Serialize};

/// Rotary position embedding: pairs of dimensions are turned, (i, i + d/2) unless
/// told otherwise.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rotary {
    /// Base of the geometric series of wavelengths.
    pub theta: f64,
    /// Leading dimensions of a head that are turned; all where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dims: Option<usize>,
    /// Pairs are (2i, 2i + 1).
    #[serde(default, skip_serializing_if = "is_default")]
    pub neighbours: bool,
    /// Cosines and sines are rounded to multiples of one part in so many (tables in
    /// 8 bits: 127).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub steps: Option<u32>,
    /// Stretching to longer contexts.
    pub scaling: RotaryScaling,
}

/// How rotary frequencies are stretched.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RotaryScaling {
    /// As trained.
    None,
    /// All frequencies divided by `factor`.
    Linear {
        /// Ratio of new to old context.
        factor: f64,
    },
    /// Llama 3.1: low frequencies divided by `factor`, high ones kept, a ramp between.
    Llama3 {
        /// Ratio of new to old context.
        factor: f64,
        /// Wavelengths longer than `original_context / low_freq_factor` are divided.
        low_freq_factor: f64,
        /// Wavelengths shorter than `original_context / high_freq_factor` are kept.
        high_freq_factor: f64,
        /// Context before stretching.
        original_context: f64,
    },
    /// YaRN (Peng et al. 2023): the same with the ramp over dimensions.
    Yarn {
        /// Ratio of new to old context.
        factor: f64,
        /// Pairs before this one keep their frequency.
        ramp_start: f64,
        /// Pairs from this one on are divided.
        ramp_end: f64,
        /// What cosines and sines are multiplied by.
        amplitude: f64,
    },
    /// LongRoPE (Ding et al. 2024): each frequency divided by a factor of its own,
    /// by one list or another, as long as the sequence is.
    LongRope {
        /// One divisor a pair, for sequences of up to `original_context` tokens.
        short: Vec<f64>,
        /// The same for longer ones.
        long: Vec<f64>,
        /// Context before stretching.
        original_context: usize,
        /// What cosines and sines are multiplied by.
        amplitude: f64,
    },
}

impl Rotary {
    /// Unscaled, over whole heads.
    pub fn plain(theta: f64) -> Self {
        Self { theta, dims: None, neighbours: false, steps: None, scaling: RotaryScaling::None }
    }

    /// Dimensions of a head that are turned.
    pub fn dims(&self, head_dim: usize) -> usize {
        self.dims.unwrap_or(head_dim)
    }

    /// Angle per position of each pair, in radians, for a sequence of `tokens` in
    /// all.
    ///
    /// Source: RoFormer (Su et al. 2021, section 3.2.2); for the scaled kinds
    /// transformers, `modeling_rope_utils.py`.
    pub fn frequencies(&self, head_dim: usize, tokens: usize) -> Vec<f64> {
        let dims = self.dims(head_dim);
        let plain = (0..dims / 2).map(|i| self.theta.powf(-2.0 * i as f64 / dims as f64));
        plain.enumerate().map(|(pair, frequency)| self.scaling.apply(pair, frequency, tokens)).collect()
    }

    /// (cos, sin) of each pair at each of some positions, `[positions, pairs]`, in a
    /// sequence of `tokens` in all.
    pub fn angles(&self, head_dim: usize, positions: impl Iterator<Item = usize>, tokens: usize) -> Vec<(f64, f64)> {
        let frequencies = self.frequencies(head_dim, tokens);
        let amplitude = self.scaling.amplitude();
        let rounded = |x: f64| self.steps.map_or(x, |steps| (x * f64::from(steps)).round_ties_even() / f64::from(steps));
        let angle = |p: usize, f: &f64| {
            let (sin, cos) = (p as f64 * f).sin_cos();
            (rounded(cos) * amplitude, rounded(sin) * amplitude)
        };
        positions.flat_map(|p| frequencies.iter().map(move |f| angle(p, f)).collect::<Vec<_>>()).collect()
    }
}

impl RotaryScaling {
    fn apply(&self, pair: usize, frequency: f64, tokens: usize) -> f64 {
        match self {
            RotaryScaling::None => frequency,
            RotaryScaling::Linear { factor } => frequency / factor,
            RotaryScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } => {
                let turns = original_context * frequency / std::f64::consts::TAU;
                // 0 where the wavelength is long, 1 where it is short.
                let keep = ((turns - low_freq_factor) / (high_freq_factor - low_freq_factor)).clamp(0.0, 1.0);
                keep * frequency + (1.0 - keep) * frequency / factor
            }
            RotaryScaling::Yarn { factor, ramp_start, ramp_end, .. } => {
                let divide = ((pair as f64 - ramp_start) / (ramp_end - ramp_start)).clamp(0.0, 1.0);
                (1.0 - divide) * frequency + divide * frequency / factor
            }
            RotaryScaling::LongRope { short, long, original_context, .. } => {
                let divisors = if tokens > *original_context { long } else { short };
                frequency / divisors[pair]
            }
        }
    }

    fn amplitude(&self) -> f64 {
        match self {
            RotaryScaling::Yarn { amplitude, .. } | RotaryScaling::LongRope { amplitude, .. } => *amplitude,
            _ => 1.0,
        }
    }

    /// Length beyond which LongRoPE uses its long factors.
    pub fn turning_point(&self) -> Option<usize> {
        match self {
            RotaryScaling::LongRope { original_context, .. } => Some(*original_context),
            _ => None,
        }
    }
}
