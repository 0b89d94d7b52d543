//! Keys and values of the tokens seen so far.

use crate::model::ModelSpec;
use crate::model::spec::Mixer;

/// The state of one sequence.
pub struct KvCache {
    pub(super) blocks: Vec<BlockCache>,
    pub(super) len: usize,
}

/// Keys and values of one block, `[position, kv_head, head_dim]`.
pub(super) struct BlockCache {
    pub keys: Vec<f32>,
    pub values: Vec<f32>,
    /// Numbers a position takes in each.
    pub width: usize,
}

impl KvCache {
    /// An empty sequence of a model.
    pub fn new(spec: &ModelSpec) -> Self {
        let blocks = spec.blocks.iter().map(|block| {
            let Mixer::Attention(a) = &block.mixer;
            BlockCache { keys: Vec::new(), values: Vec::new(), width: a.n_kv_heads * a.head_dim }
        });
        Self { blocks: blocks.collect(), len: 0 }
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
        for block in &mut self.blocks {
            block.keys.clear();
            block.values.clear();
        }
    }
}
