//! The differentiable decoder as a [`LogitSource`].

use super::libtorch::{EmbeddingLayer, LmHead, block_forward};
use super::tensors::{Compute, Parameters, to_vec};
use crate::error::Result;
use crate::model::{LogitSource, ModelSpec};
use crate::quant::WeightStore;
use std::ops::Range;
use std::sync::Arc;
use tch::Tensor;

/// Windows of tokens through libtorch. What is only a view of its map is loaded
/// anew for each window, so that the model is never in memory as a whole; packed
/// blocks are decoded once and kept.
pub struct TorchLogits {
    store: Arc<dyn WeightStore>,
    compute: Compute,
    kept: Vec<Option<Parameters>>,
    head: Option<LmHead>,
    hidden: Option<Tensor>,
}

impl TorchLogits {
    /// Over a model's weights.
    pub fn new(store: Arc<dyn WeightStore>, compute: Compute) -> Self {
        let kept = store.spec().blocks.iter().map(|_| None).collect();
        Self { store, compute, kept, head: None, hidden: None }
    }
}

impl LogitSource for TorchLogits {
    fn spec(&self) -> &ModelSpec {
        self.store.spec()
    }

    fn run_window(&mut self, ids: &[u32]) -> Result<()> {
        let spec = self.store.spec();
        spec.check_ids(ids)?;
        spec.check_length(ids.len())?;
        let _no_grad = tch::no_grad_guard();
        let mut x = EmbeddingLayer::load(spec, |name| self.store.weight(name), self.compute)?.forward(&[ids]);
        for (i, block) in spec.blocks.iter().enumerate() {
            let weights = match self.kept[i].take() {
                Some(weights) => weights,
                None => Parameters::block(&*self.store, i, self.compute)?,
            };
            x = block_forward(block, &weights, &x, &mut |_, _| ());
            if weights.any_packed() {
                self.kept[i] = Some(weights);
            }
        }
        self.hidden = Some(x.squeeze_dim(0));
        Ok(())
    }

    fn logits(&mut self, positions: Range<usize>) -> Result<Vec<f32>> {
        let _no_grad = tch::no_grad_guard();
        let spec = self.store.spec();
        if self.head.is_none() {
            self.head = Some(LmHead::load(spec, |name| self.store.weight(name), self.compute)?);
        }
        let head = self.head.as_ref().expect("just loaded");
        let hidden = self.hidden.as_ref().expect("run_window comes first");
        let hidden = hidden.narrow(0, positions.start as i64, positions.len() as i64);
        Ok(to_vec(&head.forward(&hidden)))
    }
}
