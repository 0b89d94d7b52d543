//! Weights in −1, 0 and 1 with a scale: BitNet b1.58.
//!
//! Ma et al., "The Era of 1-bit LLMs: All Large Language Models are in 1.58 Bits" (2024),
//! section 2: the scale is the mean magnitude γ, and codes are W / γ, rounded and clipped.
//! There the scale is a matrix's; here it may be a row's or a group's too.

use super::grid::{Grid, storable};
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
    let grids: Vec<Grid> = tensor.scales.iter().map(|&scale| Grid::of(scale, scheme.code.middle() as i8)).collect();
    let groups = scheme.groups(columns);
    let codes = tensor.codes.as_slice_mut().expect("standard layout");
    codes.par_chunks_mut(columns.max(1)).enumerate().for_each(|(row, codes)| {
        for (column, (code, &value)) in codes.iter_mut().zip(weight.row(row)).enumerate() {
            *code = grids[row * groups + column / width].encode(scheme, value);
        }
    });
    tensor
}
