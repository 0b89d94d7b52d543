//! Tokens without a row in the model's embedding. A tokenizer may have some (a token for
//! images, padding that was added later); they matter only where a text uses one.

use super::{Kind, Tokenizer};
use crate::error::{Error, Result};
use crate::notice::warn_once;
use std::path::Path;

/// Tokens that a warning names.
const NAMED: usize = 3;

/// A place in a text, counted from 1.
#[derive(Clone, Copy)]
pub(super) struct Location {
    line: usize,
    character: usize,
}

impl Default for Location {
    /// The beginning.
    fn default() -> Self {
        Self { line: 1, character: 1 }
    }
}

impl Location {
    /// The place behind some characters that begin here.
    pub fn behind(self, characters: impl Iterator<Item = char>) -> Self {
        characters.fold(self, |Self { line, character }, c| match c {
            '\n' => Self { line: line + 1, character: 1 },
            _ => Self { line, character: character + 1 },
        })
    }
}

impl Tokenizer {
    /// Says how many rows the model's embedding has: [`Tokenizer::encode`] fails where a text
    /// uses a token beyond them. A warning names such tokens.
    pub fn limit_to(&mut self, rows: usize) {
        self.rows = Some(rows);
        if self.greatest_id().is_none_or(|id| (id as usize) < rows) {
            return;
        }
        let beyond: Vec<_> = self.words().into_iter().filter(|(id, _)| *id as usize >= rows).collect();
        let named: Vec<_> = beyond.iter().take(NAMED).map(|(id, word)| format!("{:?} (id {id})", word.text)).collect();
        let more = if beyond.len() > NAMED { format!(" and {} more", beyond.len() - NAMED) } else { String::new() };
        let (verb, them) = if beyond.len() == 1 { ("has", "it") } else { ("have", "them") };
        let named = named.join(", ");
        warn_once(
            &self.path,
            format!("{named}{more} {verb} no row in the model's embedding of {rows}; texts that do not use {them} are not affected"),
        );
    }

    /// Rows of the model's embedding, as far as they are known.
    pub(super) fn rows(&self) -> usize {
        self.rows.unwrap_or(usize::MAX)
    }

    /// Fails where an id of `text`, which is from the file `origin`, has no row among `rows`.
    pub(super) fn check_rows(&self, ids: &[u32], rows: usize, text: &str, origin: &Path) -> Result<()> {
        let Some(place) = ids.iter().position(|&id| id as usize >= rows) else { return Ok(()) };
        let location = self.character_of(text, place).map(|at| Location::default().behind(text.chars().take(at)));
        Err(self.no_row((ids[place], place), rows, location, origin))
    }

    /// The error for a token, an id and its place in tokens, without a row among `rows`.
    pub(super) fn no_row(&self, (id, place): (u32, usize), rows: usize, location: Option<Location>, origin: &Path) -> Error {
        let token = self.words().get(&id).map_or_else(String::new, |word| format!("{:?} ", word.text));
        let location = location.map_or_else(String::new, |Location { line, character }| format!(", line {line}, character {character}"));
        let reason = format!(
            "the text has the token {token}(id {id}; token {} of the text{location}), but the model's embedding has {rows} rows: \
             take it out of the text, or use the tokenizer of this model",
            place + 1
        );
        Error::format(origin, reason)
    }

    /// The greatest id of a token.
    pub fn greatest_id(&self) -> Option<u32> {
        match &self.kind {
            Kind::HuggingFace(inner) => inner.greatest_id(),
            Kind::World(world) => world.greatest_id(),
        }
    }

    /// Where a text's token begins, in characters.
    fn character_of(&self, text: &str, place: usize) -> Option<usize> {
        match &self.kind {
            Kind::HuggingFace(inner) => inner.character_of(text, place, &self.path),
            Kind::World(world) => {
                let bytes: usize = world.encode(text)[..place].iter().map(|&id| world.bytes(id).len()).sum();
                Some(String::from_utf8_lossy(&text.as_bytes()[..bytes]).chars().count())
            }
        }
    }
}
