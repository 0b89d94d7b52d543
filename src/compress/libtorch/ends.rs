//! From token ids to hidden states, and from there to logits.

use super::LibTorch;
use crate::compress::tensors::{Compute, Parameters};
use crate::error::Result;
use crate::forward::{Declare, Declared, EmbeddingLayers, HeadLayers};
use crate::model::parameters::{EMBEDDINGS, POSITIONS};
use crate::model::{ModelSpec, Part};
use crate::quant::Weight;
use crate::spec::{LayerName, Positions};
use rayon::prelude::*;
use std::cell::Ref;
use std::ops::ControlFlow;
use tch::Tensor;

/// The layers before the blocks.
pub struct EmbeddingLayer {
    layers: EmbeddingLayers<Declared>,
    tables: Tables,
    others: Parameters,
    compute: Compute,
}

/// Matrices whose rows are looked up.
struct Tables {
    tokens: Table,
    positions: Option<Table>,
}

/// A matrix whose rows are looked up.
enum Table {
    /// As it is stored: only rows that are looked up are read.
    Stored(Box<Weight>),
    /// In memory, and differentiable.
    Held(Tensor),
}

/// Sequences of one length, to be embedded.
pub(super) struct Batch<'a> {
    sequences: &'a [&'a [u32]],
    /// Tokens of each.
    pub length: usize,
    tables: &'a Tables,
    pub compute: Compute,
}

impl EmbeddingLayer {
    /// `weight` finds parameters by canonical name.
    pub fn load(spec: &ModelSpec, weight: impl Fn(&str) -> Result<Weight>, compute: Compute) -> Result<Self> {
        let others = others(spec).map(|name| weight(&name).map(|w| (name, w))).collect::<Result<Vec<_>>>()?;
        let stored = |name| weight(name).map(|weight| Table::Stored(Box::new(weight)));
        let tables = Tables { tokens: stored(EMBEDDINGS)?, positions: has_positions(spec).then(|| stored(POSITIONS)).transpose()? };
        Ok(Self::new(spec, tables, Parameters::new(others, compute), compute))
    }

    /// Of tensors in memory, in whatever number format.
    pub fn held(spec: &ModelSpec, tensor: impl Fn(&str) -> Tensor, compute: Compute) -> Self {
        let held = |name| Table::Held(tensor(name));
        let tables = Tables { tokens: held(EMBEDDINGS), positions: has_positions(spec).then(|| held(POSITIONS)) };
        let others = others(spec).map(|name| (name.clone(), tensor(&name).to_kind(compute.kind)));
        Self::new(spec, tables, Parameters::of_tensors(others), compute)
    }

    fn new(spec: &ModelSpec, tables: Tables, others: Parameters, compute: Compute) -> Self {
        let Ok(layers) = EmbeddingLayers::new(spec, &mut Declare);
        Self { layers, tables, others, compute }
    }

    /// Hidden states `[batch, tokens, hidden]` of sequences of one length.
    pub fn forward(&self, sequences: &[&[u32]]) -> Tensor {
        let length = sequences.first().map_or(0, |s| s.len());
        let batch = Batch { sequences, length, tables: &self.tables, compute: self.compute };
        let mut backend = LibTorch { weights: &self.others, batch: Some(batch), observer: &mut ignore };
        self.layers.forward(&mut backend).remove(0)
    }

    /// Where it computes.
    pub fn device(&self) -> tch::Device {
        self.compute.device
    }
}

/// An observer that looks at nothing.
fn ignore(_: LayerName, _: &[Tensor]) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

impl Batch<'_> {
    /// Rows of the embedding, `[batch, tokens, width]`.
    pub fn tokens(&self) -> Tensor {
        let ids: Vec<usize> = self.sequences.iter().flat_map(|s| s.iter().map(|&id| id as usize)).collect();
        self.tables.tokens.rows(&ids, self.compute).view([self.sequences.len() as i64, self.length as i64, -1])
    }

    /// Rows of the table of positions, `[tokens, hidden]`.
    pub fn positions(&self) -> Tensor {
        let positions = self.tables.positions.as_ref().expect("the spec has a table of positions");
        positions.rows(&(0..self.length).collect::<Vec<_>>(), self.compute)
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

/// Names of parameters before the blocks that are not looked up by row.
fn others(spec: &ModelSpec) -> impl Iterator<Item = String> {
    let looked_up = [EMBEDDINGS, POSITIONS];
    spec.parameters_of(Part::Start).map(|p| p.name).filter(move |name| !looked_up.contains(&name.as_str()))
}

pub(super) fn to_compute(numbers: &[f32], compute: Compute) -> Tensor {
    Tensor::from_slice(numbers).to_kind(compute.kind).to_device(compute.device)
}

/// Some rows of a matrix.
fn rows(matrix: &Weight, which: &[usize]) -> Vec<f32> {
    let width = matrix.shape()[1];
    let mut all = vec![0f32; which.len() * width];
    all.par_chunks_exact_mut(width).zip(which).for_each(|(out, &row)| matrix.row(row, out));
    all
}

/// The layers behind the blocks.
pub struct LmHead {
    layers: HeadLayers<Declared>,
    parameters: Parameters,
}

impl LmHead {
    /// `weight` finds parameters by canonical name.
    pub fn load(spec: &ModelSpec, weight: impl Fn(&str) -> Result<Weight>, compute: Compute) -> Result<Self> {
        let weights = Self::names(spec).map(|name| weight(&name).map(|w| (name, w))).collect::<Result<Vec<_>>>()?;
        Ok(Self::new(spec, Parameters::new(weights, compute)))
    }

    /// Of tensors in memory, in whatever number format.
    pub fn held(spec: &ModelSpec, tensor: impl Fn(&str) -> Tensor, compute: Compute) -> Self {
        let tensors = Self::names(spec).map(|name| (name.clone(), tensor(&name).to_kind(compute.kind)));
        Self::new(spec, Parameters::of_tensors(tensors))
    }

    fn new(spec: &ModelSpec, parameters: Parameters) -> Self {
        let Ok(embedding) = EmbeddingLayers::new(spec, &mut Declare);
        let Ok(layers) = HeadLayers::new(spec, embedding.tokens(), &mut Declare);
        Self { layers, parameters }
    }

    fn names(spec: &ModelSpec) -> impl Iterator<Item = String> {
        spec.parameters_of(Part::End).map(|p| p.name).chain(spec.tied.then(|| EMBEDDINGS.to_owned()))
    }

    fn run(&self, x: &Tensor, f: impl FnOnce(&HeadLayers<Declared>, &mut LibTorch, Vec<Tensor>) -> Vec<Tensor>) -> Tensor {
        let mut backend = LibTorch { weights: &self.parameters, batch: None, observer: &mut ignore };
        f(&self.layers, &mut backend, vec![x.shallow_clone()]).remove(0)
    }

    /// Logits `[…, vocab]` of hidden states behind the last block `[…, hidden]`.
    pub fn forward(&self, x: &Tensor) -> Tensor {
        self.logits(&self.input(x))
    }

    /// Input of the head's matrix, `[…, width]`, of hidden states behind the last block
    /// `[…, hidden]`.
    pub fn input(&self, x: &Tensor) -> Tensor {
        self.run(x, |layers, backend, x| {
            let x = layers.norm(backend, x);
            layers.project(backend, x)
        })
    }

    /// Logits `[…, vocab]` of the input of the head's matrix `[…, width]`.
    pub fn logits(&self, input: &Tensor) -> Tensor {
        self.run(input, |layers, backend, x| layers.logits(backend, &x))
    }

    /// The head's matrix `[vocab, width]` and its bias `[vocab]`.
    pub(crate) fn matrix(&self) -> (Ref<'_, Tensor>, Option<Ref<'_, Tensor>>) {
        let matrix = self.layers.matrix();
        (self.parameters.get(&matrix.name.to_string()), matrix.bias.as_ref().and_then(|bias| self.parameters.find(bias)))
    }
}
