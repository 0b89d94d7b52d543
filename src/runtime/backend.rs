//! The forward on the device: activations `[tokens, width]` of slices of many sequences,
//! computed by the kernels of this CPU.

use super::attention::{Angles, attend, rotate};
use super::cache::{SequenceSlice, SubLayerState};
use super::elementwise;
use super::linear::{Device, LinearLayer, apply_group};
use super::norm::NormLayer;
use crate::error::{Error, Result};
use crate::forward::names::wkv;
use crate::forward::{self, Backend, Binary, Layers, Provider, Unary};
use crate::model::{ModelSpec, Part};
use crate::quant::WeightStore;
use crate::spec::{Attention, LayerName, Positions, QueryGrowth, Rotary};
use std::convert::Infallible;
use std::fmt::Display;
use std::sync::Arc;

/// Layers with their weights.
pub(super) struct DeviceLayers;

impl Layers for DeviceLayers {
    type Linear = Arc<LinearLayer>;
    type Norm = NormLayer;
    type Vector = Vec<f32>;
    type Table = Arc<LinearLayer>;
    type Rotary = RotaryTable;
}

/// A rotary position embedding, whose angles are one of the decoder's tables.
pub(super) struct RotaryTable {
    table: usize,
    head_dim: usize,
    pairs: usize,
    neighbours: bool,
}

/// Loads the layers of one part of a model; packed and dense matrices stay where they are
/// mapped.
pub(super) struct Loader<'a> {
    pub store: &'a dyn WeightStore,
    pub part: Part,
    /// Distinct rotary embeddings, with the width of their heads.
    pub rotary: &'a mut Vec<(Rotary, usize)>,
}

impl Loader<'_> {
    fn canonical(&self, name: impl Display) -> String {
        match self.part {
            Part::Block(block) => ModelSpec::block_name(self.store.spec(), block, name),
            Part::Start | Part::End => name.to_string(),
        }
    }

    fn numbers(&self, name: impl Display) -> Result<Vec<f32>> {
        Ok(self.store.weight(&self.canonical(name))?.to_f32().into_owned())
    }
}

impl Provider for Loader<'_> {
    type Layers = DeviceLayers;
    type Error = Error;

    fn linear(&mut self, linear: forward::Linear) -> Result<Arc<LinearLayer>> {
        let bias = linear.bias.map(|bias| self.canonical(bias));
        LinearLayer::load(self.store, &self.canonical(linear.name), bias.as_deref()).map(Arc::new)
    }

    fn norm(&mut self, layer: forward::NormLayer) -> Result<NormLayer> {
        NormLayer::load(self.store, &self.canonical(layer.name), &layer.norm, layer.span)
    }

    fn vector(&mut self, vector: forward::Vector) -> Result<Vec<f32>> {
        let numbers = self.numbers(vector.name)?;
        // The decay as the logarithm of what is left of a weight after a step.
        Ok(if vector.name.is_a(wkv::DECAY) { numbers.into_iter().map(|w| -w.exp()).collect() } else { numbers })
    }

    fn table(&mut self, table: forward::Vector) -> Result<Arc<LinearLayer>> {
        LinearLayer::load(self.store, &self.canonical(table.name), None).map(Arc::new)
    }

    fn tied(&mut self, linear: forward::Linear, table: &Arc<LinearLayer>) -> Result<Arc<LinearLayer>> {
        match linear.bias {
            Some(bias) => Ok(Arc::new(table.with_bias(Some(self.numbers(bias)?)))),
            None => Ok(table.clone()),
        }
    }

    fn rotary(&mut self, rotary: &Rotary, head_dim: usize) -> RotaryTable {
        let entry = (rotary.clone(), head_dim);
        let known = self.rotary.iter().position(|other| *other == entry);
        let table = known.unwrap_or_else(|| {
            self.rotary.push(entry);
            self.rotary.len() - 1
        });
        RotaryTable { table, head_dim, pairs: rotary.dims(head_dim) / 2, neighbours: rotary.neighbours }
    }
}

/// Of a forward that does not end early.
type Never<T> = std::result::Result<T, Infallible>;

/// A batch on its way through the model: slices of sequences, one behind the other.
pub(super) struct DeviceBackend<'a, 'b> {
    pub device: &'a Device,
    /// Token ids of all slices.
    pub ids: &'a [u32],
    /// Position of each token in its sequence.
    pub positions: &'a [usize],
    /// Angles of all tokens, by the decoder's distinct rotary embeddings.
    pub angles: &'a [Angles],
    pub slices: &'a mut [SequenceSlice<'b>],
    /// The block that is computed.
    pub block: usize,
}

impl DeviceBackend<'_, '_> {
    /// Calls `f` with each slice's state of a sub-layer and its first token and number of tokens.
    fn each_slice(slices: &mut [SequenceSlice], block: usize, state: usize, mut f: impl FnMut(&mut SubLayerState, usize, usize, usize)) {
        let mut first = 0;
        for SequenceSlice { position, tokens, blocks } in slices {
            f(&mut blocks[block][state], *position, first, *tokens);
            first += *tokens;
        }
    }
}

impl Backend for DeviceBackend<'_, '_> {
    type Layers = DeviceLayers;
    type X = Vec<f32>;
    type Stop = Infallible;

    fn tokens(&mut self, table: &Arc<LinearLayer>) -> Vec<f32> {
        let mut x = vec![0.0; self.ids.len() * table.inputs()];
        self.ids.iter().zip(x.chunks_exact_mut(table.inputs())).for_each(|(&id, row)| table.row(id as usize, row));
        x
    }

    fn positions(&mut self, table: &Arc<LinearLayer>) -> Vec<f32> {
        let mut x = vec![0.0; self.positions.len() * table.inputs()];
        self.positions.iter().zip(x.chunks_exact_mut(table.inputs())).for_each(|(&position, row)| table.row(position, row));
        x
    }

    fn sinusoids(&mut self, first: usize, width: usize) -> Vec<f32> {
        self.positions.iter().flat_map(|position| Positions::sinusoid(first + position, width)).collect()
    }

    fn keep(&mut self, x: &Vec<f32>) -> Vec<f32> {
        x.clone()
    }

    fn each(&mut self, x: Vec<f32>, mut f: impl FnMut(&mut Self, Vec<f32>) -> Never<Vec<f32>>) -> Never<Vec<f32>> {
        f(self, x)
    }

    fn observe(&mut self, _: LayerName, _: &Vec<f32>) -> Never<()> {
        Ok(())
    }

    fn norm(&mut self, norm: &NormLayer, mut x: Vec<f32>) -> Vec<f32> {
        norm.apply(&mut x, self.device.kernels);
        x
    }

    fn linear<const N: usize>(&mut self, layers: [&Arc<LinearLayer>; N], x: &Vec<f32>) -> [Vec<f32>; N] {
        apply_group(layers.map(|layer| &**layer), x, self.device)
    }

    fn unary(&mut self, operation: Unary, mut x: Vec<f32>) -> Vec<f32> {
        elementwise::unary(operation, &mut x);
        x
    }

    fn binary(&mut self, operation: Binary, mut x: Vec<f32>, y: Vec<f32>) -> Vec<f32> {
        elementwise::binary(operation, &mut x, &y);
        x
    }

    fn split_heads(&mut self, x: Vec<f32>, _: usize) -> Vec<f32> {
        x
    }

    fn rotate(&mut self, rotary: &RotaryTable, mut heads: Vec<f32>) -> Vec<f32> {
        let width = heads.len() / self.positions.len().max(1);
        let angles = self.angles[rotary.table].chunks_exact(rotary.pairs);
        for (token, angles) in heads.chunks_exact_mut(width.max(1)).zip(angles) {
            token.chunks_exact_mut(rotary.head_dim).for_each(|head| rotate(head, rotary.neighbours, angles));
        }
        heads
    }

    fn grow(&mut self, growth: &QueryGrowth, mut heads: Vec<f32>) -> Vec<f32> {
        let width = heads.len() / self.positions.len().max(1);
        for (token, &position) in heads.chunks_exact_mut(width.max(1)).zip(self.positions) {
            let factor = growth.at(position);
            token.iter_mut().for_each(|q| *q *= factor);
        }
        heads
    }

    fn attend(&mut self, attention: &Attention, state: usize, q: Vec<f32>, k: Vec<f32>, v: Vec<f32>) -> Vec<f32> {
        let (q_width, kv_width) = (attention.q_width(), attention.kv_width());
        let mut contexts = Vec::with_capacity(q.len());
        Self::each_slice(self.slices, self.block, state, |state, position, first, tokens| {
            let seen = state.keys_values();
            seen.keys.extend_from_slice(&k[first * kv_width..][..tokens * kv_width]);
            seen.values.extend_from_slice(&v[first * kv_width..][..tokens * kv_width]);
            contexts.extend(attend(attention, &q[first * q_width..][..tokens * q_width], position, seen, self.device));
        });
        contexts
    }

    fn token_before(&mut self, state: usize, x: &Vec<f32>) -> Vec<f32> {
        let hidden = x.len() / self.positions.len().max(1);
        let mut before = Vec::with_capacity(x.len());
        Self::each_slice(self.slices, self.block, state, |state, _, first, tokens| {
            let own = &x[first * hidden..][..tokens * hidden];
            let Some(others) = own.len().checked_sub(hidden) else { return };
            let previous = state.previous();
            before.extend_from_slice(previous);
            before.extend_from_slice(&own[..others]);
            previous.copy_from_slice(&own[others..]);
        });
        before
    }

    fn lerp(&mut self, share: &Vec<f32>, x: &Vec<f32>, before: &Vec<f32>) -> Vec<f32> {
        let shares = share.iter().cycle();
        x.iter().zip(before).zip(shares).map(|((x, before), share)| x * share + before * (1.0 - share)).collect()
    }

    fn wkv(&mut self, state: usize, decay: &Vec<f32>, first: &Vec<f32>, keys: Vec<f32>, values: Vec<f32>) -> Vec<f32> {
        let width = decay.len();
        let mut means = Vec::with_capacity(keys.len());
        let mut all = keys.chunks_exact(width).zip(values.chunks_exact(width));
        Self::each_slice(self.slices, self.block, state, |state, _, _, tokens| {
            let state = state.wkv();
            for (key, value) in all.by_ref().take(tokens) {
                means.extend((0..width).map(|i| state.step(i, key[i], value[i], decay[i], first[i])));
            }
        });
        means
    }
}
