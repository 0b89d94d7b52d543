//! SparseGPT: columns are gone through one by one, and what follows makes good for the
//! weights that go, by the second-order statistics of the layer's input. Weights go
//! where w² / [H⁻¹]² is lowest: H⁻¹ at their column, once those before it are fixed.
//!
//! Frantar and Alistarh, "SparseGPT: Massive Language Models Can Be Accurately Pruned in
//! One-Shot" (2023), algorithm 1; section 3.3 chooses masks by blocks of columns, and
//! section 3.4 is for N of M.

use super::{SparseLayer, Sparsifier};
use crate::compress::calibrate::InputStatistics;
use crate::compress::solve::cholesky::inverse_factor;
use crate::compress::solve::mask::{beyond, lowest, mark_lowest};
use crate::compress::solve::optimal_brain::{Number, compensate, numbers};
use crate::error::Result;
use crate::recipe::{Precision, SparseGptOptions, Sparsity};
use std::ops::Range;
use tch::Tensor;

/// The method.
pub struct SparseGpt {
    /// How many weights go.
    pub sparsity: Sparsity,
    /// How it solves.
    pub options: SparseGptOptions,
}

impl Sparsifier for SparseGpt {
    fn sparsify(&self, weights: &[Tensor], input: &InputStatistics) -> Result<Vec<SparseLayer>> {
        match self.options.precision {
            Precision::F32 => sparsegpt::<f32>(weights, &input.hessian, self.sparsity, self.options),
            Precision::F64 => sparsegpt::<f64>(weights, &input.hessian, self.sparsity, self.options),
        }
    }
}

/// Sparsifies all layers `[out, in]` of one input with one factorisation, in the
/// precision of `T`: `hessian` `[in, in]` and weights are converted to it.
pub fn sparsegpt<T: Number>(
    weights: &[Tensor],
    hessian: &Tensor,
    sparsity: Sparsity,
    options: SparseGptOptions,
) -> Result<Vec<SparseLayer>> {
    let _no_grad = tch::no_grad_guard();
    let hessian = hessian.to_kind(T::KIND).copy();
    // Any second moment does for an input that is zero for every token: weights of its column are
    // judged by magnitude. (The paper's program removes them all.)
    let dead = hessian.diag(0).eq(0.0);
    let _ = hessian.diagonal(0, 0, 1).masked_fill_(&dead, 1.0);
    let factor = inverse_factor(hessian, options.damp_percent)?;
    let solve = |weight: &Tensor| SparseLayer {
        weight: prune_columns::<T>(weight.to_kind(T::KIND).copy(), &factor.upper, sparsity, options.block_size),
        remarks: factor.damping.raised_from(options.damp_percent).into_iter().collect(),
    };
    Ok(weights.iter().map(solve).collect())
}

/// One row on its way.
struct Row<T> {
    /// Columns that go, as far as is decided.
    goes: Vec<bool>,
    values: Vec<T>,
}

fn prune_columns<T: Number>(weight: Tensor, upper: &Tensor, sparsity: Sparsity, block_size: usize) -> Tensor {
    let (shape, device) = (weight.size(), weight.device());
    let (rows, columns) = weight.size2().expect("[out, in]");
    let (rows, columns) = (rows as usize, columns as usize);
    let diagonal = numbers::<T>(&upper.diag(0));
    // Root of what is compared, which has the same order.
    let score = |value: T, column: usize| (value / diagonal[column]).abs();
    let row = |_| Row { goes: vec![false; columns], values: vec![T::zero(); columns] };
    let mut states: Vec<Row<T>> = (0..rows).map(row).collect();
    // A share is that of a whole block of columns, chosen before the first of them.
    let begin = |weight: &Tensor, block: Range<usize>, states: &mut [Row<T>]| {
        let Sparsity::Unstructured(_) = sparsity else { return };
        let mut scores = numbers::<T>(&weight.narrow(1, block.start as i64, block.len() as i64));
        for row in scores.chunks_exact_mut(block.len()) {
            row.iter_mut().zip(block.clone()).for_each(|(value, column)| *value = score(*value, column));
        }
        let goes = lowest(&scores, block.len(), scores.len(), sparsity);
        states.iter_mut().zip(goes.chunks_exact(block.len())).for_each(|(row, goes)| row.goes[block.clone()].copy_from_slice(goes));
    };
    let blocks = (0..columns).step_by(block_size).map(|start| start..(start + block_size).min(columns));
    compensate(weight, upper, blocks, &mut states, begin, |row: &mut Row<T>, column, values: &[T]| {
        // Groups are chosen when their first column is reached.
        if let Sparsity::Pattern { n, m } = sparsity
            && column.is_multiple_of(m)
        {
            let scores: Vec<T> = values.iter().take(m).zip(column..).map(|(&value, column)| score(value, column)).collect();
            mark_lowest(&scores, beyond(n, scores.len()), &mut row.goes[column..column + scores.len()]);
        }
        row.values[column] = if row.goes[column] { T::zero() } else { values[0] };
        row.values[column]
    });
    let values: Vec<T> = states.into_iter().flat_map(|row| row.values).collect();
    Tensor::from_slice(&values).view(&shape[..]).to_device(device)
}
