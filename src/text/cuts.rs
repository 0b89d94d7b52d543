//! Where a text must be cut before it is split into sentencepiece's pieces, as
//! pre-tokenizers of a tokenizer.json.

use super::sentencepiece::{Kind, Piece};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Cuts out symbols of the user, the longest first.
pub fn around_symbols(pieces: &[Piece]) -> Value {
    let mut symbols: Vec<&str> = pieces.iter().filter(|p| p.kind == Kind::UserDefined).map(|p| p.text.as_str()).collect();
    symbols.sort_by_key(|text| std::cmp::Reverse(text.len()));
    split(&symbols.into_iter().map(literal).collect::<Vec<_>>(), "Isolated")
}

/// Cuts behind the first character of what is spelled as a byte or as a special
/// piece: whole, the library would take it for that piece.
pub fn through_reserved(pieces: &[Piece]) -> Value {
    let texts = pieces.iter().filter(|p| !matches!(p.kind, Kind::Normal | Kind::UserDefined)).map(|p| p.text.as_str());
    let mut behind: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (first, rest) in texts.filter_map(|text| Some(text.split_at(text.char_indices().nth(1)?.0))) {
        behind.entry(first).or_default().push(literal(rest));
    }
    let cuts: Vec<String> = behind.iter().map(|(first, rest)| format!("{}(?={})", literal(first), rest.join("|"))).collect();
    split(&cuts, "MergedWithPrevious")
}

fn split(patterns: &[String], behavior: &str) -> Value {
    // Of no patterns one that fits nowhere.
    let pattern = if patterns.is_empty() { r"\z\A.".into() } else { patterns.join("|") };
    json!({ "type": "Split", "pattern": { "Regex": pattern }, "behavior": behavior, "invert": false })
}

/// A pattern for nothing but the text.
fn literal(text: &str) -> String {
    text.chars().flat_map(|c| r"\.+*?()|[]{}^$".contains(c).then_some('\\').into_iter().chain([c])).collect()
}
