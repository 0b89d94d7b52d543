//! The optimal-brain update: columns are fixed one by one, and the error of each
//! is made good by those that follow.
//!
//! With U the upper Cholesky factor of the inverse Hessian, the update of row w
//! after column i is `w[j] −= (w[i] − q) / U[i,i] · U[i,j]` for j > i. Source: GPTQ
//! (Frantar et al. 2022), algorithm 1; Optimal Brain Compression (Frantar and
//! Alistarh 2022), equation 2.

use crate::kernels::{self, Kernels};
use crate::quant::quant_params::Real;
use rayon::prelude::*;
use std::ops::Range;
use tch::{Device, Tensor, kind::Element};

/// Columns that are updated at once: what follows a block sees it through one
/// matrix product.
pub const BLOCK: usize = 128;

/// What weights are solved in.
pub trait Number: Real + Element {
    /// `to += factor · from`, by the best instructions that there are for it.
    fn add_scaled(kernels: &Kernels, to: &mut [Self], factor: Self, from: &[Self]);
}

impl Number for f32 {
    fn add_scaled(kernels: &Kernels, to: &mut [Self], factor: Self, from: &[Self]) {
        (kernels.weighted_sum)(&[factor], from, from.len(), to);
    }
}

impl Number for f64 {
    fn add_scaled(_: &Kernels, to: &mut [Self], factor: Self, from: &[Self]) {
        to.iter_mut().zip(from).for_each(|(to, from)| *to += factor * from);
    }
}

/// Goes through the columns of `weight` `[rows, columns]`, which is used up, in blocks.
///
/// `states` holds what the caller knows of each row. `begin(weight, columns,
/// states)` is called before each block, with a weight that has all earlier
/// errors made good. `choose(state, column, values)` fixes a column of a row:
/// `values[0]` is its value now, the rest are those after it in the block;
/// it answers with the value the column is fixed to.
///
/// What it all costs is the answer, `tr((W − Ŵ) H (W − Ŵ)ᵀ)` by the H that was factored: errors
/// `E[i] = (w[i] − q) / U[i,i]` add up to `W − Ŵ = E U`, and `U H Uᵀ = 1`.
pub fn compensate<T: Number, S: Send>(
    weight: Tensor,
    upper: &Tensor,
    blocks: impl Iterator<Item = Range<usize>>,
    states: &mut [S],
    mut begin: impl FnMut(&Tensor, Range<usize>, &mut [S]),
    choose: impl Fn(&mut S, usize, &[T]) -> T + Sync,
) -> f64 {
    // Whatever set the device's runtime is told to take.
    let kernels = kernels::supported().next_back().expect("scalar is always there");
    // `narrow` gives views of it, through which it is updated in place.
    let columns = weight.size()[1];
    let mut lost = 0.0;
    for block in blocks {
        begin(&weight, block.clone(), states);
        let (start, n) = (block.start as i64, block.len() as i64);
        let mut values = numbers::<T>(&weight.narrow(1, start, n));
        let factor = numbers::<T>(&upper.narrow(0, start, n).narrow(1, start, n));
        let n = block.len();
        let of_row = |(row, state): (&mut [T], &mut S)| {
            let mut squares = 0.0;
            for i in 0..n {
                let error = (row[i] - choose(state, block.start + i, &row[i..])) / factor[i * n + i];
                T::add_scaled(kernels, &mut row[i + 1..], -error, &factor[i * n + i + 1..(i + 1) * n]);
                squares += Real::to_f64(error).powi(2);
                row[i] = error;
            }
            squares
        };
        let of_rows: Vec<f64> = values.par_chunks_exact_mut(n).zip(states.par_iter_mut()).map(of_row).collect();
        // In one order, whatever the threads.
        lost += of_rows.iter().sum::<f64>();
        let rest = columns - block.end as i64;
        if rest > 0 {
            let errors = Tensor::from_slice(&values).view([-1, n as i64]).to_device(weight.device());
            let upper = upper.narrow(0, start, n as i64).narrow(1, block.end as i64, rest);
            let mut after = weight.narrow(1, block.end as i64, rest);
            let _ = after.addmm_(&errors.neg(), &upper);
        }
    }
    lost
}

/// The numbers of a matrix, row by row, on the CPU.
pub fn numbers<T: Element + Copy>(matrix: &Tensor) -> Vec<T> {
    let flat = matrix.to_device(Device::Cpu).contiguous().view(-1);
    Vec::try_from(&flat).expect("the kind is the caller's")
}
