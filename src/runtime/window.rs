//! The device's decoder as a [`LogitSource`].

use super::trunk::trunks;
use super::{Decoder, KvCache, Step};
use crate::error::Result;
use crate::model::{LogitSource, ModelSpec, OnLogits, ScoredPosition, Window, rows_at_a_time};
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

    /// Trunks are read together, then each window goes on from a copy of its own.
    fn run_windows(&mut self, windows: &[Window], each: &mut OnLogits) -> Result<()> {
        let (decoder, spec) = (&self.decoder, self.decoder.spec());
        let trunks = trunks(windows);
        let mut read: Vec<_> = trunks.iter().map(|_| KvCache::new(spec)).collect();
        let first = trunks.iter().map(|t| &windows[t.windows.start].ids[..t.tokens]);
        decoder.read_all(&mut read.iter_mut().zip(first).map(|(cache, ids)| Step { cache, ids }).collect::<Vec<_>>())?;

        let mut caches = Vec::with_capacity(windows.len());
        for (trunk, cache) in trunks.iter().zip(read) {
            caches.extend(std::iter::repeat_n(cache, trunk.windows.len()));
        }
        let branch = |window: &Window, trunk: usize| trunk..window.scored.end;
        let shared = trunks.iter().flat_map(|t| std::iter::repeat_n(t.tokens, t.windows.len()));
        let branches: Vec<_> = windows.iter().zip(shared).map(|(window, trunk)| branch(window, trunk)).collect();
        let mut steps: Vec<_> =
            caches.iter_mut().zip(windows).zip(&branches).map(|((cache, w), branch)| Step { cache, ids: &w.ids[branch.clone()] }).collect();
        let hidden = decoder.read_all(&mut steps)?;

        let (mut places, mut rows) = (Vec::new(), Vec::new());
        let mut row = 0;
        for (window, (Window { scored, .. }, branch)) in windows.iter().zip(&branches).enumerate() {
            places.extend(scored.clone().map(|position| ScoredPosition { window, position }));
            rows.extend(scored.clone().map(|position| row + position - branch.start));
            row += branch.len();
        }
        let (width, at_a_time) = (spec.hidden_size, rows_at_a_time(spec));
        for (places, rows) in places.chunks(at_a_time).zip(rows.chunks(at_a_time)) {
            let wanted: Vec<f32> = rows.iter().flat_map(|&row| &hidden[row * width..(row + 1) * width]).copied().collect();
            each(places, &decoder.logits(&wanted));
        }
        Ok(())
    }
}
