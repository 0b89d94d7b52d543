//! What lies beside the weights: the tokenizer and what else a library reads. It
//! is copied as it is; a model has no use for it but what the source had.

use crate::checkpoint::write_atomically;
use crate::error::{Error, Result};
use crate::pattern::matches;
use crate::runtime::Model;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Names of files of a tokenizer, with a `*` for anything.
const TOKENIZER: [&str; 12] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "rwkv_vocab*.txt",
    "chat_template*",
];
/// The same of what goes with any tokenizer: how to generate, and the code of models
/// that bring their own, which `auto_map` in their configuration names.
const ANY: [&str; 2] = ["generation_config.json", "*.py"];

/// Files to write beside a model.
pub struct Beside {
    copied: Vec<PathBuf>,
    /// By name, and its bytes.
    made: Option<(&'static str, Vec<u8>)>,
}

impl Beside {
    /// What lies beside a model that was opened. A tokenizer from elsewhere, or one that
    /// lies there in no file that libraries read, is written as a file of its own.
    pub fn of(source: &Model) -> Result<Self> {
        let own = source.path.is_dir() && source.tokenizer.as_ref().is_none_or(|t| t.path().parent() == Some(&source.path));
        let made = source.tokenizer.as_ref().filter(|_| !own).map(|tokenizer| {
            let name = if tokenizer.file().starts_with(b"{") { "tokenizer.json" } else { "rwkv_vocab_v20230424.txt" };
            (name, tokenizer.file().to_vec())
        });
        let tokenizer = if own { &TOKENIZER[..] } else { &[] };
        let copied = match source.path.is_dir() {
            true => named(&source.path, &[tokenizer, &ANY].concat())?,
            false => Vec::new(),
        };
        Ok(Self { copied, made })
    }

    /// True if one of them has this name.
    pub fn writes(&self, name: &str) -> bool {
        let copied = self.copied.iter().filter_map(|path| path.file_name());
        copied.map(|copied| copied.to_string_lossy()).any(|copied| copied == name)
            || self.made.as_ref().is_some_and(|(made, _)| *made == name)
    }

    /// Writes them, and gives their names.
    pub fn write(&self, dir: &Path) -> Result<Vec<String>> {
        let mut names = Vec::new();
        for path in &self.copied {
            let name = path.file_name().expect("a file in a folder").to_string_lossy().into_owned();
            let bytes = std::fs::read(path).map_err(Error::io("read", path))?;
            write_atomically(&dir.join(&name), |out| out.write_all(&bytes))?;
            names.push(name);
        }
        if let Some((name, bytes)) = &self.made {
            write_atomically(&dir.join(name), |out| out.write_all(bytes))?;
            names.push((*name).to_owned());
        }
        Ok(names)
    }
}

/// Files of a folder that have one of these names, by the alphabet.
fn named(dir: &Path, patterns: &[&str]) -> Result<Vec<PathBuf>> {
    let fits = |name: &str| patterns.iter().any(|pattern| matches(pattern, name));
    let entries = std::fs::read_dir(dir).map_err(Error::io("read", dir))?;
    let mut found: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    found.retain(|path| path.is_file() && path.file_name().and_then(|n| n.to_str()).is_some_and(fits));
    found.sort();
    Ok(found)
}
