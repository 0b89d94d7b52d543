//! Ternary weights without training: each scale the mean magnitude, as BitNet b1.58
//! rounds; or scales and codes in turn, each the best for the other by the second-order
//! statistics of the layer's input.
//!
//! Codes on given scales are GPTQ's (Frantar et al. 2022, algorithm 1). Scales s of given
//! codes T minimise ‖(W − sT)X‖: by rows a system of as many equations as there are groups,
//! which is what PB-LLM (Shang et al. 2023, section 3.4) solves for one scale.

use super::{LayerMethod, LayerResult, TargetLayer};
use crate::compress::calibrate::InputStatistics;
use crate::compress::solve::columns::Columns;
use crate::compress::solve::optimal_brain::{BLOCK, Number, compensate, numbers};
use crate::compress::solve::relative_error::quadratic_form;
use crate::compress::tensors::to_array;
use crate::error::Result;
use crate::quant::quant_params::{QuantParams, storable};
use crate::quant::ternary::{Share, mean_magnitudes, round};
use crate::quant::{QuantizedTensor, Scheme, exponents};
use crate::recipe::{ActOrder, TernaryOptions, TernarySolver};
use half::f16;
use ndarray::{Array2, ArrayView2};
use tch::{Kind, Tensor};

/// The method.
pub struct Ternary {
    /// How scales and codes are found.
    pub options: TernaryOptions,
}

impl LayerMethod for Ternary {
    fn compress(&self, layers: &[TargetLayer], input: InputStatistics) -> Result<Vec<LayerResult>> {
        let share = self.options.scale;
        match self.options.solver {
            TernarySolver::Absmean => {
                let measured = |layer: &TargetLayer| LayerResult::measured(layer, absmean_of(layer, share), &input.hessian, Vec::new());
                Ok(layers.iter().map(measured).collect())
            }
            TernarySolver::Gptq { damp_percent, rounds } => in_turn::<f32>(layers, &input.hessian, share, damp_percent, rounds),
        }
    }
}

fn absmean_of(layer: &TargetLayer, share: Share) -> QuantizedTensor {
    let weight = to_array(&layer.weight);
    round(weight.view(), layer.scheme, mean_magnitudes(weight.view(), share))
}

/// Codes of a weight `[out, in]` on scales that are mean magnitudes. Rows that f16 scales cannot
/// hold get [`exponents`].
pub fn absmean(weight: ArrayView2<f32>, scheme: Scheme, share: Share) -> QuantizedTensor {
    let on_scales = |weight: ArrayView2<f32>| round(weight, scheme, mean_magnitudes(weight, share));
    let Some(exponents) = exponents::of_rows(&exponents::greatest_of_rows(weight), scheme, share == Share::Tensor) else {
        return on_scales(weight);
    };
    let mut divided = weight.as_standard_layout().into_owned();
    exponents::divide(&mut divided, &exponents);
    QuantizedTensor { exponents: Some(exponents), ..on_scales(divided.view()) }
}

/// All layers of one input, with one factorisation, in the precision of `T`: `rounds` times
/// codes on given scales, then scales of given codes; the best of them is kept.
pub fn in_turn<T: Number>(
    layers: &[TargetLayer],
    hessian: &Tensor,
    share: Share,
    damp_percent: f64,
    rounds: usize,
) -> Result<Vec<LayerResult>> {
    let _no_grad = tch::no_grad_guard();
    let hessian = hessian.to_kind(T::KIND);
    // Each column has those behind it to make its error good: the most active go first.
    let columns = Columns::of::<T>(hessian.copy(), ActOrder::On, 1, damp_percent)?;
    let solve = |layer: &TargetLayer| {
        let weight = layer.weight.to_kind(T::KIND);
        let target = weight.matmul(&hessian);
        let quadratic_form = (&target * &weight).sum(Kind::Double).double_value(&[]);
        let solver = Solver { weight, target, quadratic_form, hessian: &hessian, columns: &columns, share };
        let (error, tensor) = solver.run::<T>(absmean_of(layer, share), rounds);
        let squared_error = error * solver.quadratic_form;
        LayerResult { tensor, squared_error, remarks: columns.factor.damping.raised_from(damp_percent).into_iter().collect() }
    };
    Ok(layers.iter().map(solve).collect())
}

/// One weight.
struct Solver<'a> {
    /// W `[out, in]`
    weight: Tensor,
    /// W H
    target: Tensor,
    /// Σ W H Wᵀ over rows.
    quadratic_form: f64,
    hessian: &'a Tensor,
    columns: &'a Columns,
    share: Share,
}

impl Solver<'_> {
    /// The best, and its error.
    fn run<T: Number>(&self, mut tensor: QuantizedTensor, rounds: usize) -> (f64, QuantizedTensor) {
        let mut best = (self.error(&tensor), tensor.clone());
        for _ in 0..rounds {
            tensor.codes = self.codes::<T>(&tensor);
            tensor.scales = self.scales(&tensor);
            let error = self.error(&tensor);
            if error < best.0 {
                best = (error, tensor.clone());
            }
        }
        best
    }

    /// What the outputs lose, relative to all of it.
    fn error(&self, tensor: &QuantizedTensor) -> f64 {
        let decoded = tensor.dequantize();
        let decoded = Tensor::from_slice(decoded.as_slice().expect("standard layout")).view_as(&self.weight);
        let difference = &self.weight - decoded.to_kind(self.weight.kind()).to_device(self.weight.device());
        if self.quadratic_form > 0.0 { quadratic_form(&difference, self.hessian) / self.quadratic_form } else { 0.0 }
    }

    /// The best codes on the scales of a tensor, as far as GPTQ finds them.
    fn codes<T: Number>(&self, tensor: &QuantizedTensor) -> Array2<i8> {
        let columns = tensor.codes.ncols();
        let scheme = tensor.scheme;
        let width = scheme.group_columns(columns);
        let mut codes = tensor.codes.clone();
        let rows = codes.as_slice_mut().expect("standard layout").chunks_exact_mut(columns);
        let mut states: Vec<(usize, &mut [i8])> = rows.enumerate().collect();
        let blocks = (0..columns).step_by(BLOCK).map(|start| start..(start + BLOCK).min(columns));
        let weight = self.weight.index_select(1, &self.columns.index);
        let order = &self.columns.order;
        let choose = |(row, codes): &mut (usize, &mut [i8]), column: usize, values: &[T]| {
            let place = order[column];
            let params = QuantParams::of(tensor.scales[[*row, place / width]], scheme.code.middle() as i8);
            codes[place] = params.encode(scheme, values[0]);
            params.decode(codes[place])
        };
        compensate(weight, &self.columns.factor.upper, blocks, &mut states, |_, _, _| (), choose);
        codes
    }

    /// The best scales of the codes of a tensor: with T_g the codes of group g and zeros
    /// elsewhere, Σ_h (T_g H T_hᵀ) s_h = T_g H Wᵀ for each row, or for all of them together. A
    /// group keeps its scale where its codes say nothing of it, or something that is none.
    fn scales(&self, tensor: &QuantizedTensor) -> Array2<f16> {
        // Rows that are solved together: each has a matrix of groups.
        const ROWS: usize = 256;
        let (rows, groups) = tensor.scales.dim();
        let of = (self.weight.kind(), self.weight.device());
        let middle = tensor.scheme.code.middle() as i8;
        let codes: Vec<i8> = tensor.codes.iter().map(|code| code - middle).collect();
        let codes = Tensor::from_slice(&codes).view_as(&self.weight).to_kind(of.0).to_device(of.1);
        let before: Vec<f32> = tensor.scales.iter().map(|s| s.to_f32()).collect();
        let before = Tensor::from_slice(&before).view([rows as i64, groups as i64]).to_kind(of.0).to_device(of.1);
        let width = tensor.scheme.group_columns(tensor.codes.ncols());
        let parts = (0..rows).step_by(ROWS).map(|start| {
            let part = |x: &Tensor| x.narrow(0, start as i64, ROWS.min(rows - start) as i64);
            let (left, right) = self.equations(&part(&codes), &part(&self.target), width);
            (left, right, part(&before))
        });
        let solved = if self.share == Share::Tensor {
            let over_rows = |x: Tensor| x.sum_dim_intlist(0, true, None::<Kind>);
            let sums = parts.map(|(left, right, _)| (over_rows(left), over_rows(right)));
            let (left, right) = sums.reduce(|a, b| (a.0 + b.0, a.1 + b.1)).expect("there are rows");
            answer(&left, &right, &before.narrow(0, 0, 1)).expand([rows as i64, 1], false)
        } else {
            Tensor::cat(&parts.map(|(left, right, before)| answer(&left, &right, &before)).collect::<Vec<_>>(), 0)
        };
        let solved = numbers::<f64>(&solved.to_kind(Kind::Double));
        Array2::from_shape_vec((rows, groups), solved).expect("a scale a group").mapv(storable)
    }

    /// Both sides for some rows: `[rows, groups, groups]` and `[rows, groups]`.
    fn equations(&self, codes: &Tensor, target: &Tensor, width: usize) -> (Tensor, Tensor) {
        let columns = codes.size()[1];
        let groups: Vec<(i64, i64)> = (0..columns).step_by(width).map(|start| (start, (width as i64).min(columns - start))).collect();
        let by_group = |x: &Tensor| {
            let sum = |&(start, n): &(i64, i64)| x.narrow(1, start, n).sum_dim_intlist(1, false, None::<Kind>);
            Tensor::stack(&groups.iter().map(sum).collect::<Vec<_>>(), 1)
        };
        let met = |&(start, n): &(i64, i64)| by_group(&(codes * codes.narrow(1, start, n).matmul(&self.hessian.narrow(0, start, n))));
        (Tensor::stack(&groups.iter().map(met).collect::<Vec<_>>(), 1), by_group(&(codes * target)))
    }
}

/// `left` s = `right` row by row, where it has an answer that is a scale; otherwise `before`.
fn answer(left: &Tensor, right: &Tensor, before: &Tensor) -> Tensor {
    let mut diagonals = left.diagonal(0, 1, 2);
    let empty = diagonals.eq(0.0);
    let _ = diagonals.masked_fill_(&empty, 1.0);
    let (solved, _) = Tensor::linalg_solve_ex(left, &right.where_self(&empty.logical_not(), before).unsqueeze(2), true, false);
    let solved = solved.squeeze_dim(2);
    solved.where_self(&solved.gt(0.0).logical_and(&solved.isfinite()), before)
}
