//! From the pieces and scores of a sentencepiece BPE vocabulary to the
//! tokenizer.json that gives the same ids.
//!
//! Source: transformers, `convert_slow_tokenizer.py` (`generate_merges`,
//! `LlamaConverter`).

use serde_json::{Map, Value, json};
use std::collections::HashMap;

/// One entry of the vocabulary; its id is its place.
pub struct Piece {
    /// With U+2581 for blanks, `<0x0A>` for single bytes.
    pub text: String,
    /// Higher merges first.
    pub score: f32,
}

/// A tokenizer.json over the pieces; 0, 1, 2 are unknown, beginning and end.
pub fn tokenizer_json(pieces: &[Piece]) -> Value {
    let special = |id: usize| json!({ "id": id, "content": pieces[id].text, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true });
    let vocabulary: Map<String, Value> = pieces.iter().enumerate().map(|(id, p)| (p.text.clone(), id.into())).collect();
    let byte_fallback = pieces.iter().any(|p| p.text == "<0x0A>");
    let replace = |pattern: Value, content: &str| json!({ "type": "Replace", "pattern": pattern, "content": content });
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": [special(0), special(1), special(2)],
        "normalizer": { "type": "Sequence", "normalizers": [
            // sentencepiece's remove_extra_whitespaces, on in the vocabularies that llama2.c trains
            replace(json!({ "Regex": "\\A +| +\\z" }), ""),
            replace(json!({ "Regex": " {2,}" }), " "),
            { "type": "Prepend", "prepend": "\u{2581}" },
            replace(json!({ "String": " " }), "\u{2581}"),
        ] },
        "pre_tokenizer": null,
        "post_processor": null,
        "decoder": { "type": "Sequence", "decoders": [
            replace(json!({ "String": "\u{2581}" }), " "),
            { "type": "ByteFallback" },
            { "type": "Fuse" },
            { "type": "Strip", "content": " ", "start": 1, "stop": 0 },
        ] },
        "model": {
            "type": "BPE",
            "dropout": null,
            "unk_token": pieces[0].text,
            "continuing_subword_prefix": null,
            "end_of_word_suffix": null,
            "fuse_unk": true,
            "byte_fallback": byte_fallback,
            "ignore_merges": false,
            "vocab": vocabulary,
            "merges": merges(pieces),
        },
    })
}

/// Every way to make a piece of two others, best score first; within a piece in
/// order of the parts' ids.
fn merges(pieces: &[Piece]) -> Vec<[&str; 2]> {
    let ids: HashMap<&str, usize> = pieces.iter().enumerate().map(|(id, p)| (p.text.as_str(), id)).collect();
    let mut all = Vec::new();
    for piece in pieces {
        let splits = piece.text.char_indices().skip(1).map(|(at, _)| piece.text.split_at(at));
        let mut parts: Vec<_> = splits.filter_map(|(left, right)| Some((*ids.get(left)?, *ids.get(right)?))).collect();
        parts.sort_unstable();
        all.extend(parts.into_iter().map(|(left, right)| (piece.score, left, right)));
    }
    all.sort_by(|a, b| b.0.total_cmp(&a.0));
    all.into_iter().map(|(_, left, right)| [pieces[left].text.as_str(), pieces[right].text.as_str()]).collect()
}
