//! The optimal-brain update: columns are fixed one by one, and the error of each
//! is made good by those that follow.
//!
//! With U the upper Cholesky factor of the inverse Hessian, the update of row w
//! after column i is `w[j] −= (w[i] − q) / U[i,i] · U[i,j]` for j > i. Source: GPTQ
//! (Frantar et al. 2022), algorithm 1; Optimal Brain Compression (Frantar and
//! Alistarh 2022), equation 2.

use crate::quant::grid::Real;
use rayon::prelude::*;
use std::ops::Range;
use tch::{Device, Tensor, kind::Element};

/// Columns that are updated at once: what follows a block sees it through one
/// matrix product.
pub const BLOCK: usize = 128;

/// Goes through the columns of `weight` `[rows, columns]`, which is used up, in blocks.
///
/// `states` holds what the caller knows of each row. `begin(weight, columns,
/// states)` is called before each block, with a weight that has all earlier
/// errors made good. `choose(state, column, values)` fixes a column of a row:
/// `values[0]` is its value now, the rest are those after it in the block;
/// it answers with the value the column is fixed to.
pub fn compensate<T: Real + Element, S: Send>(
    weight: Tensor,
    upper: &Tensor,
    blocks: impl Iterator<Item = Range<usize>>,
    states: &mut [S],
    mut begin: impl FnMut(&Tensor, Range<usize>, &mut [S]),
    choose: impl Fn(&mut S, usize, &[T]) -> T + Sync,
) {
    // `narrow` gives views of it, through which it is updated in place.
    let columns = weight.size()[1];
    for block in blocks {
        begin(&weight, block.clone(), states);
        let (start, n) = (block.start as i64, block.len() as i64);
        let mut values = numbers::<T>(&weight.narrow(1, start, n));
        let factor = numbers::<T>(&upper.narrow(0, start, n).narrow(1, start, n));
        let n = block.len();
        values.par_chunks_exact_mut(n).zip(states.par_iter_mut()).for_each(|(row, state)| {
            for i in 0..n {
                let error = (row[i] - choose(state, block.start + i, &row[i..])) / factor[i * n + i];
                for (value, &u) in row[i + 1..].iter_mut().zip(&factor[i * n + i + 1..(i + 1) * n]) {
                    *value -= error * u;
                }
                row[i] = error;
            }
        });
        let rest = columns - block.end as i64;
        if rest > 0 {
            let errors = Tensor::from_slice(&values).view([-1, n as i64]).to_device(weight.device());
            let upper = upper.narrow(0, start, n as i64).narrow(1, block.end as i64, rest);
            let mut after = weight.narrow(1, block.end as i64, rest);
            let _ = after.addmm_(&errors.neg(), &upper);
        }
    }
}

/// The numbers of a matrix, row by row, on the CPU.
pub fn numbers<T: Element + Copy>(matrix: &Tensor) -> Vec<T> {
    let flat = matrix.to_device(Device::Cpu).contiguous().view(-1);
    Vec::try_from(&flat).expect("the kind is the caller's")
}
