//! Text to token ids and back.

mod guard;
mod llama2c;
mod sentencepiece;

use crate::error::{Error, Result};
use guard::guard;
use std::path::{Path, PathBuf};

/// A tokenizer, whatever it was read from, held as a tokenizer.json.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    json: Vec<u8>,
    path: PathBuf,
}

impl Tokenizer {
    /// Opens a tokenizer.json or a llama2.c tokenizer.bin, told apart by content.
    pub fn open(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).map_err(Error::io("read", path))?;
        if bytes.iter().find(|b| !b.is_ascii_whitespace()) == Some(&b'{') {
            return Self::from_json(bytes, path);
        }
        let pieces = llama2c::read_pieces(&bytes).ok_or_else(|| {
            Error::format(
                path,
                "neither a tokenizer.json nor a llama2.c tokenizer; a sentencepiece tokenizer.model must be converted to tokenizer.json",
            )
        })?;
        Self::from_json(sentencepiece::tokenizer_json(&pieces).to_string().into_bytes(), path)
    }

    /// From the bytes of a tokenizer.json; `path` is for messages.
    pub fn from_json(json: Vec<u8>, path: &Path) -> Result<Self> {
        let mut inner = guard(path, "not a valid tokenizer.json", || tokenizers::Tokenizer::from_bytes(&json))?;
        // A file that was saved behind a training run may cut every text at its
        // length of sequences.
        guard(path, "cannot read texts as they stand", || inner.with_truncation(None).map(|_| ()))?;
        inner.with_padding(None);
        Ok(Self { inner, json, path: path.to_owned() })
    }

    /// The ids of a text, without special tokens.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let encoding = guard(&self.path, "cannot encode", || self.inner.encode_fast(text, false))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The text of ids, without special tokens.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        guard(&self.path, "cannot decode", || self.inner.decode(ids, true))
    }

    /// The id of a token.
    pub fn id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// The bytes of its tokenizer.json.
    pub fn json(&self) -> &[u8] {
        &self.json
    }

    /// Fails where a token has no row in an embedding of `vocab_size`.
    pub fn check_vocabulary(&self, vocab_size: usize) -> Result<()> {
        let vocabulary = self.inner.get_vocab(true);
        match vocabulary.into_iter().max_by_key(|(_, id)| *id) {
            Some((token, id)) if id as usize >= vocab_size => {
                let reason = format!(
                    "token {token:?} has id {id}, but the model's embedding has {vocab_size} rows: this tokenizer belongs to another model"
                );
                Err(Error::format(&self.path, reason))
            }
            _ => Ok(()),
        }
    }
}
