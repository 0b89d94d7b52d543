//! State of sequences: keys and values of their tokens, or sums of recurrent mixers.

use crate::spec::{Block, Gate, ModelSpec, Op};

/// The state of one sequence.
#[derive(Clone)]
pub struct KvCache {
    pub(super) blocks: Vec<BlockState>,
    pub(super) len: usize,
    /// Length that the sequence is known to reach at least: LongRoPE's factors depend on it.
    pub(super) horizon: usize,
    /// The tokens, where they may have to be read again.
    pub(super) ids: Vec<u32>,
}

/// State of one block, by sub-layer.
pub(super) type BlockState = Vec<SubLayerState>;

/// State of one sub-layer.
#[derive(Clone)]
pub(super) enum SubLayerState {
    /// None: it works on each token alone.
    None,
    /// Of attention.
    Attention(KeysValues),
    /// Of RWKV's time mixing.
    Wkv(WkvState),
    /// Input of the last token, `[hidden]`, of RWKV's channel mixing.
    Previous(Vec<f32>),
}

/// Tokens that are appended to one sequence in a batch.
pub(super) struct SequenceSlice<'a> {
    /// Position of the first in its sequence.
    pub position: usize,
    /// Number of tokens.
    pub tokens: usize,
    /// State of the sequence.
    pub blocks: &'a mut [BlockState],
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
    /// Input of the last token, `[hidden]`.
    pub previous: Vec<f32>,
    pub numerator: Vec<f32>,
    pub denominator: Vec<f32>,
    pub greatest: Vec<f32>,
}

/// Logarithm of a weight that counts for nothing.
const NO_WEIGHT: f32 = -1e38;

impl SubLayerState {
    fn new(op: &Op, hidden_size: usize) -> Self {
        match op {
            Op::Attention(a) => Self::Attention(KeysValues { keys: Vec::new(), values: Vec::new(), width: a.kv_width() }),
            Op::Wkv(wkv) => Self::Wkv(WkvState {
                previous: vec![0.0; hidden_size],
                numerator: vec![0.0; wkv.width],
                denominator: vec![0.0; wkv.width],
                greatest: vec![NO_WEIGHT; wkv.width],
            }),
            Op::FeedForward(ffn) if ffn.gate == Gate::Receptance => Self::Previous(vec![0.0; hidden_size]),
            Op::FeedForward(_) => Self::None,
        }
    }

    /// Keys and values of attention.
    pub fn keys_values(&mut self) -> &mut KeysValues {
        match self {
            Self::Attention(seen) => seen,
            _ => unreachable!("a cache is made by its model's spec"),
        }
    }

    /// Sums of time mixing.
    pub fn wkv(&mut self) -> &mut WkvState {
        match self {
            Self::Wkv(state) => state,
            _ => unreachable!("a cache is made by its model's spec"),
        }
    }

    /// Input of the last token.
    pub fn previous(&mut self) -> &mut Vec<f32> {
        match self {
            Self::Wkv(state) => &mut state.previous,
            Self::Previous(previous) => previous,
            _ => unreachable!("a cache is made by its model's spec"),
        }
    }

    fn clear(&mut self) {
        match self {
            Self::None => (),
            Self::Attention(seen) => {
                seen.keys.clear();
                seen.values.clear();
            }
            Self::Wkv(state) => {
                for sums in [&mut state.previous, &mut state.numerator, &mut state.denominator] {
                    sums.fill(0.0);
                }
                state.greatest.fill(NO_WEIGHT);
            }
            Self::Previous(previous) => previous.fill(0.0),
        }
    }
}

impl WkvState {
    /// One channel's mean with this token in it; the state takes it up.
    ///
    /// Source: RWKV (Peng et al. 2023), appendix "numerically stable" form.
    pub fn step(&mut self, i: usize, key: f32, value: f32, decay: f32, first: f32) -> f32 {
        let greatest = self.greatest[i].max(key + first);
        let (past, now) = ((self.greatest[i] - greatest).exp(), (key + first - greatest).exp());
        let mean = (past * self.numerator[i] + now * value) / (past * self.denominator[i] + now);
        let greatest = (self.greatest[i] + decay).max(key);
        let (past, now) = ((self.greatest[i] + decay - greatest).exp(), (key - greatest).exp());
        self.numerator[i] = past * self.numerator[i] + now * value;
        self.denominator[i] = past * self.denominator[i] + now;
        self.greatest[i] = greatest;
        mean
    }
}

impl KvCache {
    /// An empty sequence of a model.
    pub fn new(spec: &ModelSpec) -> Self {
        let state = |block: &Block| block.sub_layers.iter().map(|sub_layer| SubLayerState::new(&sub_layer.op, spec.hidden_size)).collect();
        Self { blocks: spec.blocks.iter().map(state).collect(), len: 0, horizon: 0, ids: Vec::new() }
    }

    /// Number of tokens seen.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True where no token has been seen.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Forgets everything, and keeps its memory.
    pub fn clear(&mut self) {
        self.len = 0;
        self.horizon = 0;
        self.ids.clear();
        self.blocks.iter_mut().flatten().for_each(SubLayerState::clear);
    }
}
