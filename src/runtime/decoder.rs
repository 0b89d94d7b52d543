//! The device's interpreter of a [`ModelSpec`].

use super::attention::{Angles, AttentionLayers};
use super::cache::{KvCache, Stretch};
use super::edges::{Entrance, Exit};
use super::feed_forward::FeedForwardLayers;
use super::linear::Device;
use super::norm::{NormLayer, norm_in_place, normed};
use super::wkv::WkvLayers;
use crate::error::Result;
use crate::kernels::{self, Pool};
use crate::model::spec::{Block, Mixer, Norm, Residual, Rotary};
use crate::model::{ModelSpec, roles};
use crate::quant::WeightStore;
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
    entrance: Entrance,
    blocks: Vec<BlockLayers>,
    exit: Exit,
    /// Distinct rotary embeddings, with the width of their heads.
    rotary: Vec<(Rotary, usize)>,
}

struct BlockLayers {
    residual: Residual,
    mixer_norm: Option<NormLayer>,
    mixer: MixerLayers,
    mixer_output_norm: Option<NormLayer>,
    mixer_sum_norm: Option<NormLayer>,
    ffn_norm: Option<NormLayer>,
    ffn: FeedForwardLayers,
    ffn_output_norm: Option<NormLayer>,
    ffn_sum_norm: Option<NormLayer>,
}

#[expect(clippy::large_enum_variant, reason = "a model has some dozens of these")]
enum MixerLayers {
    Attention(AttentionLayers),
    Wkv(WkvLayers),
}

impl Decoder {
    /// Prepares a model; packed and dense matrices stay where they are mapped.
    /// `threads` 0 = one a core.
    pub fn new(store: &dyn WeightStore, activations: Activations, threads: usize) -> Result<Self> {
        let spec = store.spec().clone();
        let device = Device { kernels: kernels::select()?, pool: Pool::new(threads::count(threads))?, activations };
        let entrance = Entrance::load(store)?;
        let exit = Exit::load(store, &entrance.embeddings)?;
        let mut rotary = Vec::new();
        let blocks = spec.blocks.iter().enumerate().map(|(i, block)| BlockLayers::load(store, i, block, &mut rotary));
        let blocks = blocks.collect::<Result<_>>()?;
        Ok(Self { device, entrance, blocks, exit, rotary, spec })
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
        for step in steps.iter_mut() {
            self.prepare(step.cache, step.ids.len())?;
        }
        let positions: Vec<usize> = steps.iter().flat_map(|s| s.cache.len..s.cache.len + s.ids.len()).collect();
        let mut x = self.entrance.apply(&self.spec, &ids, &positions, &self.device)?;
        let angles: Vec<Angles> = self.rotary.iter().map(|(rotary, head_dim)| angles(rotary, *head_dim, steps)).collect();
        for (i, layers) in self.blocks.iter().enumerate() {
            let stretch = |step| -> Stretch {
                let Step { cache, ids }: &mut Step = step;
                Stretch { position: cache.len, tokens: ids.len(), state: &mut cache.blocks[i] }
            };
            let mut stretches: Vec<_> = steps.iter_mut().map(stretch).collect();
            self.block(layers, &mut x, &angles, &mut stretches);
        }
        for step in steps.iter_mut() {
            step.cache.len += step.ids.len();
            if self.turning_point().is_some() {
                step.cache.ids.extend_from_slice(step.ids);
            }
        }
        self.exit.norm(&mut x, &self.device);
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
        self.exit.logits(&self.spec, hidden, &self.device)
    }

    /// Sequences longer than this turn by other angles than shorter ones.
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

    /// One block over `x` `[tokens, hidden]`, in place.
    fn block(&self, layers: &BlockLayers, x: &mut [f32], angles: &[Angles], stretches: &mut [Stretch]) {
        let (kernels, hidden) = (self.device.kernels, self.spec.hidden_size);
        let mixer_input = normed(&layers.mixer_norm, x, kernels);
        let mut mixed = match &layers.mixer {
            MixerLayers::Attention(layers) => {
                let angles = layers.rotary.map(|i| &angles[i]);
                layers.mix(&mixer_input, angles, stretches, &self.device)
            }
            MixerLayers::Wkv(layers) => layers.mix(&mixer_input, hidden, stretches, &self.device),
        };
        norm_in_place(&layers.mixer_output_norm, &mut mixed, kernels);
        let feed = |input: &[f32], stretches: &mut [Stretch]| {
            let mut fed = layers.ffn.apply(input, hidden, stretches, &self.device);
            norm_in_place(&layers.ffn_output_norm, &mut fed, kernels);
            fed
        };
        let beside = match layers.residual {
            Residual::Sequential => None,
            Residual::Parallel => Some(feed(&normed(&layers.ffn_norm, x, kernels), stretches)),
            Residual::ParallelOneNorm => Some(feed(&mixer_input, stretches)),
        };
        drop(mixer_input);
        add(x, &mixed);
        norm_in_place(&layers.mixer_sum_norm, x, kernels);
        let fed = beside.unwrap_or_else(|| feed(&normed(&layers.ffn_norm, x, kernels), stretches));
        add(x, &fed);
        norm_in_place(&layers.ffn_sum_norm, x, kernels);
    }
}

impl BlockLayers {
    fn load(store: &dyn WeightStore, block: usize, spec: &Block, tables: &mut Vec<(Rotary, usize)>) -> Result<Self> {
        let norm = |role: &str, norm: &Option<Norm>| {
            NormLayer::load_opt(store, &store.spec().block_name(block, role), norm, store.spec().hidden_size)
        };
        // All of them are named, so that one that is added cannot be forgotten here.
        let Block {
            mixer_norm,
            mixer,
            mixer_output_norm,
            mixer_sum_norm,
            residual,
            ffn_norm,
            ffn,
            ffn_output_norm,
            ffn_sum_norm,
            weights_of: _,
        } = spec;
        let mixer_layers = match mixer {
            Mixer::Attention(a) => {
                let rotary = a.rotary.clone().map(|rotary| place(tables, (rotary, a.head_dim)));
                MixerLayers::Attention(AttentionLayers::load(store, block, a, rotary)?)
            }
            Mixer::Wkv(_) => MixerLayers::Wkv(WkvLayers::load(store, block)?),
        };
        Ok(Self {
            residual: *residual,
            mixer_norm: norm(roles::MIXER_NORM, mixer_norm)?,
            mixer: mixer_layers,
            mixer_output_norm: norm(roles::MIXER_OUTPUT_NORM, mixer_output_norm)?,
            mixer_sum_norm: norm(roles::MIXER_SUM_NORM, mixer_sum_norm)?,
            ffn_norm: norm(roles::FFN_NORM, ffn_norm)?,
            ffn: FeedForwardLayers::load(store, block, ffn)?,
            ffn_output_norm: norm(roles::FFN_OUTPUT_NORM, ffn_output_norm)?,
            ffn_sum_norm: norm(roles::FFN_SUM_NORM, ffn_sum_norm)?,
        })
    }
}

/// Where an entry lies in a table of distinct ones, which it joins where it is new.
fn place<T: PartialEq>(table: &mut Vec<T>, entry: T) -> usize {
    table.iter().position(|other| *other == entry).unwrap_or_else(|| {
        table.push(entry);
        table.len() - 1
    })
}

/// The angles of all tokens of all steps.
fn angles(rotary: &Rotary, head_dim: usize, steps: &[Step]) -> Angles {
    let of_step = |step: &Step| rotary.angles(head_dim, step.cache.len..step.cache.len + step.ids.len(), step.cache.horizon);
    steps.iter().flat_map(of_step).map(|(cos, sin)| (cos as f32, sin as f32)).collect()
}

fn add(x: &mut [f32], y: &[f32]) {
    x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
}
