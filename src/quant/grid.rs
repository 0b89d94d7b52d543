//! Rounding: the grid of a group, and codes on it.

use super::{QuantizedTensor, Scheme};
use half::f16;
use ndarray::{Array2, ArrayView2};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

/// Floats that weights are solved in. f64 is for references and for Hessians
/// that are badly conditioned.
pub trait Real: ndarray::NdFloat {
    /// To the nearest integer, ties to even, for magnitudes up to 2²¹.
    fn round_even(self) -> Self;
    /// Exact.
    fn from_f16(value: f16) -> Self;
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

/// Scale and zero point of one group.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Grid {
    /// Distance of two codes; positive and finite.
    pub scale: f16,
    /// The code of zero.
    pub zero_point: i8,
}

impl Grid {
    /// The grid from the least to the greatest value, zero included. The scale is
    /// rounded to its stored type here, before any code is chosen. A group
    /// of zeros gets scale 1.
    ///
    /// Source: GPTQ (Frantar et al. 2022), `quant.py`, `Quantizer.find_params`.
    pub fn min_max<T: Real>(scheme: Scheme, values: impl IntoIterator<Item = T>) -> Self {
        let (low, high) = values.into_iter().fold((T::zero(), T::zero()), |(low, high), v| (low.min(v), high.max(v)));
        Self::spanning(scheme, low.to_f64(), high.to_f64())
    }

    /// The grid from `low` (at most 0) to `high` (at least 0).
    fn spanning(scheme: Scheme, low: f64, high: f64) -> Self {
        let (first, last) = scheme.code.range();
        let levels = f64::from(last - first);
        let span = if scheme.symmetric { 2.0 * high.max(-low) } else { high - low };
        if span == 0.0 {
            let zero_point = if scheme.symmetric { scheme.code.middle() } else { first };
            return Self { scale: f16::ONE, zero_point: zero_point as i8 };
        }
        let scale = storable(span / levels);
        let zero_point = if scheme.symmetric {
            scheme.code.middle()
        } else {
            (first + (-low / f64::from(scale)).round_ties_even().min(levels) as i32).clamp(first, last)
        };
        Self { scale, zero_point: zero_point as i8 }
    }

    /// The nearest code.
    pub fn encode<T: Real>(&self, scheme: Scheme, value: T) -> i8 {
        (self.steps(scheme, value) + T::from_i32(self.zero_point.into())).to_i32() as i8
    }

    /// The nearest value.
    pub fn round<T: Real>(&self, scheme: Scheme, value: T) -> T {
        self.steps(scheme, value) * T::from_f16(self.scale)
    }

    /// The nearest code, counted from the zero point.
    #[inline]
    fn steps<T: Real>(&self, scheme: Scheme, value: T) -> T {
        let (first, last) = scheme.code.range();
        let [first, last] = [first, last].map(|code| T::from_i32(code - i32::from(self.zero_point)));
        (value / T::from_f16(self.scale)).max(first).min(last).round_even()
    }

    /// The value of a code.
    pub fn decode<T: Real>(&self, code: i8) -> T {
        T::from_f16(self.scale) * T::from_i32(i32::from(code) - i32::from(self.zero_point))
    }
}

/// How the grid of a group is chosen.
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
/// Source: GPTQ's `quant.py` (`Quantizer.find_params`, `mse`), whose values the
/// defaults are; zero points besides the nearest are not tried there.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GridSearch {
    /// The narrowest span, relative to that of all values, is 1 − this.
    pub shrink: f64,
    /// The span falls in steps of 1 / this.
    pub steps: u32,
    /// Errors are summed as |error|^norm.
    pub norm: f64,
    /// Zero points to either side of the nearest that are tried too.
    pub zero_points: u8,
}

impl Default for GridSearch {
    fn default() -> Self {
        Self { shrink: 0.8, steps: 100, norm: 2.4, zero_points: 0 }
    }
}

impl GridChoice {
    /// The grid of a group. `importance`, one number a value, weighs the errors of a
    /// search.
    pub fn find<T: Real>(&self, scheme: Scheme, values: &[T], importance: Option<&[f64]>) -> Grid {
        let widest = Grid::min_max(scheme, values.iter().copied());
        match self {
            GridChoice::MinMax => widest,
            GridChoice::LeastError(search) => search.best(scheme, values, importance, widest),
        }
    }
}

impl GridSearch {
    /// What is tried for some values, the widest grid first.
    pub fn candidates<T: Real>(&self, scheme: Scheme, values: &[T]) -> impl Iterator<Item = Grid> {
        let (low, high) = values.iter().fold((0.0f64, 0.0f64), |(low, high), v| (low.min(Real::to_f64(*v)), high.max(Real::to_f64(*v))));
        let (first, last) = scheme.code.range();
        let aside = if scheme.symmetric { 0 } else { i32::from(self.zero_points) };
        let steps = self.steps;
        (0..=(self.shrink * f64::from(steps)) as u32).flat_map(move |step| {
            let share = 1.0 - f64::from(step) / f64::from(steps);
            let nearest = Grid::spanning(scheme, share * low, share * high);
            let zero_points = i32::from(nearest.zero_point) - aside..=i32::from(nearest.zero_point) + aside;
            let zero_points = zero_points.filter(move |zero_point| (first..=last).contains(zero_point));
            zero_points.map(move |zero_point| Grid { zero_point: zero_point as i8, ..nearest })
        })
    }

    fn best<T: Real>(&self, scheme: Scheme, values: &[T], importance: Option<&[f64]>, widest: Grid) -> Grid {
        let mut best = (widest, f64::INFINITY);
        for grid in self.candidates(scheme, values) {
            let error = |(i, &value): (usize, &T)| {
                importance.map_or(1.0, |importance| importance[i]) * Real::to_f64(grid.round(scheme, value) - value).abs().powf(self.norm)
            };
            let sum: f64 = values.iter().enumerate().map(error).sum();
            if sum < best.1 {
                best = (grid, sum);
            }
        }
        best.0
    }
}

/// The nearest f16 that is positive and finite.
fn storable(scale: f64) -> f16 {
    f16::from_f64(scale).clamp(f16::from_bits(1), f16::MAX)
}

/// What rounding to nearest makes of a weight `[out, in]`.
pub fn rounded(weight: ArrayView2<f32>, scheme: Scheme) -> Array2<f32> {
    let mut rounded = weight.as_standard_layout().into_owned();
    let columns = weight.ncols().max(1);
    let width = scheme.group_columns(columns);
    let values = rounded.as_slice_mut().expect("standard layout");
    values.par_chunks_mut(columns).for_each(|row| {
        for group in row.chunks_mut(width) {
            let grid = Grid::min_max(scheme, group.iter().copied());
            group.iter_mut().for_each(|value| *value = grid.round(scheme, *value));
        }
    });
    rounded
}

/// Round to nearest, each group on its own min-max grid. `weight` is `[out, in]`.
pub fn round_to_nearest(weight: ArrayView2<f32>, scheme: Scheme) -> QuantizedTensor {
    round_by(weight, scheme, GridChoice::MinMax, None)
}

/// The same on grids of any choice; `importance` is one number a column.
pub fn round_by(weight: ArrayView2<f32>, scheme: Scheme, choice: GridChoice, importance: Option<&[f64]>) -> QuantizedTensor {
    let (rows, columns) = weight.dim();
    let width = scheme.group_columns(columns);
    let mut quantized = QuantizedTensor::blank(scheme, rows, columns);
    let codes = quantized.codes.as_slice_mut().expect("standard layout");
    let round = |(row, codes): (usize, &mut [i8])| {
        let values = weight.row(row).to_vec();
        let groups = values.chunks(width).zip(codes.chunks_mut(width)).enumerate();
        let grids = groups.map(|(group, (values, codes))| {
            let grid = choice.find(scheme, values, importance.map(|all| &all[group * width..group * width + values.len()]));
            codes.iter_mut().zip(values).for_each(|(code, &value)| *code = grid.encode(scheme, value));
            grid
        });
        grids.collect()
    };
    let grids: Vec<Vec<Grid>> = codes.par_chunks_mut(columns.max(1)).enumerate().map(round).collect();
    for (row, grids) in grids.into_iter().enumerate() {
        grids.into_iter().enumerate().for_each(|(group, grid)| quantized.set_grid(row, group, grid));
    }
    quantized
}
