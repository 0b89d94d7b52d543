//! From ids to the residual stream, and from there to logits.

use super::linear::{Device, LinearLayer};
use super::norm::{NormLayer, norm_in_place};
use crate::error::Result;
use crate::model::ModelSpec;
use crate::model::parameters::{EMBEDDING_NORM, EMBEDDING_PROJECTION, EMBEDDINGS, FINAL_NORM, HEAD_BIAS, HEAD_PROJECTION, POSITIONS};
use crate::model::spec::{Embedding, Head, Positions};
use crate::quant::WeightStore;
use std::sync::Arc;

/// What comes before the blocks.
pub(super) struct Entrance {
    pub embeddings: Arc<LinearLayer>,
    projection: Option<LinearLayer>,
    positions: Option<LinearLayer>,
    norm: Option<NormLayer>,
}

impl Entrance {
    pub fn load(store: &dyn WeightStore) -> Result<Self> {
        let spec = store.spec();
        let matrix = |there: bool, name: &str| there.then(|| LinearLayer::load(store, name, false)).transpose();
        Ok(Self {
            embeddings: Arc::new(LinearLayer::load(store, EMBEDDINGS, false)?),
            projection: matrix(spec.embedding.width.is_some(), EMBEDDING_PROJECTION)?,
            positions: matrix(spec.embedding.positions == Positions::Learned, POSITIONS)?,
            norm: NormLayer::load_opt(store, EMBEDDING_NORM, &spec.embedding.norm, spec.hidden_size)?,
        })
    }

    /// `[tokens, hidden]` of ids at positions. Errors where a position has no row in
    /// the model's table.
    pub fn apply(&self, spec: &ModelSpec, ids: &[u32], positions: &[usize], device: &Device) -> Result<Vec<f32>> {
        spec.check_length(positions.iter().map(|p| p + 1).max().unwrap_or(0))?;
        // All of them are named, so that one that is added cannot be forgotten here.
        let Embedding { width: _, scale, positions: kind, norm: _ } = spec.embedding;
        let width = spec.embedding_width();
        let mut x = vec![0.0; ids.len() * width];
        for (&id, row) in ids.iter().zip(x.chunks_exact_mut(width)) {
            self.embeddings.row(id as usize, row);
        }
        if let Some(scale) = scale {
            x.iter_mut().for_each(|v| *v *= scale);
        }
        if let Some(projection) = &self.projection {
            x = projection.apply(&x, device);
        }
        let mut row = vec![0.0; spec.hidden_size];
        for (&position, x) in positions.iter().zip(x.chunks_exact_mut(spec.hidden_size)) {
            match (&self.positions, kind) {
                (Some(table), _) => table.row(position, &mut row),
                (None, Positions::Sinusoidal { first }) => row = Positions::sinusoid(first + position, spec.hidden_size),
                (None, _) => break,
            }
            x.iter_mut().zip(&row).for_each(|(x, p)| *x += p);
        }
        norm_in_place(&self.norm, &mut x, device.kernels);
        Ok(x)
    }
}

/// What comes behind the blocks.
pub(super) struct Exit {
    norm: Option<NormLayer>,
    projection: Option<LinearLayer>,
    head: Arc<LinearLayer>,
    bias: Vec<f32>,
}

impl Exit {
    /// `embeddings` serve as the head where it is tied.
    pub fn load(store: &dyn WeightStore, embeddings: &Arc<LinearLayer>) -> Result<Self> {
        let spec = store.spec();
        let projection = spec.embedding.width.map(|_| LinearLayer::load(store, HEAD_PROJECTION, false)).transpose()?;
        let head = if spec.tied { embeddings.clone() } else { Arc::new(LinearLayer::load(store, spec.head_name(), false)?) };
        let bias = if spec.head.bias { store.weight(HEAD_BIAS)?.to_f32().into_owned() } else { Vec::new() };
        Ok(Self { norm: NormLayer::load_opt(store, FINAL_NORM, &spec.final_norm, spec.hidden_size)?, projection, head, bias })
    }

    /// Norms hidden states `[tokens, hidden]` behind the last block.
    pub fn norm(&self, x: &mut [f32], device: &Device) {
        norm_in_place(&self.norm, x, device.kernels);
    }

    /// Logits `[tokens, vocab]` of normed hidden states `[tokens, hidden]`.
    pub fn logits(&self, spec: &ModelSpec, hidden: &[f32], device: &Device) -> Vec<f32> {
        let Head { bias: _, softcap } = spec.head;
        let mut logits = match &self.projection {
            Some(projection) => self.head.apply(&projection.apply(hidden, device), device),
            None => self.head.apply(hidden, device),
        };
        if !self.bias.is_empty() {
            logits.iter_mut().zip(self.bias.iter().cycle()).for_each(|(l, b)| *l += b);
        }
        if let Some(cap) = softcap {
            logits.iter_mut().for_each(|l| *l = cap * (*l / cap).tanh());
        }
        logits
    }
}
