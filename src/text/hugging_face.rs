//! A tokenizer.json, read by the tokenizers crate.

use super::guard::guard;
use super::stream::Token;
use crate::error::Result;
use std::path::Path;

/// Its panics become errors; `path`, everywhere, is for messages.
pub struct HuggingFace(tokenizers::Tokenizer);

impl HuggingFace {
    /// From the bytes of a tokenizer.json; `what` is said of those that are none.
    pub fn read(json: &[u8], path: &Path, what: &str) -> Result<Self> {
        let mut inner = guard(path, what, || tokenizers::Tokenizer::from_bytes(json))?;
        // A file that was saved behind a training run may cut every text at its
        // length of sequences.
        guard(path, "cannot read texts as they stand", || inner.with_truncation(None).map(|_| ()))?;
        inner.with_padding(None);
        Ok(Self(inner))
    }

    pub fn encode(&self, text: &str, path: &Path) -> Result<Vec<u32>> {
        let encoding = guard(path, "cannot encode", || self.0.encode_fast(text, false))?;
        Ok(encoding.get_ids().to_vec())
    }

    pub fn tokens(&self, text: &str, path: &Path) -> Result<Vec<Token>> {
        let encoding = guard(path, "cannot encode", || self.0.encode(text, false))?;
        let tokens = encoding.get_ids().iter().zip(encoding.get_offsets());
        Ok(tokens.map(|(&id, &(start, end))| Token { id, start, end }).collect())
    }

    pub fn decode(&self, ids: &[u32], path: &Path) -> Result<String> {
        guard(path, "cannot decode", || self.0.decode(ids, true))
    }

    pub fn id(&self, token: &str) -> Option<u32> {
        self.0.token_to_id(token)
    }

    /// The token of the greatest id.
    pub fn last(&self) -> Option<(String, u32)> {
        self.0.get_vocab(true).into_iter().max_by_key(|(_, id)| *id)
    }
}
