//! A model on the device: batches of sequences through the forward.

use super::attention::Angles;
use super::backend::{DeviceBackend, DeviceLayers, Loader};
use super::cache::{KvCache, SequenceSlice};
use super::linear::Device;
use crate::error::Result;
use crate::forward::{BlockLayers, EmbeddingLayers, HeadLayers};
use crate::kernels::{self, Pool};
use crate::model::{ModelSpec, Part};
use crate::quant::WeightStore;
use crate::spec::Rotary;
use crate::threads;
use serde::{Deserialize, Serialize};

/// Number format of activations in products with packed weights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activations {
    /// 8 bits, a scale for each 32: as a device runs.
    #[default]
    Int8,
    /// 8 bits, a scale a token: as LLM.int8() and SmoothQuant describe it.
    Int8Token,
    /// As the fake-quantised model computes.
    F32,
}

/// Tokens that are read together: enough to reuse
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
    embedding: EmbeddingLayers<DeviceLayers>,
    blocks: Vec<BlockLayers<DeviceLayers>>,
    head: HeadLayers<DeviceLayers>,
    /// Distinct rotary embeddings, with the width of their heads.
    rotary: Vec<(Rotary, usize)>,
}

impl Decoder {
    /// Prepares a model; packed and dense matrices stay where they are mapped.
    /// `threads` 0 = one a core.
    pub fn new(store: &dyn WeightStore, activations: Activations, threads: usize) -> Result<Self> {
        let spec = store.spec().clone();
        let device = Device { kernels: kernels::select()?, pool: Pool::new(threads::count(threads))?, activations };
        let mut rotary = Vec::new();
        let mut loader = Loader { store, part: Part::Start, rotary: &mut rotary };
        let embedding = EmbeddingLayers::new(&spec, &mut loader)?;
        let mut block = |(i, block)| {
            loader.part = Part::Block(i);
            BlockLayers::new(block, spec.hidden_size, &mut loader)
        };
        let blocks = spec.blocks.iter().enumerate().map(&mut block).collect::<Result<_>>()?;
        loader.part = Part::End;
        let head = HeadLayers::new(&spec, embedding.tokens(), &mut loader)?;
        Ok(Self { device, embedding, blocks, head, rotary, spec })
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
        let ids: Vec<u32> = steps.iter().flat_map(|s| s.ids.iter().copied()).collect();
        self.spec.check_ids(&ids)?;
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        for step in steps.iter_mut() {
            self.prepare(step.cache, step.ids.len())?;
        }
        let positions: Vec<usize> = steps.iter().flat_map(|s| s.cache.len..s.cache.len + s.ids.len()).collect();
        self.spec.check_length(positions.iter().map(|p| p + 1).max().unwrap_or(0))?;
        let angles: Vec<Angles> = self.rotary.iter().map(|(rotary, head_dim)| angles(rotary, *head_dim, steps)).collect();
        let mut slices: Vec<SequenceSlice> = steps
            .iter_mut()
            .map(|Step { cache, ids }| SequenceSlice { position: cache.len, tokens: ids.len(), blocks: &mut cache.blocks })
            .collect();
        let mut backend =
            DeviceBackend { device: &self.device, ids: &ids, positions: &positions, angles: &angles, slices: &mut slices, block: 0 };
        let mut x = self.embedding.forward(&mut backend);
        for (i, layers) in self.blocks.iter().enumerate() {
            backend.block = i;
            let Ok(y) = layers.forward(&mut backend, x);
            x = y;
        }
        x = self.head.norm(&mut backend, x);
        for step in steps.iter_mut() {
            step.cache.len += step.ids.len();
            if self.turning_point().is_some() {
                step.cache.ids.extend_from_slice(step.ids);
            }
        }
        Ok(x)
    }

    /// Appends many tokens to one sequence, in chunks, and returns all their normed
    /// hidden states, `[tokens, hidden]`. Nothing is appended where an id is not in
    /// the vocabulary.
    pub fn read(&self, cache: &mut KvCache, ids: &[u32]) -> Result<Vec<f32>> {
        self.read_all(&mut [Step { cache, ids }])
    }

    /// The same for many sequences, in the order of `steps`; those that are short go
    /// through the blocks together.
    pub fn read_all(&self, steps: &mut [Step]) -> Result<Vec<f32>> {
        for Step { ids, .. } in &*steps {
            self.spec.check_ids(ids)?;
        }
        for Step { cache, ids } in &mut *steps {
            self.prepare(cache, ids.len())?;
        }
        let tokens: usize = steps.iter().map(|step| step.ids.len()).sum();
        let mut hidden = Vec::with_capacity(tokens * self.spec.hidden_size);
        let mut left: Vec<_> = steps.iter_mut().filter(|step| !step.ids.is_empty()).collect();
        let mut left = &mut left[..];
        while !left.is_empty() {
            let (mut room, mut batch, mut finished) = (CHUNK, Vec::new(), 0);
            for step in left.iter_mut() {
                let (now, later) = step.ids.split_at(step.ids.len().min(room));
                (room, step.ids) = (room - now.len(), later);
                finished += usize::from(later.is_empty());
                batch.push(Step { cache: step.cache, ids: now });
                if room == 0 {
                    break;
                }
            }
            hidden.extend(self.forward(&mut batch)?);
            left = &mut left[finished..];
        }
        Ok(hidden)
    }

    /// Logits `[tokens, vocab]` of normed hidden states `[tokens, hidden]`.
    pub fn logits(&self, hidden: &[f32]) -> Vec<f32> {
        let mut backend = DeviceBackend { device: &self.device, ids: &[], positions: &[], angles: &[], slices: &mut [], block: 0 };
        let x = self.head.project(&mut backend, hidden.to_vec());
        self.head.logits(&mut backend, &x)
    }

    /// Length beyond which LongRoPE uses its long factors, where the model has any.
    fn turning_point(&self) -> Option<usize> {
        self.rotary.iter().filter_map(|(rotary, _)| rotary.scaling.turning_point()).min()
    }

    /// Prepares a sequence for so many more tokens. One that grows past the turning
    /// point is read again from its beginning, at the angles of long ones.
    fn prepare(&self, cache: &mut KvCache, more: usize) -> Result<()> {
        let horizon = cache.len + more;
        let turns = self.turning_point().is_some_and(|point| cache.len > 0 && cache.horizon <= point && horizon > point);
        let again = if turns { std::mem::take(&mut cache.ids) } else { Vec::new() };
        if turns {
            cache.clear();
        }
        cache.horizon = cache.horizon.max(horizon);
        for ids in again.chunks(CHUNK) {
            self.forward(&mut [Step { cache, ids }])?;
        }
        Ok(())
    }
}

/// The angles of all tokens of all steps.
fn angles(rotary: &Rotary, head_dim: usize, steps: &[Step]) -> Angles {
    let of_step = |step: &Step| rotary.angles(head_dim, step.cache.len..step.cache.len + step.ids.len(), step.cache.horizon);
    steps.iter().flat_map(of_step).map(|(cos, sin)| (cos as f32, sin as f32)).collect()
}
