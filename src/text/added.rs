//! Tokens beside a vocabulary: what `added_tokens.json`, `special_tokens_map.json`
//! and `tokenizer_config.json` add to it, or say of its own tokens.
//!
//! Source: transformers, `tokenization_utils_base.py` (`_from_pretrained`): what
//! stands later in the list above counts more.

use super::error::AddedError;
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};

/// An entry of a tokenizer.json's `added_tokens`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Added {
    pub id: u32,
    pub content: String,
    pub single_word: bool,
    pub lstrip: bool,
    pub rstrip: bool,
    pub normalized: bool,
    pub special: bool,
}

impl Added {
    /// One that is cut out of texts and is no text itself.
    pub fn special(id: u32, content: &str) -> Self {
        Self { special: true, ..Self::plain(id, content) }
    }

    /// One that is cut out of texts.
    pub fn plain(id: u32, content: &str) -> Self {
        Self { id, content: content.to_owned(), single_word: false, lstrip: false, rstrip: false, normalized: false, special: false }
    }
}

/// How a token is written without its id.
#[derive(Deserialize)]
pub struct Spelled {
    content: String,
    #[serde(default)]
    single_word: bool,
    #[serde(default)]
    lstrip: bool,
    #[serde(default)]
    rstrip: bool,
    #[serde(default)]
    normalized: bool,
    #[serde(default)]
    special: bool,
}

impl Spelled {
    /// The text of `"</s>"` or `{"content": "</s>", …}`.
    pub fn content(value: &Value) -> Option<&str> {
        value.as_str().or(value["content"].as_str())
    }

    /// `"</s>"` or `{"content": "</s>", …}`.
    fn read(value: &Value) -> Option<Self> {
        match value {
            Value::String(content) => Self::deserialize(serde_json::json!({ "content": content })).ok(),
            Value::Object(_) => Self::deserialize(value).ok(),
            _ => None,
        }
    }

    fn at(self, id: u32) -> Added {
        let Self { content, single_word, lstrip, rstrip, normalized, special } = self;
        Added { id, content, single_word, lstrip, rstrip, normalized, special }
    }
}

/// The files beside a vocabulary.
pub struct Beside {
    folder: PathBuf,
    added: Value,
    pub(super) special: Value,
    pub(super) config: Value,
    model: Value,
}

const ADDED: &str = "added_tokens.json";
const SPECIAL: &str = "special_tokens_map.json";
const CONFIG: &str = "tokenizer_config.json";
const MODEL: &str = "config.json";

impl Beside {
    /// Reads what there is in the folder of a file.
    pub fn read(file: &Path) -> Result<Self> {
        let folder = file.parent().unwrap_or(Path::new("")).to_owned();
        let json = |name: &str| crate::json::read_optional(&folder.join(name));
        Ok(Self { added: json(ADDED)?, special: json(SPECIAL)?, config: json(CONFIG)?, model: json(MODEL)?, folder })
    }

    /// Only tokenizer_config.json, for a file that has its tokens itself.
    pub fn config_of(file: &Path) -> Result<Self> {
        let folder = file.parent().unwrap_or(Path::new("")).to_owned();
        let config = crate::json::read_optional(&folder.join(CONFIG))?;
        Ok(Self { config, folder, added: Value::Null, special: Value::Null, model: Value::Null })
    }

    /// The class that transformers reads the files with, without its `Fast`.
    pub fn class(&self) -> Option<&str> {
        self.config["tokenizer_class"].as_str().map(|class| class.trim_end_matches("Fast"))
    }

    /// The family of the model.
    pub fn model_type(&self) -> Option<&str> {
        self.model["model_type"].as_str()
    }

    /// Whether a blank goes before a text.
    pub fn add_prefix_space(&self) -> bool {
        self.config["add_prefix_space"] == true
    }

    /// The tokens in order of their ids. `id` knows those of the vocabulary; a
    /// special token without an id is none.
    pub fn tokens(&self, id: impl Fn(&str) -> Option<u32>) -> Result<Vec<Added>> {
        let mut tokens = BTreeMap::new();
        for (content, number) in self.entries(ADDED, &self.added)? {
            let id = number.as_u64().and_then(|n| u32::try_from(n).ok());
            let id = id.ok_or_else(|| self.error(ADDED, format!("{content:?}: expected an id of 32 bits, found {number}")))?;
            if let Some(other) = tokens.insert(id, Added::plain(id, content)) {
                return Err(self.error(ADDED, format!("{:?} and {content:?} both have id {id}", other.content)));
            }
        }
        for token in self.special_tokens() {
            let known = tokens.values().find(|t: &&Added| t.content == token.content).map(|t| t.id);
            if let Some(id) = known.or_else(|| id(&token.content)) {
                tokens.insert(id, Added { special: true, ..token.at(id) });
            }
        }
        for (key, token) in self.entries(CONFIG, &self.config["added_tokens_decoder"])? {
            let id = key.parse().map_err(|_| self.error(CONFIG, format!("added_tokens_decoder: {key:?} is no id of 32 bits")))?;
            let token = Spelled::read(token)
                .ok_or_else(|| self.error(CONFIG, format!("added_tokens_decoder: {key}: expected a token, found {token}")))?;
            let special = token.special || tokens.get(&id).is_some_and(|t| t.special && t.content == token.content);
            tokens.insert(id, Added { special, ..token.at(id) });
        }
        tokens.retain(|_, token| !token.content.is_empty());
        Ok(tokens.into_values().collect())
    }

    /// Every `…_token` and list of `…_special_tokens`.
    fn special_tokens(&self) -> Vec<Spelled> {
        let mut found = Vec::new();
        for (key, value) in [&self.special, &self.config].into_iter().filter_map(Value::as_object).flatten() {
            match value {
                Value::Array(all) if key.ends_with("_special_tokens") => found.extend(all.iter().filter_map(Spelled::read)),
                one if key.ends_with("_token") => found.extend(Spelled::read(one)),
                _ => {}
            }
        }
        found
    }

    fn entries<'a>(&self, name: &str, value: &'a Value) -> Result<impl Iterator<Item = (&'a String, &'a Value)>> {
        match value {
            Value::Null => Ok(None.into_iter().flatten()),
            Value::Object(entries) => Ok(Some(entries).into_iter().flatten()),
            _ => Err(self.error(name, "expected tokens and their ids in an object".into())),
        }
    }

    fn error(&self, name: &str, reason: String) -> Error {
        Error::format(&self.folder.join(name), reason)
    }
}

/// Puts tokens into a vocabulary, under ids that are free or theirs already.
pub fn insert(vocabulary: &mut Map<String, Value>, added: &[Added]) -> std::result::Result<(), AddedError> {
    let mut taken: HashSet<u64> = vocabulary.values().filter_map(Value::as_u64).collect();
    for Added { id, content, .. } in added {
        match vocabulary.get(content) {
            Some(other) if *other == *id => {}
            Some(other) => return Err(AddedError::OtherId { token: content.clone(), found: other.clone(), id: *id }),
            None if !taken.insert((*id).into()) => return Err(AddedError::Taken { token: content.clone(), id: *id }),
            None => {
                vocabulary.insert(content.clone(), (*id).into());
            }
        }
    }
    Ok(())
}
