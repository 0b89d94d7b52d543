//! A tokenizer.json, read by the tokenizers crate.

use super::guard::guard;
use super::stream::Token;
use super::words::Word;
use crate::error::Result;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::LazyLock;
use tokenizers::{DecoderWrapper, Model};

/// Its panics become errors; `path`, everywhere, is for messages.
pub struct HuggingFace {
    inner: tokenizers::Tokenizer,
    decoding: Decoding,
}

/// Dependence of a token's text on its neighbours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decoding {
    /// Tokens are bytes, put together before they become text.
    Bytes,
    /// Tokens are texts, but for those that stand for a byte.
    Fallback,
    /// Tokens are bytes that other decoders change too.
    Mixed,
    /// Tokens are texts.
    Tokens,
}

impl HuggingFace {
    /// From the bytes of a tokenizer.json; `what` is said of those that are none.
    pub fn read(json: &[u8], path: &Path, what: &str) -> Result<Self> {
        let mut inner = guard(path, what, || tokenizers::Tokenizer::from_bytes(json))?;
        // A file that was saved behind a training run may cut every text at its
        // length of sequences.
        guard(path, "cannot read texts as they stand", || inner.with_truncation(None).map(|_| ()))?;
        inner.with_padding(None);
        let decoding = inner.get_decoder().map_or(Decoding::Tokens, decoding);
        Ok(Self { inner, decoding })
    }

    pub fn encode(&self, text: &str, path: &Path) -> Result<Vec<u32>> {
        let encoding = guard(path, "cannot encode", || self.inner.encode_fast(text, false))?;
        Ok(encoding.get_ids().to_vec())
    }

    pub fn tokens(&self, text: &str, path: &Path) -> Result<Vec<Token>> {
        let encoding = guard(path, "cannot encode", || self.inner.encode(text, false))?;
        let tokens = encoding.get_ids().iter().zip(encoding.get_offsets());
        Ok(tokens.map(|(&id, &(start, end))| Token { id, start, end }).collect())
    }

    pub fn decode(&self, ids: &[u32], path: &Path) -> Result<String> {
        // Some decoders of the library panic where there is nothing to decode.
        if ids.iter().all(|&id| self.shown(id).is_none()) {
            return Ok(String::new());
        }
        guard(path, "cannot decode", || self.inner.decode(ids, true))
    }

    pub fn id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// The token of an id.
    pub fn token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// The token of an id, where it is shown: not one that is special, nor one that is not there.
    pub fn shown(&self, id: u32) -> Option<String> {
        let added = self.inner.get_added_vocabulary();
        let token = added.simple_id_to_token(id).or_else(|| self.inner.get_model().id_to_token(id))?;
        Some(token).filter(|token| !added.is_special_token(token))
    }

    pub fn decoding(&self) -> Decoding {
        self.decoding
    }

    /// The greatest id of a token.
    pub fn greatest_id(&self) -> Option<u32> {
        self.inner.get_vocab(true).into_values().max()
    }

    /// The vocabulary by id.
    pub fn words(&self) -> BTreeMap<u32, Word> {
        let added = self.inner.get_added_vocabulary();
        let word = |(text, id): (String, u32)| (id, Word { special: added.is_special_token(&text), text });
        self.inner.get_vocab(true).into_iter().map(word).collect()
    }

    /// Where a text's token begins, in characters.
    pub fn character_of(&self, text: &str, place: usize, path: &Path) -> Option<usize> {
        let encoding = guard(path, "cannot encode", || self.inner.encode_char_offsets(text, false)).ok()?;
        encoding.get_offsets().get(place).map(|(start, _)| *start)
    }
}

fn decoding(decoder: &DecoderWrapper) -> Decoding {
    match decoder {
        DecoderWrapper::ByteLevel(_) => Decoding::Bytes,
        DecoderWrapper::ByteFallback(_) => Decoding::Fallback,
        DecoderWrapper::Sequence(sequence) => match sequence.get_decoders() {
            [one] => decoding(one),
            several if several.iter().any(|d| matches!(d, DecoderWrapper::ByteFallback(_))) => Decoding::Fallback,
            several if several.iter().any(|d| matches!(d, DecoderWrapper::ByteLevel(_))) => Decoding::Mixed,
            _ => Decoding::Tokens,
        },
        _ => Decoding::Tokens,
    }
}

/// True if a token stands for a byte (`<0x0A>`), as [`DecoderWrapper::ByteFallback`] takes it.
pub fn is_byte(token: &str) -> bool {
    token.len() == 6 && token.starts_with("<0x") && token.ends_with('>') && u8::from_str_radix(&token[3..5], 16).is_ok()
}

/// The bytes that a token of byte-level BPE stands for; a token with another character in it,
/// such as an added one, is its own text.
pub fn bytes_of(token: &str) -> Vec<u8> {
    static BYTES: LazyLock<HashMap<char, u8>> = LazyLock::new(|| {
        // GPT-2's table: printable bytes stand for themselves, the others follow from U+0100 on.
        let printable = |byte: &u8| matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
        let themselves = (0..=u8::MAX).filter(printable).map(|byte| (char::from(byte), byte));
        let others = (0..=u8::MAX).filter(|byte| !printable(byte)).zip('\u{100}'..).map(|(byte, c)| (c, byte));
        themselves.chain(others).collect()
    });
    token.chars().map(|c| BYTES.get(&c).copied()).collect::<Option<Vec<u8>>>().unwrap_or_else(|| token.as_bytes().to_vec())
}
