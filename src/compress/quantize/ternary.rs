//! Ternary weights without training: each scale the mean magnitude, as BitNet b1.58
//! rounds; or scales and codes in turn, each the best for the other by the second-order
//! statistics of the layer's input.
//!
//! Codes on given scales are GPTQ's (Frantar et al. 2022, algorithm 1). Scales s of given
//! codes T minimise ‖(W − sT)X‖: by rows a system of as many equations as there are groups,
//! which is what PB-LLM (Shang et al. 2023, section 3.4) solves for one scale.

use super::{LayerMethod, Outcome, Site};
use crate::compress::calibrate::InputStatistics;
use crate::compress::solve::cholesky::inverse_factor;
use crate::compress::solve::optimal_brain::{BLOCK, compensate, numbers};
use crate::compress::solve::relative_error::relative_error;
use crate::compress::tensors::to_array;
use crate::error::Result;
use crate::quant::QuantizedTensor;
use crate::quant::grid::{Grid, Real};
use crate::quant::ternary::{Share, mean_magnitudes, round};
use crate::recipe::{TernaryOptions, TernarySolver};
use half::f16;
use ndarray::Array2;
use tch::{Kind, Tensor, kind::Element};

/// The method.
pub struct Ternary {
    /// How scales and codes are found.
    pub options: TernaryOptions,
}

impl LayerMethod for Ternary {
    fn compress(&self, sites: &[Site], input: &InputStatistics) -> Result<Vec<Outcome>> {
        let share = self.options.scale;
        match self.options.solver {
            TernarySolver::Absmean => Ok(sites.iter().map(|site| absmean(site, share)).collect()),
            TernarySolver::Gptq { damp_percent, rounds } => in_turn::<f32>(sites, &input.hessian, share, damp_percent, rounds),
        }
    }
}

fn absmean(site: &Site, share: Share) -> Outcome {
    let weight = to_array(&site.weight);
    let scales = mean_magnitudes(weight.view(), share);
    Outcome { tensor: round(weight.view(), site.scheme, scales), remarks: Vec::new() }
}

/// All sites of one input, with one factorisation, in the precision of `T`: `rounds` times
/// codes on given scales, then scales of given codes; the best of them is kept.
pub fn in_turn<T: Real + Element>(
    sites: &[Site],
    hessian: &Tensor,
    share: Share,
    damp_percent: f64,
    rounds: usize,
) -> Result<Vec<Outcome>> {
    let _no_grad = tch::no_grad_guard();
    let hessian = hessian.to_kind(T::KIND);
    // A column that is always zero in calibration has no say, and its weights are zero.
    let dead = hessian.diag(0).eq(0.0);
    let damped = hessian.copy();
    let live = dead.logical_not().sum(Kind::Int64).int64_value(&[]).max(1);
    let mean = hessian.diag(0).sum(Kind::Double).double_value(&[]) / live as f64;
    let _ = damped.diagonal(0, 0, 1).masked_fill_(&dead, if mean > 0.0 { mean } else { 1.0 });
    // By falling energy: each column has those behind it to make its error good.
    let order = hessian.diag(0).argsort(0, true);
    let factor = inverse_factor(damped.index_select(0, &order).index_select(1, &order), damp_percent)?;
    let solve = |site: &Site| {
        let weight = site.weight.to_kind(T::KIND).masked_fill(&dead.unsqueeze(0), 0.0);
        let first = absmean(site, share).tensor;
        let solver = Solver { weight, hessian: &hessian, order: &order, upper: &factor.upper, share };
        Outcome { tensor: solver.run::<T>(first, rounds), remarks: factor.raised_from(damp_percent).into_iter().collect() }
    };
    Ok(sites.iter().map(solve).collect())
}

/// One weight.
struct Solver<'a> {
    /// `[out, in]`
    weight: Tensor,
    hessian: &'a Tensor,
    /// The columns in the order they are solved in.
    order: &'a Tensor,
    /// The inverse Hessian's factor, in that order.
    upper: &'a Tensor,
    share: Share,
}

impl Solver<'_> {
    fn run<T: Real + Element>(&self, mut tensor: QuantizedTensor, rounds: usize) -> QuantizedTensor {
        let mut best = (self.error(&tensor), tensor.clone());
        for _ in 0..rounds {
            tensor.codes = self.codes::<T>(&tensor);
            tensor.scales = self.scales(&tensor);
            let error = self.error(&tensor);
            if error < best.0 {
                best = (error, tensor.clone());
            }
        }
        best.1
    }

    fn error(&self, tensor: &QuantizedTensor) -> f64 {
        let decoded = tensor.dequantize();
        let decoded = Tensor::from_slice(decoded.as_slice().expect("standard layout")).view_as(&self.weight);
        relative_error(&self.weight, &decoded.to_kind(self.weight.kind()).to_device(self.weight.device()), self.hessian)
    }

    /// The best codes on the scales of a tensor, as far as GPTQ finds them.
    fn codes<T: Real + Element>(&self, tensor: &QuantizedTensor) -> Array2<i8> {
        let (rows, columns) = tensor.codes.dim();
        let scheme = tensor.scheme;
        let width = scheme.group_columns(columns);
        let order: Vec<i64> = Vec::try_from(self.order).expect("places on the CPU or copied there");
        let mut codes = tensor.codes.clone();
        let mut states: Vec<(usize, &mut [i8])> =
            codes.as_slice_mut().expect("standard layout").chunks_exact_mut(columns).enumerate().collect();
        assert_eq!(states.len(), rows);
        let blocks = (0..columns).step_by(BLOCK).map(|start| start..(start + BLOCK).min(columns));
        let weight = self.weight.index_select(1, self.order);
        compensate(
            &weight,
            self.upper,
            blocks,
            &mut states,
            |_, _, _| (),
            |(row, codes), column, values: &[T]| {
                let place = order[column] as usize;
                let grid = Grid::of(tensor.scales[[*row, place / width]], scheme.code.middle() as i8);
                codes[place] = grid.encode(scheme, values[0]);
                grid.decode(codes[place])
            },
        );
        codes
    }

    /// The best scales of the codes of a tensor: with T_g the codes of group g and zeros
    /// elsewhere, Σ_h (T_g H T_hᵀ) s_h = T_g H Wᵀ for each row. A group keeps its scale where its
    /// codes say nothing of it, or something that is none.
    fn scales(&self, tensor: &QuantizedTensor) -> Array2<f16> {
        let (rows, columns) = tensor.codes.dim();
        let width = tensor.scheme.group_columns(columns) as i64;
        let of = (self.weight.kind(), self.weight.device());
        let middle = tensor.scheme.code.middle() as i8;
        let codes: Vec<i8> = tensor.codes.iter().map(|code| code - middle).collect();
        let codes = Tensor::from_slice(&codes).view_as(&self.weight).to_kind(of.0).to_device(of.1);
        let groups: Vec<(i64, i64)> =
            (0..columns as i64).step_by(width as usize).map(|start| (start, width.min(columns as i64 - start))).collect();
        let by_group = |x: &Tensor| {
            let sums: Vec<Tensor> =
                groups.iter().map(|&(start, n)| x.narrow(1, start, n).sum_dim_intlist(1, false, None::<Kind>)).collect();
            Tensor::stack(&sums, 1)
        };
        // `[out, groups]`, and a matrix of groups for each row.
        let mut right = by_group(&(&codes * self.weight.matmul(self.hessian)));
        let lefts: Vec<Tensor> = groups
            .iter()
            .map(|&(start, n)| by_group(&(&codes * codes.narrow(1, start, n).matmul(&self.hessian.narrow(0, start, n)))))
            .collect();
        let mut left = Tensor::stack(&lefts, 1);
        if self.share == Share::Tensor {
            (right, left) = (right.sum_dim_intlist(0, true, None::<Kind>), left.sum_dim_intlist(0, true, None::<Kind>));
        }
        let before: Vec<f32> = tensor.scales.iter().map(|s| s.to_f32()).collect();
        let before = Tensor::from_slice(&before).view([rows as i64, -1]).to_kind(of.0).to_device(of.1).narrow(0, 0, right.size()[0]);
        let mut diagonals = left.diagonal(0, 1, 2);
        let empty = diagonals.eq(0.0);
        let _ = diagonals.masked_fill_(&empty, 1.0);
        let (solved, _) = Tensor::linalg_solve_ex(&left, &right.where_self(&empty.logical_not(), &before).unsqueeze(2), true, false);
        let solved = solved.squeeze_dim(2);
        let scales = solved.where_self(&solved.gt(0.0).logical_and(&solved.isfinite()), &before);
        let solved = numbers::<f64>(&scales.to_kind(Kind::Double).expand([rows as i64, -1], false));
        Array2::from_shape_vec((rows, groups.len()), solved).expect("a scale a group").mapv(crate::quant::grid::storable)
    }
}
