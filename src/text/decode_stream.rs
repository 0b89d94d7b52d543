//! Text of ids that come one by one: what is certain is given at once, and all of it
//! together is what [`Tokenizer::decode`] makes of all ids.
//!
//! The text of a token may depend on tokens that follow: a character of several bytes may be
//! several tokens, and a run of byte tokens (`<0xE2>`) of which one is no UTF-8 becomes
//! U+FFFD as a whole. So text is held back until no later token can change it. Each token
//! is decoded together with a few before it, never with all, so that time grows with the
//! length of the text and no faster.

use super::hugging_face::Decoding;
use super::{Kind, Tokenizer};
use crate::error::Result;

/// Decodes ids one by one.
pub struct TextStream<'a> {
    tokenizer: &'a Tokenizer,
    /// Bytes that are no whole character yet.
    bytes: Vec<u8>,
    /// The last tokens; those before [`Self::given`] have been given out and are the
    /// context that the others are decoded in.
    window: Vec<u32>,
    given: usize,
    /// Number of tokens at the window's beginning whose text is not blank.
    anchor: usize,
}

impl Tokenizer {
    /// A stream that has seen no token.
    pub fn stream(&self) -> TextStream<'_> {
        TextStream { tokenizer: self, bytes: Vec::new(), window: Vec::new(), given: 0, anchor: 0 }
    }
}

impl TextStream<'_> {
    /// The text that has become certain with one more token; often empty.
    pub fn push(&mut self, id: u32) -> Result<String> {
        let inner = match &self.tokenizer.kind {
            Kind::World(world) => {
                self.bytes.extend(world.bytes(id));
                return Ok(self.characters());
            }
            Kind::HuggingFace(inner) => inner,
        };
        let Some(token) = inner.shown(id) else { return Ok(String::new()) };
        match inner.decoding() {
            Decoding::Bytes => {
                self.bytes.extend(super::hugging_face::bytes_of(&token));
                Ok(self.characters())
            }
            Decoding::Fallback => {
                self.window.push(id);
                if super::hugging_face::is_byte(&token) { Ok(String::new()) } else { self.settle() }
            }
            Decoding::Mixed => {
                self.window.push(id);
                // However long no character is completed, not every token decodes all of them again.
                let waiting = self.window.len() - self.given;
                let tries = waiting <= 8 || waiting.is_power_of_two();
                if !tries || self.tokenizer.decode(&self.window)?.ends_with('\u{fffd}') { Ok(String::new()) } else { self.settle() }
            }
            Decoding::Tokens => {
                self.window.push(id);
                self.settle()
            }
        }
    }

    /// The rest, when no token follows.
    pub fn finish(&mut self) -> Result<String> {
        let rest = String::from_utf8_lossy(&std::mem::take(&mut self.bytes)).into_owned();
        Ok(rest + &self.settle()?)
    }

    /// Takes the whole characters out of the bytes; a sequence that no byte can complete
    /// is one too (U+FFFD).
    fn characters(&mut self) -> String {
        let whole = match std::str::from_utf8(&self.bytes) {
            Ok(_) => self.bytes.len(),
            Err(_) => self.bytes.len() - unfinished(&self.bytes),
        };
        let rest = self.bytes.split_off(whole);
        String::from_utf8_lossy(&std::mem::replace(&mut self.bytes, rest)).into_owned()
    }

    /// Text of the tokens that are not given out yet, decoded behind those that are.
    fn settle(&mut self) -> Result<String> {
        if self.given == self.window.len() {
            return Ok(String::new());
        }
        let all = self.tokenizer.decode(&self.window)?;
        let before = self.tokenizer.decode(&self.window[..self.given])?;
        let new = behind(&before, &all).to_owned();
        // Blanks at a window's beginning may be stripped, so that they are no context alone: the last
        // tokens with other text stay before them.
        if new.trim().is_empty() {
            // Where the text has begun with nothing but blanks, the last of them do.
            let (from, to) = if self.anchor > 0 { (self.anchor, self.given) } else { (0, self.given.saturating_sub(BLANKS)) };
            self.window.drain(from..to);
        } else {
            self.window.drain(..self.given);
            self.anchor = self.window.len();
        }
        self.given = self.window.len();
        Ok(new)
    }
}

/// Tokens of blanks at a text's beginning that stay before those that are decoded.
const BLANKS: usize = 16;

/// The part of a text behind what it has in common with the beginning of another.
pub fn behind<'a>(before: &str, all: &'a str) -> &'a str {
    let same: usize = before.chars().zip(all.chars()).take_while(|(a, b)| a == b).map(|(c, _)| c.len_utf8()).sum();
    &all[same..]
}

/// Bytes at the end that may begin a character: a valid beginning that is too short.
fn unfinished(bytes: &[u8]) -> usize {
    let mut rest = bytes;
    loop {
        match std::str::from_utf8(rest) {
            Ok(_) => return 0,
            Err(error) => match error.error_len() {
                None => return rest.len() - error.valid_up_to(),
                Some(length) => rest = &rest[error.valid_up_to() + length..],
            },
        }
    }
}
