//! How much a model's predictions change where one of its matrices is another, such as what
//! it is rounded to.

use super::calibrate::HiddenStates;
use super::libtorch::{EmbeddingLayer, LmHead};
use super::tensors::{Compute, Parameters, wide};
use crate::error::{Error, Result};
use crate::model::{Part, rows_at_a_time};
use crate::progress::{Progress, Unit};
use crate::quant::{Weight, WeightStore};
use crate::recipe::TokenImportance;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use tch::{Kind, Tensor};

/// Tokens that are enough to tell layers apart, but for one sequence at least: the model runs
/// on them once for each layer, from its block on.
const TOKENS: usize = 8192;

/// Models in which one matrix alone is another's, block by block; the layers of one go
/// through those behind it abreast. No matrix may be scaled against another that stays.
pub struct Trials<'a> {
    store: &'a dyn WeightStore,
    other: &'a dyn WeightStore,
    names: &'a BTreeSet<String>,
    compute: Compute,
    progress: &'a dyn Progress,
    head: LmHead,
    /// Of the original, before the block whose turn it is.
    hidden: HiddenStates,
    /// Behind the last block.
    end: HiddenStates,
}

impl<'a> Trials<'a> {
    /// Of those matrices in blocks that are named, by canonical name, over the first of the
    /// calibration's sequences.
    pub fn start(
        store: &'a dyn WeightStore,
        other: &'a dyn WeightStore,
        names: &'a BTreeSet<String>,
        sequences: &[Vec<u32>],
        compute: Compute,
        progress: &'a dyn Progress,
    ) -> Result<Self> {
        let spec = store.spec();
        let length = sequences.first().map_or(1, Vec::len).max(1);
        let sequences = &sequences[..sequences.len().min((TOKENS / length).max(1))];
        let embedding = EmbeddingLayer::load(spec, |name| store.weight(name), compute)?;
        // Differences of logits may be less than half precision tells.
        let head = LmHead::load(spec, |name| store.weight(name), Compute { kind: Kind::Float, ..compute })?;
        let hidden = HiddenStates::start(sequences, &embedding, TokenImportance::Equal);
        let mut trials = Self { store, other, names, compute, progress, head, end: hidden.again(), hidden };
        let blocks = spec.blocks.len();
        let steps: u64 = (0..blocks).map(|block| trials.steps(block)).sum();
        let steps = steps + (2 * blocks as u64 - 1) * trials.hidden.len();
        progress.begin(&format!("sensitivity of {} layers", names.len()), steps, Unit::of("blocks", steps.div_ceil(blocks as u64)));
        let mut end = trials.hidden.again();
        for block in 0..blocks {
            trials.pass(block, store, &mut end)?;
        }
        trials.end = end;
        Ok(trials)
    }

    /// Of a block: its own layers through it and those behind it, and the head.
    fn steps(&self, block: usize) -> u64 {
        (self.of(block).len() * (self.store.spec().blocks.len() - block + 1)) as u64 * self.hidden.len()
    }

    fn of(&self, block: usize) -> Vec<String> {
        self.store.spec().parameters_of(Part::Block(block)).map(|p| p.name).filter(|name| self.names.contains(name)).collect()
    }

    fn pass(&self, block: usize, store: &dyn WeightStore, hidden: &mut HiddenStates) -> Result<()> {
        self.progress.may_go_on()?;
        hidden.advance(&self.store.spec().blocks[block], &Parameters::block(store, block, self.compute)?, self.progress);
        Ok(())
    }

    /// KL(model ‖ changed), in nats a token, for each layer of the block whose turn it is, by
    /// canonical name.
    pub fn block(&self, block: usize) -> Result<BTreeMap<String, f64>> {
        let _no_grad = tch::no_grad_guard();
        assert_eq!(self.hidden.block(), block, "blocks have their turns");
        let names = self.of(block);
        let mut changed: Vec<HiddenStates> = names.iter().map(|_| self.hidden.again()).collect();
        for passed in block..self.store.spec().blocks.len() {
            for (name, hidden) in names.iter().zip(&mut changed) {
                self.pass(passed, &Exchanged { store: self.store, other: self.other, name }, hidden)?;
            }
        }
        let found: BTreeMap<String, f64> = names.into_iter().zip(self.divergences(&changed)?).collect();
        match found.iter().find(|(_, kl)| !kl.is_finite()) {
            Some((name, _)) => {
                Err(Error::Overflow(format!("what {name} is worth is no number: the model overflows on the calibration's text")))
            }
            None => Ok(found),
        }
    }

    /// Counts the steps of a block whose layers are known.
    pub fn skip(&self, block: usize) {
        self.progress.advance(self.steps(block));
    }

    /// Gives the next block its turn.
    pub fn advance(&mut self, block: usize) -> Result<()> {
        // What the last one makes of the original is known.
        if block + 1 < self.store.spec().blocks.len() {
            let mut hidden = self.hidden.again();
            self.pass(block, self.store, &mut hidden)?;
            self.hidden = hidden;
        }
        Ok(())
    }

    /// Means over tokens, in nats, of where some models have arrived.
    fn divergences(&self, changed: &[HiddenStates]) -> Result<Vec<f64>> {
        let spec = self.store.spec();
        let stretch = rows_at_a_time(spec) as i64;
        let (mut sums, mut tokens) = (vec![0.0; changed.len()], 0);
        for (batch, original) in self.end.batches().iter().enumerate() {
            self.progress.may_go_on()?;
            let flat = original.flatten(0, 1);
            let all = flat.size()[0];
            for start in (0..all).step_by(stretch as usize) {
                let likelihoods = |flat: &Tensor| {
                    let states = wide(&flat.narrow(0, start, stretch.min(all - start)));
                    self.head.forward(&states).log_softmax(-1, None::<Kind>)
                };
                let original = likelihoods(&flat);
                let probabilities = original.exp();
                for (sum, hidden) in sums.iter_mut().zip(changed) {
                    let difference = &original - likelihoods(&hidden.batches()[batch].flatten(0, 1));
                    *sum += (&probabilities * difference).sum(Kind::Double).double_value(&[]);
                }
            }
            tokens += all;
            self.progress.advance(changed.len() as u64);
        }
        // Rounding may leave less than nothing.
        Ok(sums.into_iter().map(|sum| (sum / tokens as f64).max(0.0)).collect())
    }
}

/// A model with one matrix of another.
struct Exchanged<'a> {
    store: &'a dyn WeightStore,
    other: &'a dyn WeightStore,
    name: &'a str,
}

impl WeightStore for Exchanged<'_> {
    fn spec(&self) -> &crate::model::ModelSpec {
        self.store.spec()
    }
    fn weight(&self, name: &str) -> Result<Weight> {
        if name == self.name { self.other.weight(name) } else { self.store.weight(name) }
    }
    fn files(&self) -> Vec<Arc<PathBuf>> {
        self.store.files()
    }
}
