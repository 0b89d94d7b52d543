//! Token ids to logits: what both decoders offer, so that perplexity, KL and
//! agreement are written once.

use super::ModelSpec;
use crate::error::Result;
use std::ops::Range;

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
}
