//! From ids to the residual stream, and from there to logits.

use super::{linear, norm_opt};
use crate::compress::tensors::{Compute, Parameters};
use crate::error::Result;
use crate::model::parameters::{EMBEDDING_NORM, EMBEDDING_PROJECTION, EMBEDDINGS, FINAL_NORM, HEAD_BIAS, HEAD_PROJECTION, POSITIONS};
use crate::model::spec::{Embedding, Positions};
use crate::model::{ModelSpec, Part};
use crate::quant::Weight;
use rayon::prelude::*;
use tch::Tensor;

/// What comes before the blocks. Of the embedding only the rows that are looked up
/// are read.
pub struct Entrance {
    spec: Embedding,
    embeddings: Weight,
    positions: Option<Weight>,
    others: Parameters,
    compute: Compute,
}

impl Entrance {
    /// `weight` finds parameters by canonical name.
    pub fn load(spec: &ModelSpec, weight: impl Fn(&str) -> Result<Weight>, compute: Compute) -> Result<Self> {
        let looked_up = [EMBEDDINGS, POSITIONS];
        let others = spec.parameters_of(Part::Start).filter(|p| !looked_up.contains(&p.name.as_str()));
        let others = others.map(|p| Ok((p.name.clone(), weight(&p.name)?))).collect::<Result<Vec<_>>>()?;
        let positions = (spec.embedding.positions == Positions::Learned).then(|| weight(POSITIONS)).transpose()?;
        Ok(Self {
            spec: spec.embedding.clone(),
            embeddings: weight(EMBEDDINGS)?,
            positions,
            others: Parameters::new(others, compute),
            compute,
        })
    }

    /// Hidden states `[batch, tokens, hidden]` of sequences of one length.
    pub fn forward(&self, sequences: &[&[u32]]) -> Tensor {
        let (batch, tokens) = (sequences.len() as i64, sequences.first().map_or(0, |s| s.len()));
        let ids: Vec<usize> = sequences.iter().flat_map(|s| s.iter().map(|&id| id as usize)).collect();
        let mut x = self.to_compute(&rows(&self.embeddings, &ids)).view([batch, tokens as i64, -1]);
        if let Some(scale) = self.spec.scale {
            x *= f64::from(scale);
        }
        if self.spec.width.is_some() {
            x = linear(&self.others, EMBEDDING_PROJECTION, &x);
        }
        let hidden = *x.size().last().expect("[batch, tokens, hidden]");
        let places = 0..tokens;
        let positions = match (&self.positions, self.spec.positions) {
            (Some(table), _) => Some(rows(table, &places.collect::<Vec<_>>())),
            (None, Positions::Sinusoidal { first }) => {
                Some(places.flat_map(|place| Positions::sinusoid(first + place, hidden as usize)).collect())
            }
            (None, _) => None,
        };
        if let Some(positions) = positions {
            x += self.to_compute(&positions).view([tokens as i64, hidden]);
        }
        norm_opt(&self.spec.norm, &self.others, EMBEDDING_NORM, &x)
    }

    /// Where it computes.
    pub fn device(&self) -> tch::Device {
        self.compute.device
    }

    fn to_compute(&self, numbers: &[f32]) -> Tensor {
        Tensor::from_slice(numbers).to_kind(self.compute.kind).to_device(self.compute.device)
    }
}

/// Some rows of a matrix.
fn rows(matrix: &Weight, which: &[usize]) -> Vec<f32> {
    let width = matrix.shape()[1];
    let mut all = vec![0f32; which.len() * width];
    all.par_chunks_exact_mut(width).zip(which).for_each(|(out, &row)| matrix.row(row, out));
    all
}

/// What comes behind the blocks.
pub struct Exit {
    parameters: Parameters,
}

impl Exit {
    /// `weight` finds parameters by canonical name.
    pub fn load(spec: &ModelSpec, weight: impl Fn(&str) -> Result<Weight>, compute: Compute) -> Result<Self> {
        let names = spec.parameters_of(Part::End).map(|p| p.name).chain(spec.tied.then(|| EMBEDDINGS.to_owned()));
        let weights = names.map(|name| weight(&name).map(|w| (name, w))).collect::<Result<Vec<_>>>()?;
        Ok(Self { parameters: Parameters::new(weights, compute) })
    }

    /// Logits `[…, vocab]` of hidden states behind the last block `[…, hidden]`.
    pub fn forward(&self, spec: &ModelSpec, x: &Tensor) -> Tensor {
        let mut x = norm_opt(&spec.final_norm, &self.parameters, FINAL_NORM, x);
        if spec.embedding.width.is_some() {
            x = linear(&self.parameters, HEAD_PROJECTION, &x);
        }
        let logits = x.linear(self.parameters.get(spec.head_name()), self.parameters.find(HEAD_BIAS));
        match spec.head.softcap.map(f64::from) {
            Some(cap) => (logits / cap).tanh() * cap,
            None => logits,
        }
    }
}
