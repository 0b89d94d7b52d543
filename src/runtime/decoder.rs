//! The device's interpreter of a [`ModelSpec`].

use super::attention::{attend, rotate};
use super::cache::KvCache;
use super::linear::{Device, LinearLayer, apply_group};
use crate::error::Result;
use crate::kernels::{self, Kernels, Pool};
use crate::model::parameters::{EMBEDDINGS, FINAL_NORM};
use crate::model::spec::{Activation, Block, Mixer, Norm, NormKind, Rotary};
use crate::model::{ModelSpec, parameters};
use crate::quant::WeightStore;
use std::sync::Arc;

/// Number format of activations in products with packed weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activations {
    /// 8 bits, a scale for each 32: as a device runs.
    Int8,
    /// As the fake-quantised model computes.
    F32,
}

/// Tokens of one sequence that go through the blocks together: enough to reuse
/// each weight, few enough to stay in the cache.
const CHUNK: usize = 128;

/// Some tokens to be appended to a sequence.
pub struct Step<'a> {
    /// The sequence so far.
    pub cache: &'a mut KvCache,
    /// What comes next.
    pub ids: &'a [u32],
}

/// A model ready to run. Sequences live in [`KvCache`]s, so one decoder serves
/// many at once.
pub struct Decoder {
    spec: ModelSpec,
    device: Device,
    embeddings: Arc<LinearLayer>,
    head: Arc<LinearLayer>,
    final_norm: NormLayer,
    blocks: Vec<BlockLayers>,
    /// Distinct rotary tables: angle per position of each pair.
    frequencies: Vec<Vec<f64>>,
}

struct BlockLayers {
    attn_norm: NormLayer,
    q: LinearLayer,
    k: LinearLayer,
    v: LinearLayer,
    o: LinearLayer,
    ffn_norm: NormLayer,
    gate: LinearLayer,
    up: LinearLayer,
    down: LinearLayer,
    /// Which of [`Decoder::frequencies`].
    rotary: usize,
}

struct NormLayer {
    weight: Vec<f32>,
    epsilon: f32,
    kind: NormKind,
}

impl Decoder {
    /// Prepares a model; packed and dense matrices stay where they are mapped.
    /// `threads` 0 = one a core.
    pub fn new(store: &dyn WeightStore, activations: Activations, threads: usize) -> Result<Self> {
        let spec = store.spec().clone();
        let threads = if threads == 0 { std::thread::available_parallelism().map_or(1, |n| n.get()) } else { threads };
        let device = Device { kernels: kernels::select()?, pool: Pool::new(threads), activations };
        let embeddings = Arc::new(LinearLayer::load(store, EMBEDDINGS, false)?);
        let head = if spec.tied { embeddings.clone() } else { Arc::new(LinearLayer::load(store, parameters::HEAD, false)?) };
        let mut tables: Vec<(Rotary, usize)> = Vec::new();
        let blocks = spec.blocks.iter().enumerate().map(|(i, block)| {
            let Mixer::Attention(a) = &block.mixer;
            let key = (a.rotary.clone(), a.head_dim);
            let rotary = tables.iter().position(|t| *t == key).unwrap_or_else(|| {
                tables.push(key);
                tables.len() - 1
            });
            BlockLayers::load(store, i, block, rotary)
        });
        let blocks = blocks.collect::<Result<Vec<_>>>()?;
        let frequencies = tables.into_iter().map(|(rotary, head_dim)| rotary.frequencies(head_dim)).collect();
        let final_norm = NormLayer::load(store, FINAL_NORM, &spec.final_norm)?;
        Ok(Self { device, embeddings, head, final_norm, blocks, frequencies, spec })
    }

    /// What the model is.
    pub fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    /// Instruction set in use.
    pub fn isa(&self) -> &'static str {
        self.device.kernels.isa
    }

    /// Threads in use.
    pub fn threads(&self) -> usize {
        self.device.pool.threads()
    }

    /// Appends tokens to sequences. Returns the normed hidden states of all of
    /// them, `[tokens, hidden]`, in the order of `steps`.
    pub fn forward(&self, steps: &mut [Step]) -> Result<Vec<f32>> {
        let hidden_size = self.spec.hidden_size;
        let ids: Vec<u32> = steps.iter().flat_map(|s| s.ids.iter().copied()).collect();
        self.spec.check_ids(&ids)?;
        let mut x = vec![0.0; ids.len() * hidden_size];
        for (&id, row) in ids.iter().zip(x.chunks_exact_mut(hidden_size)) {
            self.embeddings.row(id as usize, row);
        }
        let positions: Vec<usize> = steps.iter().flat_map(|s| s.cache.len..s.cache.len + s.ids.len()).collect();
        let angles: Vec<_> = self.frequencies.iter().map(|f| angles(f, &positions)).collect();
        for (i, (layers, spec)) in self.blocks.iter().zip(&self.spec.blocks).enumerate() {
            let mixed = self.mix(i, spec, layers, &x, &angles[layers.rotary], steps);
            add(&mut x, &mixed);
            let fed = self.feed_forward(spec, layers, &x);
            add(&mut x, &fed);
        }
        for step in steps.iter_mut() {
            step.cache.len += step.ids.len();
        }
        Ok(self.final_norm.apply(&x, self.device.kernels))
    }

    /// Appends many tokens to one sequence, in chunks, and returns all their normed
    /// hidden states, `[tokens, hidden]`. Nothing is appended where an id is not in
    /// the vocabulary.
    pub fn read(&self, cache: &mut KvCache, ids: &[u32]) -> Result<Vec<f32>> {
        self.spec.check_ids(ids)?;
        let mut hidden = Vec::with_capacity(ids.len() * self.spec.hidden_size);
        for ids in ids.chunks(CHUNK) {
            hidden.extend(self.forward(&mut [Step { cache, ids }])?);
        }
        Ok(hidden)
    }

    /// Logits `[tokens, vocab]` of normed hidden states `[tokens, hidden]`.
    pub fn logits(&self, hidden: &[f32]) -> Vec<f32> {
        self.head.apply(hidden, &self.device)
    }

    fn mix(&self, block: usize, spec: &Block, layers: &BlockLayers, x: &[f32], angles: &[(f32, f32)], steps: &mut [Step]) -> Vec<f32> {
        let Mixer::Attention(attention) = &spec.mixer;
        let head_dim = attention.head_dim;
        let (q_width, kv_width) = (attention.n_heads * head_dim, attention.n_kv_heads * head_dim);
        let normed = layers.attn_norm.apply(x, self.device.kernels);
        let [mut q, mut k, v] = apply_group([&layers.q, &layers.k, &layers.v], &normed, &self.device);
        for (token, angles) in angles.chunks_exact(head_dim / 2).enumerate() {
            rotate(&mut q[token * q_width..(token + 1) * q_width], head_dim, angles);
            rotate(&mut k[token * kv_width..(token + 1) * kv_width], head_dim, angles);
        }
        let mut contexts = Vec::with_capacity(q.len());
        let mut first = 0;
        for step in steps {
            let tokens = first..first + step.ids.len();
            let position = step.cache.len;
            let cache = &mut step.cache.blocks[block];
            cache.keys.extend_from_slice(&k[tokens.start * kv_width..tokens.end * kv_width]);
            cache.values.extend_from_slice(&v[tokens.start * kv_width..tokens.end * kv_width]);
            let queries = &q[tokens.start * q_width..tokens.end * q_width];
            contexts.extend(attend(attention, queries, position, cache, &self.device));
            first = tokens.end;
        }
        layers.o.apply(&contexts, &self.device)
    }

    fn feed_forward(&self, spec: &Block, layers: &BlockLayers, x: &[f32]) -> Vec<f32> {
        let normed = layers.ffn_norm.apply(x, self.device.kernels);
        let [mut gate, up] = apply_group([&layers.gate, &layers.up], &normed, &self.device);
        match spec.ffn.activation {
            Activation::Silu => gate.iter_mut().zip(&up).for_each(|(g, u)| *g = *g / (1.0 + (-*g).exp()) * u),
        }
        layers.down.apply(&gate, &self.device)
    }
}

impl BlockLayers {
    fn load(store: &dyn WeightStore, block: usize, spec: &Block, rotary: usize) -> Result<Self> {
        let name = |role: &str| ModelSpec::block_name(block, role);
        let Mixer::Attention(a) = &spec.mixer;
        let linear = |role: &str, bias: bool| LinearLayer::load(store, &name(role), bias);
        Ok(Self {
            attn_norm: NormLayer::load(store, &name("attn_norm"), &spec.mixer_norm)?,
            q: linear("attn.q", a.qkv_bias)?,
            k: linear("attn.k", a.qkv_bias)?,
            v: linear("attn.v", a.qkv_bias)?,
            o: linear("attn.o", a.output_bias)?,
            ffn_norm: NormLayer::load(store, &name("ffn_norm"), &spec.ffn_norm)?,
            gate: linear("ffn.gate", spec.ffn.bias)?,
            up: linear("ffn.up", spec.ffn.bias)?,
            down: linear("ffn.down", spec.ffn.bias)?,
            rotary,
        })
    }
}

impl NormLayer {
    fn load(store: &dyn WeightStore, name: &str, spec: &Norm) -> Result<Self> {
        let weight = store.weight(name)?.to_f32().into_owned();
        Ok(Self { weight, epsilon: spec.epsilon as f32, kind: spec.kind })
    }

    fn apply(&self, x: &[f32], kernels: &Kernels) -> Vec<f32> {
        let width = self.weight.len();
        let mut normed = Vec::with_capacity(x.len());
        for row in x.chunks_exact(width) {
            let scale = match self.kind {
                NormKind::Rms => ((kernels.dot)(row, row) / width as f32 + self.epsilon).sqrt().recip(),
            };
            normed.extend(row.iter().zip(&self.weight).map(|(v, w)| v * scale * w));
        }
        normed
    }
}

/// (cos, sin) of each pair at each position, `[positions, pairs]`.
fn angles(frequencies: &[f64], positions: &[usize]) -> Vec<(f32, f32)> {
    let angle = |p: usize, f: &f64| {
        let (sin, cos) = (p as f64 * f).sin_cos();
        (cos as f32, sin as f32)
    };
    positions.iter().flat_map(|&p| frequencies.iter().map(move |f| angle(p, f))).collect()
}

fn add(x: &mut [f32], y: &[f32]) {
    x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
}
