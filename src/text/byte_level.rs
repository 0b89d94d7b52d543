//! GPT-2's vocab.json with the merges.txt beside it, as a tokenizer.json: merges
//! of bytes, each written as a character of its own.
//!
//! Sources: openai/gpt-2, `src/encoder.py`; transformers, `tokenization_gpt2.py`
//! and `tokenization_qwen2.py`.

use super::added::{self, Added, Beside};
use super::error::ByteLevelError;
use crate::error::{Error, Result};
use serde_json::{Map, Value, json};
use std::collections::HashMap;
use std::path::Path;

/// What lies beside a vocab.json.
pub const MERGES: &str = "merges.txt";
/// The class of transformers that such files are for where tokenizer_config.json names none.
pub const CLASS: &str = "GPT2Tokenizer";
/// Ends a text, and is cut out of texts, though GPT-2's files do not say so.
const END_OF_TEXT: &str = "<|endoftext|>";

/// Whether a JSON file begins with a token and its id.
pub fn recognises(bytes: &[u8]) -> bool {
    let inside = bytes.trim_ascii_start().strip_prefix(b"{").unwrap_or_default();
    let mut tokens = serde_json::Deserializer::from_slice(inside).into_iter::<String>();
    if !matches!(tokens.next(), Some(Ok(_))) {
        return false;
    }
    let value = inside[tokens.byte_offset()..].trim_ascii_start().strip_prefix(b":").unwrap_or_default().trim_ascii_start();
    value.first().is_some_and(|b| b.is_ascii_digit() || *b == b'-')
}

/// From the bytes of a vocab.json; `path` is its own.
pub fn tokenizer_json(bytes: &[u8], path: &Path) -> Result<Value> {
    let error = |error: ByteLevelError| Error::broken(path, error);
    let mut vocabulary: Map<String, Value> = serde_json::from_slice(bytes).map_err(|e| error(e.into()))?;
    let ids = check(&vocabulary).map_err(error)?;
    let merges_path = path.with_file_name(MERGES);
    if !crate::input::is_there(&merges_path) {
        return Err(error(ByteLevelError::NoMerges(MERGES)));
    }
    let merges = crate::input::read(&merges_path)?;
    let merges = super::read::decode(&merges, &merges_path)?;
    let merges = read_merges(merges, &ids).map_err(|error| Error::broken(&merges_path, error))?;

    let beside = Beside::read(path)?;
    let mut added = beside.tokens(|token| ids.get(token).copied())?;
    if let Some(&id) = ids.get(END_OF_TEXT).filter(|&&id| added.iter().all(|t| t.id != id)) {
        added.push(Added::special(id, END_OF_TEXT));
    }
    let (normalizer, pre_tokenizer) = reading(&beside).map_err(error)?;
    added::insert(&mut vocabulary, &added).map_err(|e| error(e.into()))?;
    Ok(json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added,
        "normalizer": normalizer,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": null,
        "decoder": byte_level(false, true),
        "model": {
            "type": "BPE",
            "dropout": null,
            "unk_token": null,
            "continuing_subword_prefix": null,
            "end_of_word_suffix": null,
            "fuse_unk": false,
            "byte_fallback": false,
            "ignore_merges": false,
            "vocab": vocabulary,
            "merges": merges,
        },
    }))
}

/// The ids of tokens, of which no two are the same.
fn check(vocabulary: &Map<String, Value>) -> std::result::Result<HashMap<String, u32>, ByteLevelError> {
    let mut ids = HashMap::new();
    let mut tokens: HashMap<u32, &str> = HashMap::new();
    for (token, number) in vocabulary {
        let id = number.as_u64().and_then(|n| u32::try_from(n).ok());
        let id = id.ok_or_else(|| ByteLevelError::Id { token: token.clone(), found: number.clone() })?;
        if let Some(other) = tokens.insert(id, token) {
            return Err(ByteLevelError::SameId { other: other.to_owned(), token: token.clone(), id });
        }
        ids.insert(token.clone(), id);
    }
    Ok(ids)
}

/// Two tokens a line, the best first.
fn read_merges<'a>(text: &'a str, ids: &HashMap<String, u32>) -> std::result::Result<Vec<[&'a str; 2]>, ByteLevelError> {
    let mut merges = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        if line.starts_with("#version") || line.is_empty() {
            continue;
        }
        let (left, right) = line
            .split_once(' ')
            .filter(|(left, right)| !left.is_empty() && !right.is_empty() && !right.contains(' '))
            .ok_or_else(|| ByteLevelError::Merge { line: number, found: line.to_owned() })?;
        for token in [left, right, &format!("{left}{right}")] {
            if !ids.contains_key(token) {
                return Err(ByteLevelError::UnknownToken { line: number, token: token.to_owned() });
            }
        }
        merges.push([left, right]);
    }
    if merges.is_empty() {
        return Err(ByteLevelError::Empty);
    }
    Ok(merges)
}

fn byte_level(add_prefix_space: bool, use_regex: bool) -> Value {
    json!({ "type": "ByteLevel", "add_prefix_space": add_prefix_space, "trim_offsets": true, "use_regex": use_regex })
}

/// How texts are normalized and cut into words. The files do not say it, but the
/// class that transformers reads them with does.
fn reading(beside: &Beside) -> std::result::Result<(Value, Value), ByteLevelError> {
    const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
    let blank = beside.add_prefix_space();
    match beside.class() {
        None | Some("GPT2Tokenizer" | "CodeGenTokenizer" | "RobertaTokenizer" | "BartTokenizer") => {
            Ok((Value::Null, byte_level(blank, true)))
        }
        Some("Qwen2Tokenizer") => {
            let split = json!({ "type": "Split", "pattern": { "Regex": QWEN2 }, "behavior": "Isolated", "invert": false });
            Ok((json!({ "type": "NFC" }), json!({ "type": "Sequence", "pretokenizers": [split, byte_level(blank, false)] })))
        }
        Some(other) => Err(ByteLevelError::Class(other.to_owned())),
    }
}
