//! AWQ's rounding, behind its scales ([`crate::compress::rescale`]): each group is
//! clipped as far as lowers the error of the layer's output, and rounded to
//! nearest.
//!
//! Source: `AutoAWQ`, `quantizer.py`, `_compute_best_clip` (after Lin et al. 2024,
//! "AWQ", section 5.1). There queries and keys are left alone, and both ends are cut
//! to one magnitude; here every layer is clipped, each end by the same share. The error of a group's share of the output is taken over all
//! calibration tokens, by its block of the Hessian.

use super::{LayerMethod, LayerResult, TargetLayer};
use crate::compress::calibrate::InputStatistics;
use crate::compress::tensors::{to_array, to_vec};
use crate::error::Result;
use crate::quant::quant_params::{GridChoice, GridSearch, QuantParams};
use crate::quant::rounding::{Rounding, round_to_nearest};
use crate::quant::{QuantizedTensor, Scheme};
use crate::recipe::AwqOptions;
use ndarray::{Array2, ArrayView2, Zip, s};
use rayon::prelude::*;
use tch::{Kind, Tensor};

/// Spans that are tried: down to half of what the values need, in steps of a
/// twentieth.
const CLIP: GridSearch = GridSearch { shrink: 0.5, steps: 20, norm: 2.0, zero_points: 0 };

/// The method.
pub struct Awq {
    /// What it does besides scaling.
    pub options: AwqOptions,
}

impl LayerMethod for Awq {
    fn compress(&self, layers: &[TargetLayer], input: InputStatistics) -> Result<Vec<LayerResult>> {
        let round = |layer: &TargetLayer| {
            let weight = to_array(&layer.weight);
            let tensor = if self.options.clip {
                clipped(weight.view(), layer.scheme, &input.hessian)
            } else {
                round_to_nearest(weight.view(), layer.scheme)
            };
            LayerResult::measured(layer, tensor, &input.hessian, Vec::new())
        };
        Ok(layers.iter().map(round).collect())
    }
}

/// Rounds to nearest, each group on the clipped range of the least error.
fn clipped(weight: ArrayView2<f32>, scheme: Scheme, hessian: &Tensor) -> QuantizedTensor {
    let (rows, columns) = weight.dim();
    let rounding = Rounding::new(scheme, GridChoice::LeastError(CLIP), || weight.to_owned());
    let mut tensor = rounding.blank(rows, columns);
    let width = scheme.group_columns(columns);
    for (group, start) in (0..columns).step_by(width).enumerate() {
        let count = width.min(columns - start);
        let block = hessian.narrow(0, start as i64, count as i64).narrow(1, start as i64, count as i64);
        let values = weight.slice(s![.., start..start + count]).to_owned();
        for (row, params) in best_params(&values, &rounding, &block).into_iter().enumerate() {
            tensor.set_quant_params(row, group, params);
            let codes = tensor.codes.slice_mut(s![row, start..start + count]);
            Zip::from(codes).and(values.row(row)).for_each(|code, &value| *code = rounding.encode(params, value));
        }
    }
    tensor
}

/// Best quantisation parameters of each row of a group `[out, columns]`, by its block of the Hessian
/// `[columns, columns]`.
fn best_params(values: &Array2<f32>, rounding: &Rounding, hessian: &Tensor) -> Vec<QuantParams> {
    let row = |row: usize| values.row(row).to_slice().expect("standard layout");
    let candidates: Vec<Vec<QuantParams>> = (0..values.nrows()).into_par_iter().map(|i| rounding.candidates(&CLIP, row(i))).collect();
    let mut best: Vec<(QuantParams, f32)> = candidates.iter().map(|of_row| (of_row[0], f32::INFINITY)).collect();
    for step in 0..candidates.first().map_or(0, Vec::len) {
        let errors: Vec<f32> = (0..values.nrows())
            .into_par_iter()
            .flat_map_iter(|i| {
                let params = candidates[i][step];
                row(i).iter().map(move |&value| rounding.round(params, value) - value)
            })
            .collect();
        let errors = Tensor::from_slice(&errors).view([values.nrows() as i64, -1]).to_device(hessian.device());
        let losses = to_vec(&(errors.matmul(hessian) * &errors).sum_dim_intlist(1, false, Kind::Float));
        for ((best, loss), of_row) in best.iter_mut().zip(losses).zip(&candidates) {
            if loss < best.1 {
                *best = (of_row[step], loss);
            }
        }
    }
    best.into_iter().map(|(params, _)| params).collect()
}
