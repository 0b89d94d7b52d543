//! How a text is cut into windows, and which predictions count. The text is
//! tokenised as one stream without special tokens; an incomplete last piece is
//! dropped. Protocols that put the model's BOS before a window do so whether or not its
//! tokenizer puts it before a text; what was put is in the result.

use crate::error::{Error, Result};
use crate::model::{ModelSpec, Window};
use serde::{Deserialize, Serialize};

/// The three ways people count perplexity.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
#[value(rename_all = "lowercase")]
pub enum Protocol {
    /// Pieces of W − 1 tokens, BOS before each, W − 1 scored.
    Bos,
    /// Pieces of W tokens, W − 1 scored, nothing added (GPTQ's and most papers').
    #[default]
    Plain,
    /// llama.cpp's: pieces of W, the first token replaced by BOS, only the second half scored.
    LlamaCpp,
}

impl Protocol {
    /// The token that is put before each window.
    pub fn bos(self, spec: &ModelSpec) -> Option<u32> {
        match self {
            Self::Plain => None,
            Self::Bos | Self::LlamaCpp => spec.special.bos,
        }
    }
}

/// The window where none is given: min(2048, context).
pub fn default_window(spec: &ModelSpec) -> usize {
    spec.context.min(2048)
}

/// Tokens of a window at least.
pub const MIN_WINDOW: usize = 4;

/// Tokens of a text at most that so many windows need; `None` for all of it.
pub fn tokens_needed(window: usize, limit: Option<usize>) -> Option<usize> {
    limit.map(|limit| limit.saturating_mul(window))
}

/// Cuts a token stream. `limit` keeps the first windows.
pub fn windows(ids: &[u32], spec: &ModelSpec, protocol: Protocol, window: usize, limit: Option<usize>) -> Result<Vec<Window>> {
    if window < MIN_WINDOW {
        return Err(Error::Usage(format!("a window of {window} tokens is too short: {MIN_WINDOW} at least")));
    }
    if window > spec.context {
        return Err(Error::Usage(format!("a window of {window} tokens is longer than the model's context of {}", spec.context)));
    }
    if limit == Some(0) {
        return Err(Error::Usage("no window is to be read: the number of windows must be at least 1".into()));
    }
    let bos = protocol.bos(spec);
    if bos.is_none() && protocol != Protocol::Plain {
        let reason =
            "this protocol needs a BOS token and the model has none; use --protocol plain, or in a recipe [evaluate] protocol = \"plain\"";
        return Err(Error::Usage(reason.into()));
    }
    let make = |piece: &[u32]| match (protocol, bos) {
        (Protocol::Bos, Some(bos)) => Window { ids: [&[bos], piece].concat(), scored: 0..piece.len() },
        (Protocol::LlamaCpp, Some(bos)) => Window { ids: [&[bos], &piece[1..]].concat(), scored: piece.len() / 2..piece.len() - 1 },
        _ => Window { ids: piece.to_vec(), scored: 0..piece.len() - 1 },
    };
    let piece = if protocol == Protocol::Bos { window - 1 } else { window };
    let all: Vec<_> = ids.chunks_exact(piece).take(limit.unwrap_or(usize::MAX)).map(make).collect();
    if all.is_empty() {
        let reason = format!(
            "the text has {} tokens, less than one window of {window}: use a longer text or a shorter window (--window, or [evaluate] window in a recipe)",
            ids.len()
        );
        return Err(Error::Usage(reason));
    }
    Ok(all)
}
