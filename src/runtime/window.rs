//! The device's decoder as a [`LogitSource`].

use super::{Decoder, KvCache};
use crate::error::Result;
use crate::model::{LogitSource, ModelSpec};
use std::ops::Range;

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
        self.cache.clear();
        self.hidden = self.decoder.read(&mut self.cache, ids)?;
        Ok(())
    }

    fn logits(&mut self, positions: Range<usize>) -> Result<Vec<f32>> {
        let width = self.decoder.spec().hidden_size;
        Ok(self.decoder.logits(&self.hidden[positions.start * width..positions.end * width]))
    }
}
