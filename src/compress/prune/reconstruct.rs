//! What a block's layers become when part of their inputs is gone: their columns that
//! stay are solved anew, so that the smaller block, on what the smaller blocks before it
//! make of the calibration, does what the whole block did on what the whole ones made.

use crate::compress::calibrate::Stream;
use crate::compress::decoder::block_until;
use crate::compress::solve::least_squares::Paired;
use crate::compress::tensors::Parameters;
use crate::model::spec::Block;
use crate::progress::Progress;
use std::ops::ControlFlow;
use tch::{Kind, Tensor};

/// A block of one of the two models, and what enters it.
#[derive(Clone, Copy)]
pub struct Place<'a> {
    /// The block.
    pub block: &'a Block,
    /// Its parameters.
    pub weights: &'a Parameters,
    /// The stream before it.
    pub stream: &'a Stream,
}

/// Sums over an input as it was in the whole model and as it is in the smaller one.
pub fn pair(whole: Place, smaller: Place, input: &str, progress: &dyn Progress) -> Paired {
    let _no_grad = tch::no_grad_guard();
    let mut sums: Option<Paired> = None;
    for (x, y) in whole.stream.batches().iter().zip(smaller.stream.batches()) {
        let (x, y) = (heard(whole, x, input), heard(smaller, y, input));
        let more = Paired {
            tokens: x.size()[0] as f64,
            across: x.tr().matmul(&y).to_kind(Kind::Double),
            products: y.tr().matmul(&y).to_kind(Kind::Double),
            squares: x.tr().matmul(&x).to_kind(Kind::Double),
            before: x.sum_dim_intlist(0, false, Kind::Double),
            after: y.sum_dim_intlist(0, false, Kind::Double),
        };
        sums = Some(match sums {
            None => more,
            Some(sums) => sums.plus(more),
        });
        progress.advance(1);
    }
    sums.expect("there are sequences")
}

/// `[tokens, in]`; products of so few are summed in double precision.
fn heard(place: Place, x: &Tensor, input: &str) -> Tensor {
    let mut found = None;
    let _ = block_until(place.block, place.weights, x, &mut |name, x| {
        if name != input {
            return ControlFlow::Continue(());
        }
        found = Some(x.flatten(0, 1).to_kind(Kind::Float));
        ControlFlow::Break(())
    });
    found.expect("every input of the block is heard")
}

impl Paired {
    fn plus(self, more: Self) -> Self {
        Self {
            tokens: self.tokens + more.tokens,
            across: self.across + more.across,
            products: self.products + more.products,
            squares: self.squares + more.squares,
            before: self.before + more.before,
            after: self.after + more.after,
        }
    }
}
