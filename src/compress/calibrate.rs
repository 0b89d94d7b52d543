//! Activation statistics, streamed block by block: hidden states of all
//! calibration sequences are kept, weights of one block at a time.

use super::decoder::{Entrance, Listener, block_forward};
use super::tensors::Parameters;
use crate::model::spec::Block;
use crate::progress::Progress;
use std::collections::BTreeMap;
use tch::{Kind, Tensor};

/// Sequences that go through a block together.
const BATCH: usize = 8;

/// Hidden states between two blocks.
pub struct Stream {
    /// `[batch, tokens, hidden]` each.
    batches: Vec<Tensor>,
}

/// What is gathered of the input of each group of linear layers.
#[derive(Default)]
pub struct Statistics {
    sums: BTreeMap<&'static str, Sums>,
}

/// Over the tokens so far.
struct Sums {
    tokens: i64,
    /// Σ x xᵀ `[in, in]`
    products: Tensor,
    /// Σ |x| `[in]`
    magnitudes: Tensor,
    /// max |x| `[in]`
    greatest: Tensor,
}

/// What methods know of an input.
pub struct InputStatistics {
    /// 2/n · Σ x xᵀ `[in, in]`, the Hessian of the layer's squared error (GPTQ, section
    /// 3.1).
    pub hessian: Tensor,
    /// Mean |x| `[in]`.
    pub mean_magnitude: Tensor,
    /// max |x| `[in]`.
    pub greatest_magnitude: Tensor,
}

impl Stream {
    /// The embedded sequences, all of one length.
    pub fn start(sequences: &[Vec<u32>], entrance: &Entrance) -> Self {
        let _no_grad = tch::no_grad_guard();
        let batch = |some: &[Vec<u32>]| {
            let sequences: Vec<&[u32]> = some.iter().map(Vec::as_slice).collect();
            entrance.forward(&sequences)
        };
        Self { batches: sequences.chunks(BATCH).map(batch).collect() }
    }

    /// Steps of one pass, for progress.
    pub fn len(&self) -> u64 {
        self.batches.len() as u64
    }

    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.batches.is_empty()
    }

    /// The same place once more.
    pub fn again(&self) -> Self {
        Self { batches: self.batches.iter().map(Tensor::shallow_clone).collect() }
    }

    /// Runs a block and gathers statistics of some of its inputs; the stream stays
    /// before the block.
    pub fn observe(&self, spec: &Block, weights: &Parameters, inputs: &[&str], progress: &dyn Progress) -> Statistics {
        let _no_grad = tch::no_grad_guard();
        let mut statistics = Statistics::default();
        for x in &self.batches {
            let _ = block_forward(spec, weights, x, &mut |input, x| {
                if inputs.contains(&input) {
                    statistics.add(input, x);
                }
            });
            progress.advance(1);
        }
        statistics
    }

    /// Moves past a block.
    pub fn advance(&mut self, spec: &Block, weights: &Parameters, progress: &dyn Progress) {
        self.pass(spec, weights, progress, &mut |_, _| ());
    }

    /// The same, gathering statistics.
    pub fn advance_observed(&mut self, spec: &Block, weights: &Parameters, progress: &dyn Progress) -> Statistics {
        let mut statistics = Statistics::default();
        self.pass(spec, weights, progress, &mut |input, x| statistics.add(input, x));
        statistics
    }

    fn pass(&mut self, spec: &Block, weights: &Parameters, progress: &dyn Progress, hear: &mut Listener) {
        let _no_grad = tch::no_grad_guard();
        for x in &mut self.batches {
            *x = block_forward(spec, weights, x, hear);
            progress.advance(1);
        }
    }

    /// Hidden states of the first sequence, `[1, tokens, hidden]`.
    pub fn first(&self) -> Tensor {
        self.batches[0].narrow(0, 0, 1)
    }
}

impl Statistics {
    fn add(&mut self, input: &'static str, x: &Tensor) {
        let x = x.reshape([-1, *x.size().last().expect("not a scalar")]).to_kind(Kind::Float);
        let (tokens, width) = x.size2().expect("[tokens, in]");
        let sums = self.sums.entry(input).or_insert_with(|| {
            let zeros = |shape: &[i64]| Tensor::zeros(shape, (Kind::Float, x.device()));
            Sums { tokens: 0, products: zeros(&[width, width]), magnitudes: zeros(&[width]), greatest: zeros(&[width]) }
        });
        let _ = sums.products.addmm_(&x.tr(), &x);
        let magnitudes = x.abs();
        let _ = sums.magnitudes.g_add_(&magnitudes.sum_dim_intlist(0, false, Kind::Float));
        sums.greatest = sums.greatest.maximum(&magnitudes.amax(0, false));
        sums.tokens += tokens;
    }

    /// Adds what others have of an input, where they have any.
    pub fn take_over(&mut self, others: &mut Self, input: &'static str) {
        let Some(other) = others.sums.remove(input) else { return };
        match self.sums.get_mut(input) {
            Some(sums) => {
                let _ = sums.products.g_add_(&other.products);
                let _ = sums.magnitudes.g_add_(&other.magnitudes);
                sums.greatest = sums.greatest.maximum(&other.greatest);
                sums.tokens += other.tokens;
            }
            None => drop(self.sums.insert(input, other)),
        }
    }

    /// What there is of an input.
    pub fn of(&self, input: &'static str) -> InputStatistics {
        let Sums { tokens, products, magnitudes, greatest } = self.sums.get(input).expect("every input of the block was heard");
        InputStatistics {
            hessian: products * (2.0 / *tokens as f64),
            mean_magnitude: magnitudes / *tokens as f64,
            greatest_magnitude: greatest.shallow_clone(),
        }
    }

    /// Takes what there is of an input.
    pub fn take(&mut self, input: &'static str) -> InputStatistics {
        let taken = self.of(input);
        self.sums.remove(input);
        taken
    }

    /// As if an input had been divided by `scales` `[in]`; nothing where there is
    /// nothing of it.
    pub fn divide(&mut self, input: &'static str, scales: &Tensor) {
        if let Some(sums) = self.sums.get_mut(input) {
            let _ = sums.products.g_div_(&scales.outer(scales));
            let _ = sums.magnitudes.g_div_(scales);
            sums.greatest = &sums.greatest / scales;
        }
    }
}
