//! The forward on libtorch as a [`LogitSource`].

use super::libtorch::{EmbeddingLayer, LmHead, block_forward};
use super::tensors::{Compute, Parameters, to_vec};
use crate::error::Result;
use crate::model::{LogitSource, ModelSpec};
use crate::quant::WeightStore;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use tch::Tensor;

/// Windows of tokens through libtorch. Blocks are loaded anew for each window, so that memory
/// follows the block and not the model.
pub struct TorchLogits {
    store: Arc<dyn WeightStore>,
    compute: Compute,
    /// Decoded packed blocks, by their number.
    decoded: BTreeMap<usize, Parameters>,
    /// Bytes that further decoded blocks may take.
    room: usize,
    head: Option<LmHead>,
    hidden: Option<Tensor>,
}

impl TorchLogits {
    /// Bytes of decoded blocks for [`TorchLogits::keeping`]: a small model as a whole, some
    /// blocks of a large one.
    pub const DECODED_BYTES: usize = 256 << 20;

    /// Keeps no block: for a window or two, and for dense weights, which are not decoded.
    pub fn new(store: Arc<dyn WeightStore>, compute: Compute) -> Self {
        Self { store, compute, decoded: BTreeMap::new(), room: 0, head: None, hidden: None }
    }

    /// Keeps decoded packed blocks between windows, up to so many bytes of their tensors; the
    /// first blocks are kept, and the others decoded once a window.
    pub fn keeping(self, bytes: usize) -> Self {
        Self { room: bytes, ..self }
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
            if let Some(weights) = self.decoded.get(&i) {
                x = block_forward(block, weights, &x, &mut |_, _| ());
                continue;
            }
            let weights = Parameters::block(&*self.store, i, self.compute)?;
            x = block_forward(block, &weights, &x, &mut |_, _| ());
            let bytes = weights.len_bytes();
            if weights.any_packed() && bytes <= self.room {
                self.room -= bytes;
                self.decoded.insert(i, weights);
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
