//! What a model is trained on: texts and token ids out of many files, tokenised once
//! into one long stream, which is mapped from a cache and cut into pieces.
//!
//! | file | documents | what is scored |
//! |---|---|---|
//! | `.jsonl` | one a line: `{"text": …}` | all of it |
//! | | or `{"prompt": …, "response": …}` | the response |
//! | `.safetensors` | each row of the integer tensor `ids`, `[tokens]` or `[sequences, tokens]` | all of it |
//! | `.bin` | the whole file: token ids of two bytes each, little-endian, as llama2.c keeps them | all of it |
//! | any other | the whole file: a text in UTF-8 | all of it |
//!
//! The stream is one document after another. Where the tokenizer knows what ends a
//! text, that token follows each document that does not end with it anyway, and is
//! scored. Nothing is put before a document: a beginning goes before each piece.

mod cache;
mod integers;
mod pieces;
mod read;
mod sources;
#[cfg(test)]
pub(super) mod testing;

pub use pieces::{Piece, Pieces};

use super::Tokenizer;
use crate::checkpoint::Bytes;
use crate::error::{Error, Result};
use crate::progress::Progress;
use cache::Found;
use read::Reader;
use safetensors::Dtype;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// A stream of token ids, mapped from its cache; cheap to clone.
#[derive(Clone)]
pub struct Corpus {
    ids: Bytes,
    /// Their number format.
    dtype: Dtype,
    /// A byte for each id: whether it is scored. All are where there is none.
    scored: Option<Bytes>,
}

impl Corpus {
    /// The corpus of files, and of the files in folders, by their names: out of `cache`
    /// where that was made from the same contents with the same tokenizer, and otherwise
    /// read, tokenised and written there. Texts need a tokenizer. The cache may lie in
    /// one of the folders; it is no source.
    pub fn open_or_build(
        sources: &[PathBuf],
        tokenizer: Option<&Tokenizer>,
        vocab_size: usize,
        cache: &Path,
        progress: &dyn Progress,
    ) -> Result<Self> {
        let sources = sources::find(sources, cache)?;
        let reader = Reader::new(tokenizer, vocab_size)?;
        let key = cache::key(&sources, &reader, progress)?;
        if cache.exists() {
            match cache::open(cache, &key) {
                Ok(Found::Fitting(corpus)) => return Ok(corpus),
                Ok(Found::Outdated) => {}
                Ok(Found::Foreign) => {
                    let reason = "is there already and is no corpus, so that it is not written over: name another file for the cache";
                    return Err(Error::format(cache, reason));
                }
                Err(error) => tracing::warn!("the cache of the corpus is made again: {error}"),
            }
        }
        cache::write(cache, &reader.read(&sources, progress)?, vocab_size, &key)?;
        match cache::open(cache, &key)? {
            Found::Fitting(corpus) => Ok(corpus),
            Found::Outdated | Found::Foreign => Err(Error::format(cache, "was written over meanwhile: give each run a cache of its own")),
        }
    }

    /// A hash of the contents of what would be its files. Fails where one cannot be read.
    pub fn fingerprint(sources: &[PathBuf]) -> Result<String> {
        cache::contents(&sources::find(sources, Path::new(""))?)
    }

    /// How many tokens it has.
    pub fn len(&self) -> usize {
        self.ids.len() * 8 / self.dtype.bitsize()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// Sequences to train on, with `length` predictions each and `prefix` before each;
    /// `held_out` of them are never trained on. Fails where there are not enough tokens.
    pub fn pieces(&self, length: usize, prefix: &[u32], seed: u64, held_out: usize) -> Result<Pieces> {
        Pieces::new(self.clone(), length, prefix, seed, held_out)
    }

    /// A part of the stream.
    fn ids(&self, range: Range<usize>) -> impl Iterator<Item = u32> {
        let size = self.dtype.bitsize() / 8;
        let ids = integers::decode(self.dtype, &self.ids[range.start * size..range.end * size]);
        ids.expect("a cache has integers").into_iter().map(|id| id as u32)
    }

    /// Which tokens of a part are scored.
    fn scored(&self, range: Range<usize>) -> Vec<bool> {
        match &self.scored {
            None => vec![true; range.len()],
            Some(scored) => scored[range].iter().map(|&scored| scored != 0).collect(),
        }
    }

    /// Whether any token of a part is scored.
    fn has_scored(&self, range: Range<usize>) -> bool {
        self.scored.as_ref().is_none_or(|scored| scored[range].contains(&1))
    }
}
