//! The device's decoder as a [`LogitSource`].

use super::{Decoder, KvCache, Step};
use crate::error::Result;
use crate::model::{LogitSource, ModelSpec};
use std::ops::Range;

/// Tokens that go through the blocks together: enough to reuse each weight, few
/// enough to stay in the cache.
const CHUNK: usize = 128;

/// Windows of tokens through a [`Decoder`].
pub struct NativeLogits {
    decoder: Decoder,
    cache: KvCache,
    hidden: Vec<f32>,
}

impl NativeLogits {
    /// Takes over a decoder.
    pub fn new(decoder: Decoder) -> Self {
        Self { cache: KvCache::new(decoder.spec()), hidden: Vec::new(), decoder }
    }
}

impl LogitSource for NativeLogits {
    fn spec(&self) -> &ModelSpec {
        self.decoder.spec()
    }

    fn run_window(&mut self, ids: &[u32]) -> Result<()> {
        self.decoder.spec().check_ids(ids)?;
        self.cache.truncate(0);
        self.hidden.clear();
        for ids in ids.chunks(CHUNK) {
            self.hidden.extend(self.decoder.forward(&mut [Step { cache: &mut self.cache, ids }])?);
        }
        Ok(())
    }

    fn logits(&mut self, positions: Range<usize>) -> Result<Vec<f32>> {
        let width = self.decoder.spec().hidden_size;
        Ok(self.decoder.logits(&self.hidden[positions.start * width..positions.end * width]))
    }
}
