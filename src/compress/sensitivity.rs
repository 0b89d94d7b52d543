//! How much a model's predictions change where one of its matrices is another, such as what
//! it is rounded to.

use super::calibrate::Stream;
use super::decoder::{Entrance, Exit};
use super::tensors::{Compute, Parameters, wide};
use crate::error::{Error, Result};
use crate::model::{ModelSpec, Part};
use crate::progress::Progress;
use crate::quant::{Weight, WeightStore};
use crate::recipe::TokenImportance;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use tch::{Kind, Tensor};

/// Tokens that are enough to tell layers apart: the model runs on them once for each, from its
/// block on.
const TOKENS: usize = 8192;

/// Tokens whose logits are held at a time.
const STRETCH: i64 = 512;

/// KL(model ‖ changed), in nats a token, of the model in which one matrix alone is that of
/// `other`: for each of those named, all of them in blocks, by canonical name. Over the first
/// sequences of the calibration.
pub fn sensitivities(
    store: &dyn WeightStore,
    other: &dyn WeightStore,
    names: &BTreeSet<String>,
    sequences: &[Vec<u32>],
    compute: Compute,
    progress: &dyn Progress,
) -> Result<BTreeMap<String, f64>> {
    let _no_grad = tch::no_grad_guard();
    let spec = store.spec();
    let length = sequences.first().map_or(1, Vec::len).max(1);
    let sequences = &sequences[..sequences.len().min(TOKENS.div_ceil(length))];
    let entrance = Entrance::load(spec, |name| store.weight(name), compute)?;
    let exit = Exit::load(spec, |name| store.weight(name), compute)?;
    let mut stream = Stream::start(sequences, &entrance, TokenImportance::Equal);
    let of_block = |block| spec.parameters_of(Part::Block(block)).map(|p| p.name).filter(|name| names.contains(name));
    let blocks = spec.blocks.len();
    let runs: usize = (0..blocks).map(|block| of_block(block).count() * (blocks - block)).sum();
    progress.begin(&format!("sensitivity of {} layers", names.len()), (runs + 2 * blocks) as u64 * stream.len());

    let behind = |mut stream: Stream, store: &dyn WeightStore| {
        for block in stream.block()..blocks {
            progress.may_go_on()?;
            stream.advance(&spec.blocks[block], &Parameters::block(store, block, compute)?, progress);
        }
        Ok::<_, Error>(stream)
    };
    let end = behind(stream.again(), store)?;
    let mut found = BTreeMap::new();
    for block in 0..blocks {
        for name in of_block(block) {
            let changed = behind(stream.again(), &Exchanged { store, other, name: &name })?;
            found.insert(name, divergence(spec, &exit, &end, &changed));
        }
        stream.advance(&spec.blocks[block], &Parameters::block(store, block, compute)?, progress);
    }
    progress.end();
    match found.iter().find(|(_, kl)| !kl.is_finite()) {
        Some((name, _)) => Err(Error::activations_overflow(std::slice::from_ref(name))),
        None => Ok(found),
    }
}

/// Mean over tokens, in nats.
fn divergence(spec: &ModelSpec, exit: &Exit, original: &Stream, changed: &Stream) -> f64 {
    let (mut sum, mut tokens) = (0.0, 0);
    for (x, y) in original.batches().iter().zip(changed.batches()) {
        let (x, y) = (x.flatten(0, 1), y.flatten(0, 1));
        let all = x.size()[0];
        for start in (0..all).step_by(STRETCH as usize) {
            let likelihoods = |hidden: &Tensor| {
                wide(&exit.forward(spec, &hidden.narrow(0, start, STRETCH.min(all - start)))).log_softmax(-1, None::<Kind>)
            };
            let (p, q) = (likelihoods(&x), likelihoods(&y));
            sum += (p.exp() * (p - q)).sum(Kind::Double).double_value(&[]);
        }
        tokens += all;
    }
    sum / tokens as f64
}

/// A model with one matrix of another.
struct Exchanged<'a> {
    store: &'a dyn WeightStore,
    other: &'a dyn WeightStore,
    name: &'a str,
}

impl WeightStore for Exchanged<'_> {
    fn spec(&self) -> &ModelSpec {
        self.store.spec()
    }
    fn weight(&self, name: &str) -> Result<Weight> {
        if name == self.name { self.other.weight(name) } else { self.store.weight(name) }
    }
    fn files(&self) -> Vec<Arc<PathBuf>> {
        self.store.files()
    }
}
