//! Which layers go.

use crate::compress::calibrate::HiddenStates;
use crate::compress::libtorch::{EmbeddingLayer, LmHead};
use crate::compress::tensors::{Compute, Parameters, wide};
use crate::error::{Error, Result};
use crate::model::{ModelSpec, rows_at_a_time};
use crate::progress::{Progress, Unit};
use crate::quant::WeightStore;
use crate::recipe::{LayerSaliency, TokenImportance};
use tch::{Kind, Reduction, Tensor};

/// What was found of the layers.
pub struct Layers {
    /// What each is worth; by angles, that of the run that begins with it, where one can.
    pub scores: Vec<f64>,
    /// Those that go, ascending.
    pub out: Vec<usize>,
}

/// Chooses so many layers by what they do to the calibration's sequences.
pub fn choose(
    by: LayerSaliency,
    count: usize,
    store: &dyn WeightStore,
    sequences: &[Vec<u32>],
    compute: Compute,
    progress: &dyn Progress,
) -> Result<Layers> {
    let spec = store.spec();
    let embedding = EmbeddingLayer::load(spec, |name| store.weight(name), compute)?;
    let hidden = HiddenStates::start(sequences, &embedding, TokenImportance::Equal);
    let walk = Walk { store, compute, progress };
    let layers = match by {
        LayerSaliency::BlockInfluence => {
            let scores = walk.influences(hidden)?;
            let mut order: Vec<usize> = (0..scores.len()).collect();
            order.sort_by(|a, b| scores[*a].total_cmp(&scores[*b]));
            order.truncate(count);
            order.sort_unstable();
            Layers { scores, out: order }
        }
        LayerSaliency::AngularDistance => {
            let scores = walk.angles(hidden, count)?;
            let first = (0..scores.len()).min_by(|a, b| scores[*a].total_cmp(&scores[*b])).expect("a run fits");
            Layers { scores, out: (first..first + count).collect() }
        }
        LayerSaliency::Perplexity => walk.one_by_one(&hidden, count, sequences)?,
    };
    match layers.scores.iter().all(|score| score.is_finite()) {
        true => Ok(layers),
        false => Err(Error::Overflow("what a layer is worth is no number: the model overflows on the calibration's text".into())),
    }
}

struct Walk<'a> {
    store: &'a dyn WeightStore,
    compute: Compute,
    progress: &'a dyn Progress,
}

impl Walk<'_> {
    fn spec(&self) -> &ModelSpec {
        self.store.spec()
    }

    fn advance(&self, hidden: &mut HiddenStates, layer: usize) -> Result<()> {
        self.progress.may_go_on()?;
        let weights = Parameters::block(self.store, layer, self.compute)?;
        hidden.advance(&self.spec().blocks[layer], &weights, self.progress);
        Ok(())
    }

    /// 1 − the mean cosine of what enters a layer and what leaves it.
    fn influences(&self, mut hidden: HiddenStates) -> Result<Vec<f64>> {
        let layers = self.spec().blocks.len();
        self.progress.begin("prune_depth: block influence", layers as u64 * hidden.len(), Unit::of("blocks", hidden.len()));
        let mut scores = Vec::new();
        for layer in 0..layers {
            let before = hidden.again();
            self.advance(&mut hidden, layer)?;
            let (mut sum, mut tokens) = (0.0, 0);
            for (x, y) in before.batches().iter().zip(hidden.batches()) {
                let cosine = Tensor::cosine_similarity(&wide(x), &wide(y), -1, 1e-12);
                sum += cosine.sum(Kind::Double).double_value(&[]);
                tokens += cosine.numel();
            }
            scores.push(1.0 - sum / tokens as f64);
        }
        self.progress.end();
        Ok(scores)
    }

    /// Angles, as shares of π, between what enters each run of so many layers and what
    /// leaves it, at the sequences' last tokens.
    fn angles(&self, mut hidden: HiddenStates, count: usize) -> Result<Vec<f64>> {
        let layers = self.spec().blocks.len();
        self.progress.begin("prune_depth: angular distance", layers as u64 * hidden.len(), Unit::of("blocks", hidden.len()));
        let last = |hidden: &HiddenStates| Tensor::cat(&hidden.batches().iter().map(|x| wide(&x.select(1, -1))).collect::<Vec<_>>(), 0);
        let mut states = vec![last(&hidden)];
        for layer in 0..layers {
            self.advance(&mut hidden, layer)?;
            states.push(last(&hidden));
        }
        self.progress.end();
        let angle = |first: usize| {
            let cosine = Tensor::cosine_similarity(&states[first], &states[first + count], -1, 1e-12);
            cosine.clamp(-1.0, 1.0).arccos().mean(Kind::Double).double_value(&[]) / std::f64::consts::PI
        };
        Ok((0..=layers - count).map(angle).collect())
    }

    /// The layer that is missed least goes, then of the rest the next.
    fn one_by_one(&self, start: &HiddenStates, count: usize, sequences: &[Vec<u32>]) -> Result<Layers> {
        let layers = self.spec().blocks.len();
        let head = LmHead::load(self.spec(), |name| self.store.weight(name), self.compute)?;
        let runs: usize = (0..count).map(|gone| (layers - gone) * (layers - gone)).sum();
        self.progress.begin(
            "prune_depth: perplexity without each layer",
            runs as u64 * start.len(),
            Unit::of("passes through a block", start.len()),
        );
        let (mut left, mut first_scores): (Vec<usize>, _) = ((0..layers).collect(), None);
        for _ in 0..count {
            let mut scores = Vec::new();
            for skipped in &left {
                let mut hidden = start.again();
                for layer in left.iter().filter(|layer| *layer != skipped) {
                    self.advance(&mut hidden, *layer)?;
                }
                scores.push(self.perplexity(&hidden, &head, sequences));
                self.progress.advance(hidden.len());
            }
            let least = (0..scores.len()).min_by(|a, b| scores[*a].total_cmp(&scores[*b])).expect("a layer is left");
            left.remove(least);
            first_scores.get_or_insert(scores);
        }
        self.progress.end();
        let out = (0..layers).filter(|layer| !left.contains(layer)).collect();
        Ok(Layers { scores: first_scores.unwrap_or_default(), out })
    }

    fn perplexity(&self, hidden: &HiddenStates, head: &LmHead, sequences: &[Vec<u32>]) -> f64 {
        let _no_grad = tch::no_grad_guard();
        let at_a_time = rows_at_a_time(self.spec());
        let (mut loss, mut tokens) = (0.0, 0);
        let mut texts = sequences.iter();
        for x in hidden.batches() {
            for text in 0..x.size()[0] {
                let ids = texts.next().expect("a text a sequence");
                let next: Vec<i64> = ids[1..].iter().map(|&id| id.into()).collect();
                let next = Tensor::from_slice(&next).to_device(self.compute.device);
                for start in (0..next.size()[0]).step_by(at_a_time) {
                    let len = (at_a_time as i64).min(next.size()[0] - start);
                    let logits = wide(&head.forward(&x.select(0, text).narrow(0, start, len)));
                    let of = logits.cross_entropy_loss::<Tensor>(&next.narrow(0, start, len), None, Reduction::Sum, -100, 0.0);
                    loss += of.double_value(&[]);
                }
                tokens += next.size()[0];
            }
        }
        (loss / tokens as f64).exp()
    }
}
