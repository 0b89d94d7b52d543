//! What a sequence has left so far: keys and values of its tokens, or the state of
//! recurrent mixers.

use crate::model::ModelSpec;
use crate::model::spec::{Gate, Mixer};

/// The state of one sequence.
#[derive(Clone)]
pub struct KvCache {
    pub(super) blocks: Vec<BlockState>,
    pub(super) len: usize,
    /// Tokens the sequence is known to have at least: some positions turn by other
    /// angles in long sequences.
    pub(super) horizon: usize,
    /// The tokens, where they may have to be read again.
    pub(super) ids: Vec<u32>,
}

/// What a block remembers.
#[derive(Clone)]
pub(super) struct BlockState {
    pub mixer: MixerState,
    /// What the feed-forward read last, where it looks back: `[hidden]`.
    pub ffn_previous: Vec<f32>,
}

/// Tokens of one sequence among those that go through a block together.
pub(super) struct Stretch<'a> {
    /// Place of the first in its sequence.
    pub position: usize,
    pub tokens: usize,
    /// What the block remembers of the sequence.
    pub state: &'a mut BlockState,
}

#[derive(Clone)]
pub(super) enum MixerState {
    Attention(KeysValues),
    Wkv(WkvState),
}

/// Keys and values, `[position, kv_head, head_dim]`.
#[derive(Clone)]
pub(super) struct KeysValues {
    pub keys: Vec<f32>,
    pub values: Vec<f32>,
    /// Numbers a position takes in each.
    pub width: usize,
}

/// Means of values by channel, as fractions whose terms are divided by
/// exp(`greatest`).
#[derive(Clone)]
pub(super) struct WkvState {
    /// What the mixer read last, `[hidden]`.
    pub previous: Vec<f32>,
    pub numerator: Vec<f32>,
    pub denominator: Vec<f32>,
    pub greatest: Vec<f32>,
}

impl BlockState {
    pub fn keys_values(&mut self) -> &mut KeysValues {
        match &mut self.mixer {
            MixerState::Attention(seen) => seen,
            MixerState::Wkv(_) => unreachable!("a cache is made by its model's spec"),
        }
    }

    pub fn wkv(&mut self) -> &mut WkvState {
        match &mut self.mixer {
            MixerState::Wkv(state) => state,
            MixerState::Attention(_) => unreachable!("a cache is made by its model's spec"),
        }
    }
}

impl KvCache {
    /// An empty sequence of a model.
    pub fn new(spec: &ModelSpec) -> Self {
        let blocks = spec.blocks.iter().map(|block| {
            let mixer = match &block.mixer {
                Mixer::Attention(a) => MixerState::Attention(KeysValues { keys: Vec::new(), values: Vec::new(), width: a.kv_width() }),
                Mixer::Wkv(wkv) => MixerState::Wkv(WkvState {
                    previous: vec![0.0; spec.hidden_size],
                    numerator: vec![0.0; wkv.width],
                    denominator: vec![0.0; wkv.width],
                    greatest: vec![NOTHING_YET; wkv.width],
                }),
            };
            let looks_back = block.ffn.gate == Gate::Receptance;
            BlockState { mixer, ffn_previous: vec![0.0; if looks_back { spec.hidden_size } else { 0 }] }
        });
        Self { blocks: blocks.collect(), len: 0, horizon: 0, ids: Vec::new() }
    }

    /// Tokens seen.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether none has been seen.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Forgets everything, and keeps its memory.
    pub fn clear(&mut self) {
        self.len = 0;
        self.horizon = 0;
        self.ids.clear();
        for block in &mut self.blocks {
            block.ffn_previous.fill(0.0);
            match &mut block.mixer {
                MixerState::Attention(seen) => {
                    seen.keys.clear();
                    seen.values.clear();
                }
                MixerState::Wkv(state) => {
                    for sums in [&mut state.previous, &mut state.numerator, &mut state.denominator] {
                        sums.fill(0.0);
                    }
                    state.greatest.fill(NOTHING_YET);
                }
            }
        }
    }
}

/// The logarithm of a weight that counts for nothing.
const NOTHING_YET: f32 = -1e38;
