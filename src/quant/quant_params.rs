//! Quantisation parameters of a group (scale and zero point): how they are found, and codes by them.

use super::{Codebook, Scheme};
use half::f16;
use serde::{Deserialize, Serialize};

/// Floats that weights are solved in. f64 is for references and for Hessians
/// that are badly conditioned.
pub trait Real: ndarray::NdFloat {
    /// To the nearest integer, ties to even, for magnitudes up to 2²¹.
    fn round_even(self) -> Self;
    /// Exact.
    fn from_f16(value: f16) -> Self;
    /// Exact.
    fn from_f32(value: f32) -> Self;
    /// Rounded.
    fn to_f64(self) -> f64;
    /// Rounded.
    fn from_f64(value: f64) -> Self;
    /// Of a whole number.
    fn from_i32(value: i32) -> Self;
    /// Of a whole number within i32.
    fn to_i32(self) -> i32;
}

macro_rules! real {
    ($t:ty) => {
        impl Real for $t {
            #[inline]
            fn round_even(self) -> Self {
                // From here on floats are whole numbers. An instruction would do, but not
                // every machine has it, and this is vectorised on all of them.
                const WHOLE: $t = 1.5 / <$t>::EPSILON;
                (self + WHOLE) - WHOLE
            }
            fn from_f16(value: f16) -> Self {
                value.into()
            }
            fn from_f32(value: f32) -> Self {
                value.into()
            }
            fn to_f64(self) -> f64 {
                self.into()
            }
            fn from_f64(value: f64) -> Self {
                value as $t
            }
            fn from_i32(value: i32) -> Self {
                value as $t
            }
            fn to_i32(self) -> i32 {
                self as i32
            }
        }
    };
}
real!(f32);
real!(f64);

/// Scale, and zero point or offset, of one group.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct QuantParams {
    /// Distance of two integers, or factor of a codebook's numbers; positive and finite.
    pub scale: f16,
    /// The code of zero, of integers; 0 where there is a codebook.
    pub zero_point: i8,
    /// Added to a codebook's numbers once they are scaled; 0 of integers. Finite.
    pub offset: f16,
}

impl QuantParams {
    /// Zeros.
    pub const BLANK: Self = Self::of(f16::ONE, 0);

    /// The parameters of integer codes.
    pub const fn of(scale: f16, zero_point: i8) -> Self {
        Self { scale, zero_point, offset: f16::ZERO }
    }

    /// Parameters that span the least to the greatest value, zero included. The scale is
    /// rounded to its stored type here, before any code is chosen. A group
    /// of zeros gets scale 1.
    ///
    /// Source: GPTQ (Frantar et al. 2022), `quant.py`, `Quantizer.find_params`.
    pub fn min_max<T: Real>(scheme: Scheme, values: impl IntoIterator<Item = T>) -> Self {
        let (low, high) = values.into_iter().fold((T::zero(), T::zero()), |(low, high), v| (low.min(v), high.max(v)));
        Self::spanning(scheme, low.to_f64(), high.to_f64())
    }

    /// Parameters that span `low` (at most 0) to `high` (at least 0).
    fn spanning(scheme: Scheme, low: f64, high: f64) -> Self {
        let (first, last) = scheme.code.range();
        let levels = f64::from(last - first);
        let span = if scheme.symmetric { 2.0 * high.max(-low) } else { high - low };
        if span == 0.0 {
            let zero_point = if scheme.symmetric { scheme.code.middle() } else { first };
            return Self::of(f16::ONE, zero_point as i8);
        }
        let scale = storable(span / levels);
        let zero_point = if scheme.symmetric {
            scheme.code.middle()
        } else {
            (first + (-low / f64::from(scale)).round_ties_even().min(levels) as i32).clamp(first, last)
        };
        Self::of(scale, zero_point as i8)
    }

    /// Parameters that take magnitudes up to `greatest` about an offset to those of a
    /// codebook. Zeros get scale 1.
    pub(super) fn filling(codebook: &Codebook, greatest: f64, offset: f16) -> Self {
        let scale = if greatest == 0.0 { f16::ONE } else { storable(greatest / f64::from(codebook.greatest())) };
        Self { scale, zero_point: 0, offset }
    }

    /// The nearest code of integers.
    pub fn encode<T: Real>(&self, scheme: Scheme, value: T) -> i8 {
        self.encodes(scheme)(value)
    }

    /// To the nearest code of integers. Its constants are computed once for all values.
    #[inline]
    pub fn encodes<T: Real>(&self, scheme: Scheme) -> impl Fn(T) -> i8 + use<T> {
        let (steps, zero_point) = (self.steps(scheme), T::from_i32(self.zero_point.into()));
        move |value| (steps(value) + zero_point).to_i32() as i8
    }

    /// To the nearest value.
    #[inline]
    pub fn rounds<T: Real>(&self, scheme: Scheme) -> impl Fn(T) -> T + use<T> {
        let (steps, scale) = (self.steps(scheme), T::from_f16(self.scale));
        move |value| steps(value) * scale
    }

    /// To the nearest code, counted from the zero point. What it needs is made ready once:
    /// a search rounds many values by each candidate.
    #[inline]
    fn steps<T: Real>(&self, scheme: Scheme) -> impl Fn(T) -> T + use<T> {
        let scale = T::from_f16(self.scale);
        let (first, last) = scheme.code.range();
        let [first, last] = [first, last].map(|code| T::from_i32(code - i32::from(self.zero_point)));
        move |value| {
            let steps = value / scale;
            // NaN becomes the first, for which `max` would look twice.
            let steps = if steps > first { steps } else { first };
            (if steps < last { steps } else { last }).round_even()
        }
    }

    /// The value of an integer code.
    pub fn decode<T: Real>(&self, code: i8) -> T {
        T::from_f16(self.scale) * T::from_i32(i32::from(code) - i32::from(self.zero_point))
    }

    /// The values of codes of one group, of a codebook where there is one.
    pub fn decode_all(&self, codebook: Option<&Codebook>, codes: &[i8], values: &mut [f32]) {
        let (scale, offset, zero_point) = (self.scale.to_f32(), self.offset.to_f32(), i32::from(self.zero_point));
        let each = values.iter_mut().zip(codes);
        match codebook {
            None => each.for_each(|(value, &code)| *value = scale * (i32::from(code) - zero_point) as f32),
            Some(codebook) => each.for_each(|(value, &code)| *value = scale * codebook.value(code) + offset),
        }
    }

    /// The place of the nearest number of a codebook.
    pub fn encode_by<T: Real>(&self, codebook: &Codebook, value: T) -> i8 {
        codebook.nearest(((value - T::from_f16(self.offset)) / T::from_f16(self.scale)).to_f64())
    }

    /// The value of a code, of a codebook where there is one.
    pub fn decode_by<T: Real>(&self, codebook: Option<&Codebook>, code: i8) -> T {
        match codebook {
            None => self.decode(code),
            Some(codebook) => T::from_f16(self.scale) * T::from_f32(codebook.value(code)) + T::from_f16(self.offset),
        }
    }
}

/// How the quantisation parameters of a group are chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum GridChoice {
    /// From the least to the greatest value.
    #[default]
    MinMax,
    /// The one of the least error among narrower and narrower ones.
    LeastError(GridSearch),
}

/// What is tried, and how it is judged.
///
/// Source: GPTQ's `quant.py` (`Quantizer.find_params`, `mse`), which takes 100 steps and a norm
/// of 2.4, and tries no zero points besides the nearest. What GPTQ makes good is best where
/// large errors count for more, and a quarter of the steps lose nothing; `benches/frontier.md` has it
/// beside ranges of all weights.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GridSearch {
    /// The narrowest span, relative to that of all values, is 1 − this.
    pub shrink: f64,
    /// The span falls in steps of 1 / this.
    pub steps: u32,
    /// Errors are summed as |error|^norm.
    pub norm: f64,
    /// Zero points to either side of the nearest that are tried too, of integers.
    pub zero_points: u8,
}

impl Default for GridSearch {
    fn default() -> Self {
        Self::DEFAULT
    }
}

impl GridSearch {
    /// What is tried unless told.
    pub const DEFAULT: Self = Self { shrink: 0.8, steps: 25, norm: 3.0, zero_points: 0 };

    /// Parameters of integer codes to be tried for some values, the widest first.
    pub(super) fn candidates<T: Real>(&self, scheme: Scheme, values: &[T]) -> impl Iterator<Item = QuantParams> + use<T> {
        let (low, high) = values.iter().fold((0.0f64, 0.0f64), |(low, high), v| (low.min(Real::to_f64(*v)), high.max(Real::to_f64(*v))));
        let (first, last) = scheme.code.range();
        let aside = if scheme.symmetric { 0 } else { i32::from(self.zero_points) };
        self.shares().flat_map(move |share| {
            let nearest = QuantParams::spanning(scheme, share * low, share * high);
            let zero_points = i32::from(nearest.zero_point) - aside..=i32::from(nearest.zero_point) + aside;
            let zero_points = zero_points.filter(move |zero| (first..=last).contains(zero));
            zero_points.map(move |zero| QuantParams { zero_point: zero as i8, ..nearest })
        })
    }

    /// Spans to be tried, relative to that of all values, the widest first.
    pub(super) fn shares(&self) -> impl Iterator<Item = f64> + use<> {
        let steps = self.steps;
        (0..=(self.shrink * f64::from(steps)) as u32).map(move |step| 1.0 - f64::from(step) / f64::from(steps))
    }

    /// The first candidate of the least error, where any has a finite one; `rounds` is how a candidate
    /// rounds.
    pub(super) fn least<T: Real, R: Fn(T) -> T>(
        &self,
        candidates: impl Iterator<Item = QuantParams>,
        values: &[T],
        importance: Option<&[f64]>,
        rounds: impl Fn(QuantParams) -> R,
    ) -> Option<QuantParams> {
        let norm = self.norm;
        let lost = |params| {
            let round = rounds(params);
            move |value| (round(value) - value).abs()
        };
        let power = move |lost: T| Real::to_f64(lost).powf(norm);
        // Powers of whole numbers are products, and many of them are taken at once.
        match (importance, norm) {
            (None, 2.0) => least(candidates, values, |params| each(lost(params), |_, lost| lost.powi(2))),
            (None, 3.0) => least(candidates, values, |params| each(lost(params), |_, lost| lost.powi(3))),
            (None, _) => least(candidates, values, |params| each(lost(params), |_, lost| power(lost))),
            (Some(weights), _) => least(candidates, values, |params| each(lost(params), |i, lost| weights[i] * power(lost))),
        }
    }
}

/// The error of a value at a place, by what it has lost.
fn each<T, E>(lost: impl Fn(T) -> T, error: impl Fn(usize, T) -> E) -> impl Fn(usize, T) -> E {
    move |i, value| error(i, lost(value))
}

/// The first candidate whose errors have the least finite sum, where any has one; each is of a place
/// and the value there.
fn least<T: Real, E: Real, F: Fn(usize, T) -> E>(
    candidates: impl Iterator<Item = QuantParams>,
    values: &[T],
    errors: impl Fn(QuantParams) -> F,
) -> Option<QuantParams> {
    /// Sums that do not wait for each other.
    const LANES: usize = 16;
    let (whole, rest) = values.as_chunks::<LANES>();
    let mut best = (None, f64::INFINITY);
    for params in candidates {
        let error = errors(params);
        let mut sums = [E::zero(); LANES];
        for (i, values) in whole.iter().enumerate() {
            for (lane, (sum, &value)) in sums.iter_mut().zip(values).enumerate() {
                *sum += error(i * LANES + lane, value);
            }
        }
        let first = whole.len() * LANES;
        let rest = rest.iter().enumerate().map(|(i, &value)| error(first + i, value));
        let sum = sums.into_iter().chain(rest).map(Real::to_f64).sum();
        if sum < best.1 {
            best = (Some(params), sum);
        }
    }
    best.0
}

/// The nearest f16 that is positive and finite.
pub(crate) fn storable(scale: f64) -> f16 {
    f16::from_f64(scale).clamp(f16::from_bits(1), f16::MAX)
}
