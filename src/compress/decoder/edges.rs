//! From ids to the residual stream, and from there to logits.

use super::{Input, linear, norm_opt};
use crate::compress::tensors::{Compute, Parameters};
use crate::error::Result;
use crate::model::parameters::{EMBEDDING_NORM, EMBEDDING_PROJECTION, EMBEDDINGS, FINAL_NORM, HEAD_BIAS, HEAD_PROJECTION, POSITIONS};
use crate::model::spec::{Embedding, Head, Positions};
use crate::model::{ModelSpec, Part};
use crate::quant::Weight;
use rayon::prelude::*;
use std::cell::Ref;
use tch::Tensor;

/// What comes before the blocks.
pub struct Entrance {
    spec: Embedding,
    embeddings: Table,
    positions: Option<Table>,
    others: Parameters,
    compute: Compute,
}

/// A matrix whose rows are looked up.
enum Table {
    /// As it is stored: only what is looked up is read.
    Stored(Box<Weight>),
    /// In memory, and differentiable.
    Held(Tensor),
}

impl Entrance {
    /// `weight` finds parameters by canonical name.
    pub fn load(spec: &ModelSpec, weight: impl Fn(&str) -> Result<Weight>, compute: Compute) -> Result<Self> {
        let others = others(spec).map(|name| weight(&name).map(|w| (name, w))).collect::<Result<Vec<_>>>()?;
        let stored = |name| weight(name).map(|weight| Table::Stored(Box::new(weight)));
        Ok(Self {
            spec: spec.embedding.clone(),
            embeddings: stored(EMBEDDINGS)?,
            positions: has_positions(spec).then(|| stored(POSITIONS)).transpose()?,
            others: Parameters::new(others, compute),
            compute,
        })
    }

    /// The same of tensors in memory, in whatever number format.
    pub fn held(spec: &ModelSpec, tensor: impl Fn(&str) -> Tensor, compute: Compute) -> Self {
        let held = |name| Table::Held(tensor(name));
        Self {
            spec: spec.embedding.clone(),
            embeddings: held(EMBEDDINGS),
            positions: has_positions(spec).then(|| held(POSITIONS)),
            others: Parameters::of_tensors(others(spec).map(|name| (name.clone(), tensor(&name).to_kind(compute.kind)))),
            compute,
        }
    }

    /// Hidden states `[batch, tokens, hidden]` of sequences of one length.
    pub fn forward(&self, sequences: &[&[u32]]) -> Tensor {
        // All of them are named, so that one that is added cannot be forgotten here.
        let Embedding { width, scale, positions, norm } = &self.spec;
        let (batch, tokens) = (sequences.len() as i64, sequences.first().map_or(0, |s| s.len()));
        let ids: Vec<usize> = sequences.iter().flat_map(|s| s.iter().map(|&id| id as usize)).collect();
        let mut x = self.embeddings.rows(&ids, self.compute).view([batch, tokens as i64, -1]);
        if let Some(scale) = *scale {
            x *= f64::from(scale);
        }
        if width.is_some() {
            x = linear(&self.others, EMBEDDING_PROJECTION, &Input::new(&x));
        }
        let hidden = *x.size().last().expect("[batch, tokens, hidden]");
        let places = 0..tokens;
        let positions = match (&self.positions, *positions) {
            (Some(table), _) => Some(table.rows(&places.collect::<Vec<_>>(), self.compute)),
            (None, Positions::Sinusoidal { first }) => {
                let waves: Vec<f32> = places.flat_map(|place| Positions::sinusoid(first + place, hidden as usize)).collect();
                Some(to_compute(&waves, self.compute).view([tokens as i64, hidden]))
            }
            (None, _) => None,
        };
        if let Some(positions) = positions {
            x += positions;
        }
        norm_opt(norm, &self.others, EMBEDDING_NORM, &x)
    }

    /// Where it computes.
    pub fn device(&self) -> tch::Device {
        self.compute.device
    }
}

impl Table {
    /// `[ids, width]`
    fn rows(&self, ids: &[usize], compute: Compute) -> Tensor {
        match self {
            Table::Stored(matrix) => to_compute(&rows(matrix, ids), compute).view([ids.len() as i64, -1]),
            Table::Held(matrix) => {
                let ids: Vec<i64> = ids.iter().map(|&id| id as i64).collect();
                Tensor::embedding(matrix, &Tensor::from_slice(&ids).to_device(compute.device), -1, false, false).to_kind(compute.kind)
            }
        }
    }
}

fn has_positions(spec: &ModelSpec) -> bool {
    spec.embedding.positions == Positions::Learned
}

/// Names of what is before the blocks and not looked up.
fn others(spec: &ModelSpec) -> impl Iterator<Item = String> {
    let looked_up = [EMBEDDINGS, POSITIONS];
    spec.parameters_of(Part::Start).map(|p| p.name).filter(move |name| !looked_up.contains(&name.as_str()))
}

fn to_compute(numbers: &[f32], compute: Compute) -> Tensor {
    Tensor::from_slice(numbers).to_kind(compute.kind).to_device(compute.device)
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
        let weights = Self::names(spec).map(|name| weight(&name).map(|w| (name, w))).collect::<Result<Vec<_>>>()?;
        Ok(Self { parameters: Parameters::new(weights, compute) })
    }

    /// The same of tensors in memory, in whatever number format.
    pub fn held(spec: &ModelSpec, tensor: impl Fn(&str) -> Tensor, compute: Compute) -> Self {
        Self { parameters: Parameters::of_tensors(Self::names(spec).map(|name| (name.clone(), tensor(&name).to_kind(compute.kind)))) }
    }

    fn names(spec: &ModelSpec) -> impl Iterator<Item = String> {
        spec.parameters_of(Part::End).map(|p| p.name).chain(spec.tied.then(|| EMBEDDINGS.to_owned()))
    }

    /// Logits `[…, vocab]` of hidden states behind the last block `[…, hidden]`.
    pub fn forward(&self, spec: &ModelSpec, x: &Tensor) -> Tensor {
        self.logits(spec, &self.read(spec, x))
    }

    /// What the head reads, `[…, width]`, of hidden states behind the last block `[…, hidden]`.
    pub fn read(&self, spec: &ModelSpec, x: &Tensor) -> Tensor {
        let x = norm_opt(&spec.final_norm, &self.parameters, FINAL_NORM, x);
        if spec.embedding.width.is_some() { linear(&self.parameters, HEAD_PROJECTION, &Input::new(&x)) } else { x }
    }

    /// Logits `[…, vocab]` of what the head reads.
    pub fn logits(&self, spec: &ModelSpec, read: &Tensor) -> Tensor {
        // All of them are named, so that one that is added cannot be forgotten here.
        let Head { bias: _, softcap } = spec.head;
        let (weight, bias) = self.head(spec);
        let logits = read.linear(&weight, bias.as_deref());
        match softcap.map(f64::from) {
            Some(cap) => (logits / cap).tanh() * cap,
            None => logits,
        }
    }

    /// The head's matrix `[vocab, width]` and its bias.
    pub(crate) fn head(&self, spec: &ModelSpec) -> (Ref<'_, Tensor>, Option<Ref<'_, Tensor>>) {
        (self.parameters.get(spec.head_name()), self.parameters.find(HEAD_BIAS))
    }
}
