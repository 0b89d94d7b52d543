//! Token ids to logits: what each backend of the forward offers, so that perplexity, KL,
//! agreement and accuracy are written once.

use super::ModelSpec;
use crate::error::{Error, Result};
use std::ops::Range;

/// A window of tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    /// What the model sees.
    pub ids: Vec<u32>,
    /// Positions whose prediction of the next token is scored.
    pub scored: Range<usize>,
}

/// A scored position of one of several windows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScoredPosition {
    /// Which window.
    pub window: usize,
    /// Which of its positions.
    pub position: usize,
}

/// Hears of logits `[places, vocab]`, and which places they are of.
pub type OnLogits<'a> = dyn FnMut(&[ScoredPosition], &[f32]) + 'a;

/// Something that predicts tokens.
pub trait LogitSource {
    /// What the model is.
    fn spec(&self) -> &ModelSpec;

    /// Runs a window of tokens from an empty state and keeps what is needed to
    /// answer [`LogitSource::logits`]. Errors on ids outside the vocabulary.
    fn run_window(&mut self, ids: &[u32]) -> Result<()>;

    /// Logits of some positions of the window last run, row-major
    /// `[positions, vocab]`. In pieces, since those of a whole window may be
    /// larger than the model.
    fn logits(&mut self, positions: Range<usize>) -> Result<Vec<f32>>;

    /// Runs windows, each from an empty state up to its last scored position, and
    /// hands over the logits of all scored positions, in their order, in pieces.
    /// Those that begin alike do best side by side: a source may read once what
    /// neighbours share. This way does not.
    fn run_windows(&mut self, windows: &[Window], each: &mut OnLogits) -> Result<()> {
        let rows = rows_at_a_time(self.spec());
        for (window, Window { ids, scored }) in windows.iter().enumerate() {
            self.run_window(&ids[..scored.end])?;
            for start in scored.clone().step_by(rows) {
                let some = start..(start + rows).min(scored.end);
                let places: Vec<_> = some.clone().map(|position| ScoredPosition { window, position }).collect();
                each(&places, &self.logits(some)?);
            }
        }
        Ok(())
    }
}

/// Fails where logits `[vocab]` of a position hold NaN or +∞, or nothing but −∞: no token can be
/// chosen by them, and no loss computed.
pub fn expect_finite(logits: &[f32], position: usize) -> Result<()> {
    let finite = logits.iter().all(|&logit| logit < f32::INFINITY) && logits.iter().any(|&logit| logit > f32::NEG_INFINITY);
    if finite { Ok(()) } else { Err(Error::logits_overflow(Some(position))) }
}

/// Logits held at a time, in numbers: 32 MiB a model. Few in tests, so that small models have
/// several stretches too.
const LOGITS_AT_A_TIME: usize = if cfg!(test) { 1 << 11 } else { 1 << 23 };

/// Positions whose logits are held at a time, so that a large vocabulary needs no more memory
/// than a small one.
pub fn rows_at_a_time(spec: &ModelSpec) -> usize {
    (LOGITS_AT_A_TIME / spec.vocab_size).max(1)
}
