//! The differentiable decoder as a [`LogitSource`].

use super::decoder::{block_forward, embed, norm_forward};
use super::tensors::{Compute, Parameter, Parameters, to_vec};
use crate::error::Result;
use crate::model::parameters::{EMBEDDINGS, FINAL_NORM};
use crate::model::{LogitSource, ModelSpec};
use crate::quant::{Weight, WeightStore};
use std::ops::Range;
use std::sync::Arc;
use tch::Tensor;

/// Windows of tokens through libtorch. Dense weights are read block by block from
/// their map; packed ones are decoded once and kept.
pub struct TorchLogits {
    store: Arc<dyn WeightStore>,
    compute: Compute,
    kept: Vec<Option<Parameters>>,
    embeddings: Option<Parameter>,
    head: Option<Parameter>,
    hidden: Option<Tensor>,
}

impl TorchLogits {
    /// Over a model's weights.
    pub fn new(store: Arc<dyn WeightStore>, compute: Compute) -> Self {
        let kept = store.spec().blocks.iter().map(|_| None).collect();
        Self { store, compute, kept, embeddings: None, head: None, hidden: None }
    }

    fn is_packed(&self, block: usize) -> Result<bool> {
        let prefix = ModelSpec::block_name(block, "");
        let names = self.store.spec().parameters().into_iter().map(|p| p.name).filter(|n| n.starts_with(&prefix));
        for name in names {
            if matches!(self.store.weight(&name)?, Weight::Packed(_)) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// Loads once.
fn kept<'a>(place: &'a mut Option<Parameter>, store: &dyn WeightStore, name: &str, compute: Compute) -> Result<&'a Tensor> {
    if place.is_none() {
        *place = Some(Parameter::load(store.weight(name)?, compute));
    }
    Ok(place.as_ref().expect("just loaded").tensor())
}

impl LogitSource for TorchLogits {
    fn spec(&self) -> &ModelSpec {
        self.store.spec()
    }

    fn run_window(&mut self, ids: &[u32]) -> Result<()> {
        let store = self.store.clone();
        store.spec().check_ids(ids)?;
        let _no_grad = tch::no_grad_guard();
        let ids: Vec<i64> = ids.iter().map(|&id| id.into()).collect();
        let ids = Tensor::from_slice(&ids).view([1, -1]);
        let mut x = embed(kept(&mut self.embeddings, &*store, EMBEDDINGS, self.compute)?, &ids, self.compute);
        for (i, block) in store.spec().blocks.iter().enumerate() {
            let weights = match self.kept[i].take() {
                Some(weights) => weights,
                None => Parameters::block(&*store, i, self.compute)?,
            };
            x = block_forward(block, &weights, &x, &mut |_, _| ());
            // Views of a map cost nothing to make again, copies would add up.
            if self.is_packed(i)? {
                self.kept[i] = Some(weights);
            }
        }
        let norm = Parameter::load(store.weight(FINAL_NORM)?, self.compute);
        self.hidden = Some(norm_forward(&store.spec().final_norm, norm.tensor(), &x).squeeze_dim(0));
        Ok(())
    }

    fn logits(&mut self, positions: Range<usize>) -> Result<Vec<f32>> {
        let _no_grad = tch::no_grad_guard();
        let store = self.store.clone();
        let head = kept(&mut self.head, &*store, store.spec().head_name(), self.compute)?;
        let hidden = self.hidden.as_ref().expect("run_window comes first");
        let hidden = hidden.narrow(0, positions.start as i64, positions.len() as i64);
        Ok(to_vec(&hidden.matmul(&head.tr())))
    }
}
