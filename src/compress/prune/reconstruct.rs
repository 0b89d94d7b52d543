//! What a block's layers become when part of their inputs is gone: their columns that
//! stay are solved anew, so that the smaller block, on what the smaller blocks before it
//! make of the calibration, does what the whole block did on what the whole ones made.

use crate::compress::calibrate::HiddenStates;
use crate::compress::libtorch::block_until;
use crate::compress::solve::least_squares::Paired;
use crate::compress::tensors::Parameters;
use crate::progress::Progress;
use crate::spec::{Block, LayerName};
use std::ops::ControlFlow;
use tch::{Kind, Tensor};

/// A block of one of the two models, and what enters it.
#[derive(Clone, Copy)]
pub struct BlockWithInput<'a> {
    /// The block.
    pub block: &'a Block,
    /// Its parameters.
    pub weights: &'a Parameters,
    /// Hidden states before it.
    pub hidden: &'a HiddenStates,
}

/// Sums over an input as it was in the whole model and as it is in the smaller one, of
/// every second batch and of the others.
pub fn pair(whole: BlockWithInput, smaller: BlockWithInput, input: LayerName, progress: &dyn Progress) -> [Paired; 2] {
    let _no_grad = tch::no_grad_guard();
    let mut halves: [Option<Paired>; 2] = [None, None];
    for (i, (x, y)) in whole.hidden.batches().iter().zip(smaller.hidden.batches()).enumerate() {
        let weights = whole.hidden.importance(i);
        let more = paired(&observed(whole, x, input), &observed(smaller, y, input), weights.as_ref());
        match &mut halves[i % 2] {
            Some(sums) => sums.add(&more),
            none => *none = Some(more),
        }
        progress.advance(1);
    }
    let [first, second] = halves;
    let first = first.expect("there are sequences");
    let second = second.unwrap_or_else(|| first.zero());
    [first, second]
}

/// Sums over tokens `[tokens, …]`, each as often as it counts.
fn paired(x: &Tensor, y: &Tensor, weights: Option<&Tensor>) -> Paired {
    let (weighed_x, weighed_y, tokens) = match weights.map(|weights| weights.unsqueeze(1)) {
        None => (x.shallow_clone(), y.shallow_clone(), x.size()[0] as f64),
        Some(weights) => (x * &weights, y * &weights, weights.sum(Kind::Double).double_value(&[])),
    };
    let product = |x: &Tensor, y: &Tensor| x.tr().matmul(y).to_kind(Kind::Double);
    let sum = |x: &Tensor| x.sum_dim_intlist(0, false, Kind::Double);
    Paired {
        tokens,
        across: product(&weighed_x, y),
        products: product(&weighed_y, y),
        squares: product(&weighed_x, x),
        before: sum(&weighed_x),
        after: sum(&weighed_y),
        magnitudes: sum(&weighed_y.abs()),
    }
}

/// `[tokens, in]`; products of so few are summed in double precision.
fn observed(place: BlockWithInput, x: &Tensor, input: LayerName) -> Tensor {
    let mut found = None;
    let _ = block_until(place.block, place.weights, vec![x.shallow_clone()], &mut |name, x| {
        if name != input {
            return ControlFlow::Continue(());
        }
        found = Some(x[0].flatten(0, 1).to_kind(Kind::Float));
        ControlFlow::Break(())
    });
    found.expect("every input of the block is observed")
}
