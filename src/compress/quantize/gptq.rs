//! GPTQ: columns are rounded one by one, and what follows makes good the error,
//! by the second-order statistics of the layer's input.
//!
//! Frantar, Ashkboos, Hoefler and Alistarh, "GPTQ: Accurate Post-Training
//! Quantization for Generative Pre-trained Transformers" (2022), algorithm 1.

use super::{LayerMethod, Outcome, Site};
use crate::compress::solve::cholesky::inverse_factor;
use crate::compress::solve::optimal_brain::{BLOCK, compensate, numbers};
use crate::error::Result;
use crate::quant::grid::{Grid, Real};
use crate::quant::{Permutation, QuantizedTensor, Scheme};
use crate::recipe::GptqOptions;
use std::ops::Range;
use std::sync::Arc;
use tch::{Tensor, kind::Element};

/// The method.
pub struct Gptq {
    /// How it solves.
    pub options: GptqOptions,
}

impl LayerMethod for Gptq {
    fn compress(&self, sites: &[Site], hessian: &Tensor) -> Result<Vec<Outcome>> {
        let Some(first) = sites.first() else { return Ok(Vec::new()) };
        gptq::<f32>(sites, hessian, self.options, &format!("{}.perm", first.name))
    }
}

/// Quantises all sites of one input with one factorisation, in the precision of
/// `T`: `hessian` `[in, in]` and weights are converted to it. Permutations are
/// named `permutation`.
pub fn gptq<T: Real + Element>(sites: &[Site], hessian: &Tensor, options: GptqOptions, permutation: &str) -> Result<Vec<Outcome>> {
    let _no_grad = tch::no_grad_guard();
    let mut hessian = hessian.to_kind(T::KIND).copy();
    // A column that is always zero in calibration has no say: any value will do,
    // and the mean of the others leaves the damping as it is.
    let dead = hessian.diag(0).eq(0.0);
    let live = dead.logical_not().sum(tch::Kind::Int64).int64_value(&[]).max(1);
    let mean = hessian.diag(0).sum(tch::Kind::Double).double_value(&[]) / live as f64;
    let _ = hessian.diagonal(0, 0, 1).masked_fill_(&dead, if mean > 0.0 { mean } else { 1.0 });
    let order = options.act_order.then(|| hessian.diag(0).argsort(0, true));
    if let Some(order) = &order {
        hessian = hessian.index_select(0, order).index_select(1, order);
    }
    let factor = inverse_factor(&hessian, options.damp_percent)?;
    let permutation = order.as_ref().map(|order| {
        let order = numbers::<i64>(order).into_iter().map(|i| i as u32).collect();
        Arc::new(Permutation { name: permutation.to_owned(), order })
    });
    let raised = factor.damp_percent > options.damp_percent;
    let remark =
        || format!("damping raised from {} to {}: its Hessian is not positive definite", options.damp_percent, factor.damp_percent);
    let solve = |site: &Site| {
        let mut weight = site.weight.to_kind(T::KIND).masked_fill(&dead.unsqueeze(0), 0.0);
        if let Some(order) = &order {
            weight = weight.index_select(1, order);
        }
        let mut tensor = round_columns::<T>(&weight, &factor.upper, site.scheme);
        tensor.permutation = permutation.clone();
        Outcome { tensor, remarks: raised.then(remark).into_iter().collect() }
    };
    Ok(sites.iter().map(solve).collect())
}

/// One row on its way.
struct Row {
    grid: Grid,
    grids: Vec<Grid>,
    codes: Vec<i8>,
}

/// Rounds the columns of a weight `[out, in]` in their order. The grid of a group
/// is fixed when its first column is reached, on the values as they are then.
fn round_columns<T: Real + Element>(weight: &Tensor, upper: &Tensor, scheme: Scheme) -> QuantizedTensor {
    let (rows, columns) = weight.size2().expect("[out, in]");
    let (rows, columns) = (rows as usize, columns as usize);
    let group = scheme.group_columns(columns);
    let blank = Grid { scale: half::f16::ONE, zero_point: 0 };
    let mut states: Vec<Row> = (0..rows)
        .map(|_| Row { grid: blank, grids: Vec::with_capacity(scheme.groups(columns)), codes: Vec::with_capacity(columns) })
        .collect();
    // A group that is wider than a block is measured on the whole weight.
    let begin = |weight: &Tensor, block: Range<usize>, states: &mut [Row]| {
        if group > BLOCK && block.start.is_multiple_of(group) {
            let width = group.min(columns - block.start);
            let values = numbers::<T>(&weight.narrow(1, block.start as i64, width as i64));
            for (row, values) in states.iter_mut().zip(values.chunks_exact(width)) {
                row.start_group(Grid::min_max(scheme, values.iter().copied()));
            }
        }
    };
    compensate(weight, upper, blocks(columns, group), &mut states, begin, |row: &mut Row, column, values: &[T]| {
        if group <= BLOCK && column.is_multiple_of(group) {
            row.start_group(Grid::min_max(scheme, values.iter().copied().take(group)));
        }
        let code = row.grid.encode(scheme, values[0]);
        row.codes.push(code);
        row.grid.decode(code)
    });
    let mut tensor = QuantizedTensor::blank(scheme, rows, columns);
    for (i, row) in states.into_iter().enumerate() {
        row.grids.into_iter().enumerate().for_each(|(g, grid)| tensor.set_grid(i, g, grid));
        tensor.codes.row_mut(i).iter_mut().zip(row.codes).for_each(|(to, code)| *to = code);
    }
    tensor
}

impl Row {
    fn start_group(&mut self, grid: Grid) {
        self.grid = grid;
        self.grids.push(grid);
    }
}

/// Blocks of columns that hold whole groups, or lie inside one.
fn blocks(columns: usize, group: usize) -> impl Iterator<Item = Range<usize>> {
    let narrow = (BLOCK / group.min(BLOCK) * group).min(columns);
    let next = move |&start: &usize| {
        let end = if group <= BLOCK { start + narrow } else { (start + BLOCK).min((start / group + 1) * group) };
        (end < columns).then_some(end)
    };
    std::iter::successors(Some(0), next).map(move |start| start..next(&start).unwrap_or(columns))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_never_split_a_group_that_fits() {
        let list = |columns, group| blocks(columns, group).map(|b| (b.start, b.end)).collect::<Vec<_>>();
        assert_eq!(list(172, 64), [(0, 128), (128, 172)]);
        assert_eq!(list(256, 96), [(0, 96), (96, 192), (192, 256)]);
        assert_eq!(list(500, 160), [(0, 128), (128, 160), (160, 288), (288, 320), (320, 448), (448, 480), (480, 500)]);
        assert_eq!(list(300, 300), [(0, 128), (128, 256), (256, 300)]);
        assert_eq!(list(44, 44), [(0, 44)]);
        assert_eq!(list(128, 64), [(0, 128)]);
    }

    /// Damping is raised where the Hessian is indefinite, and said.
    #[test]
    fn an_indefinite_hessian_raises_the_damping() {
        let hessian = Tensor::from_slice2(&[[1.0f32, 3.0], [3.0, 1.0]]);
        let site = Site {
            name: "w".into(),
            scheme: Scheme { code: crate::quant::Code::Int4, group_size: 0, symmetric: false },
            weight: Tensor::from_slice2(&[[0.5f32, -0.25]]),
        };
        let options = GptqOptions { act_order: false, damp_percent: 0.01 };
        let outcome = gptq::<f32>(&[site], &hessian, options, "p").unwrap().remove(0);
        assert!(outcome.remarks[0].contains("damping raised from 0.01 to 10"), "{:?}", outcome.remarks);
    }
}
