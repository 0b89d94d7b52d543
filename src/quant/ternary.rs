//! Weights in −1, 0 and 1 with a scale: BitNet b1.58.
//!
//! Ma et al., "The Era of 1-bit LLMs: All Large Language Models are in 1.58 Bits" (2024),
//! section 2: the scale is the mean magnitude γ, and codes are W / γ, rounded and clipped.
//! There the scale is a matrix's; here it may be a row's or a group's too.

use super::quant_params::{QuantParams, storable};
use super::{Code, QuantizedTensor, Scheme};
use half::f16;
use ndarray::{Array2, ArrayView2};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

/// The weights that share a scale.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Share {
    /// All of a matrix, as published.
    Tensor,
    /// Those of an output.
    #[default]
    Row,
    /// So many neighbours of an output.
    Group(usize),
}

impl Share {
    /// The scheme of a matrix. Scales are stored by rows at least: those of one matrix are
    /// then all the same.
    pub fn scheme(self, code: Code) -> Scheme {
        let group_size = match self {
            Share::Tensor | Share::Row => 0,
            Share::Group(columns) => columns,
        };
        Scheme::integers(code, group_size, true)
    }
}

/// Mean magnitudes γ of a weight `[out, in]`, in the type they are stored in: `[out,
/// groups]`. Zeros get the least scale there is.
pub fn mean_magnitudes(weight: ArrayView2<f32>, share: Share) -> Array2<f16> {
    let (rows, columns) = weight.dim();
    let width = share.scheme(Code::Ternary).group_columns(columns);
    let sum = |values: &[f32]| values.iter().map(|v| f64::from(v.abs())).sum::<f64>();
    if share == Share::Tensor {
        let all: f64 = weight.rows().into_iter().map(|row| sum(&row.to_vec())).sum();
        return Array2::from_elem((rows, 1), storable(all / weight.len() as f64));
    }
    let of_row = |row: ndarray::ArrayView1<f32>| {
        let row = row.to_vec();
        row.chunks(width).map(|group| storable(sum(group) / group.len() as f64)).collect::<Vec<_>>()
    };
    let scales: Vec<f16> = weight.rows().into_iter().flat_map(of_row).collect();
    Array2::from_shape_vec((rows, columns.div_ceil(width)), scales).expect("a scale a group")
}

/// The nearest codes of a weight `[out, in]` on scales `[out, groups]`.
pub fn round(weight: ArrayView2<f32>, scheme: Scheme, scales: Array2<f16>) -> QuantizedTensor {
    let (rows, columns) = weight.dim();
    let width = scheme.group_columns(columns);
    let mut tensor = QuantizedTensor { scales, ..QuantizedTensor::blank(scheme, rows, columns) };
    let params: Vec<QuantParams> = tensor.scales.iter().map(|&scale| QuantParams::of(scale, scheme.code.middle() as i8)).collect();
    let groups = scheme.groups(columns);
    let codes = tensor.codes.as_slice_mut().expect("standard layout");
    codes.par_chunks_mut(columns.max(1)).enumerate().for_each(|(row, codes)| {
        for (column, (code, &value)) in codes.iter_mut().zip(weight.row(row)).enumerate() {
            *code = params[row * groups + column / width].encode(scheme, value);
        }
    });
    tensor
}

/// How far from the middle of two codes, in scales, a weight is kept that is to be rounded
/// to one of them.
const MARGIN: f32 = 0.01;

/// A weight `[out, in]` to begin training with: the nearest to `weight`, but for a shift of
/// all magnitudes that share a scale, whose mean magnitudes are the scales of `solved` and
/// whose nearest codes are its codes.
pub fn beginning(weight: ArrayView2<f32>, solved: &QuantizedTensor, share: Share) -> Array2<f32> {
    let columns = weight.ncols().max(1);
    let mut begun = weight.as_standard_layout().into_owned();
    let (values, codes) = (begun.as_slice_mut().expect("standard layout"), solved.codes.as_slice().expect("standard layout"));
    let middle = solved.scheme.code.middle() as i8;
    if share == Share::Tensor {
        begin(values, codes, middle, f32::from(solved.scales[[0, 0]]) * solved.power(0));
        return begun;
    }
    let width = solved.scheme.group_columns(columns);
    values.par_chunks_mut(columns).zip(codes.par_chunks(columns)).enumerate().for_each(|(row, (values, codes))| {
        for (group, (values, codes)) in values.chunks_mut(width).zip(codes.chunks(width)).enumerate() {
            begin(values, codes, middle, f32::from(solved.scales[[row, group]]) * solved.power(row));
        }
    });
    begun
}

/// The same of weights that share a scale.
fn begin(values: &mut [f32], codes: &[i8], middle: i8, scale: f32) {
    // Zeros alone have no mean magnitude but zero.
    if codes.iter().all(|&code| code == middle) {
        return values.fill(0.0);
    }
    let magnitude = |value: f32, code: i8, shift: f32| match f32::from(code - middle) {
        0.0 => (value.abs() + shift).clamp(0.0, (0.5 - MARGIN) * scale),
        sign => (value * sign + shift).max((0.5 + MARGIN) * scale),
    };
    let mean = |shift: f32| {
        let sum: f64 = values.iter().zip(codes).map(|(&value, &code)| f64::from(magnitude(value, code, shift))).sum();
        sum / values.len() as f64
    };
    // Where all are as small as they may be, and where those that are not zero make up the
    // mean by themselves.
    let greatest = values.iter().fold(0f32, |m, v| m.max(v.abs()));
    let (mut low, mut high) = (-greatest - scale, greatest + scale * values.len() as f32);
    for _ in 0..60 {
        let between = 0.5 * (low + high);
        *(if mean(between) > f64::from(scale) { &mut high } else { &mut low }) = between;
    }
    for (value, &code) in values.iter_mut().zip(codes) {
        let sign = if code == middle { value.signum() } else { f32::from(code - middle) };
        *value = sign * magnitude(*value, code, low);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    /// What training begins with is rounded to what was solved.
    #[test]
    fn beginnings_have_the_scales_and_codes_that_were_solved() {
        for (share, rows, columns) in [(Share::Tensor, 5, 40), (Share::Row, 6, 33), (Share::Group(32), 3, 80)] {
            let [first, second] = ["first", "second"].map(|name| Random::named(1, name));
            let numbers = |random: &Random| Array2::from_shape_fn((rows, columns), |(r, c)| random.normal((r * columns + c) as u64) as f32);
            let weight = numbers(&first) * 0.1;
            let scheme = share.scheme(Code::Ternary);
            let mut solved = QuantizedTensor::blank(scheme, rows, columns);
            // Codes and scales that are far from the nearest: of weights with noise.
            let other = &weight * 1.4 + numbers(&second) * 0.05;
            solved.scales = mean_magnitudes(other.view(), share);
            solved = round(other.view(), scheme, solved.scales);
            let begun = beginning(weight.view(), &solved, share);
            let rounded = round(begun.view(), scheme, mean_magnitudes(begun.view(), share));
            assert_eq!(rounded, solved, "{share:?}");
        }
    }
}
