//! From a sentencepiece vocabulary to the tokenizer.json that gives the same ids.
//!
//! A control piece that is written in a text stands for itself, as in
//! transformers, and what lies between is read as texts of their own. What cannot
//! be put as a tokenizer.json: the library replaces by a charsmap no character
//! together with more than one mark, nor half-width kana with theirs (nor does
//! transformers, which reads the charsmap with it); where there are symbols of the
//! user, what lies between two is one piece if there is such a piece.
//!
//! Sources: google/sentencepiece, `normalizer.cc`, `bpe_model.cc` and
//! `unigram_model.cc`; transformers, `convert_slow_tokenizer.py`
//! (`generate_merges`, `SpmConverter`).

use super::added::{self, Added};
use super::error::{PieceRule, VocabularyError};
use super::{charsmap, cuts};
use serde_json::{Map, Value, json};
use std::collections::{HashMap, HashSet};

/// The class of transformers that such files are read as where tokenizer_config.json names none.
pub const CLASS: &str = "LlamaTokenizer";
/// What stands for a blank.
const BLANK: &str = "\u{2581}";
/// The longest piece that may come of merges, in bytes: sentencepiece trains to
/// 16 characters by default, and what is tried grows with the square.
const LONGEST: usize = 512;

/// A vocabulary and how texts are read with it.
pub struct Vocabulary {
    /// In order of their ids.
    pub pieces: Vec<Piece>,
    /// How a text is split into them.
    pub algorithm: Algorithm,
    /// What is done to a text before.
    pub normalizer: Normalizer,
    /// Beginning of a text, where there is a piece for it.
    pub bos: Option<u32>,
    /// End of a text, where there is a piece for it.
    pub eos: Option<u32>,
}

impl Vocabulary {
    /// Ids by text.
    pub fn ids(&self) -> HashMap<&str, u32> {
        (0..).zip(&self.pieces).map(|(id, piece)| (piece.text.as_str(), id)).collect()
    }
}

/// One entry of the vocabulary; its id is its place.
pub struct Piece {
    /// With U+2581 for blanks, `<0x0A>` for single bytes.
    pub text: String,
    /// Higher merges first; for unigrams the logarithm of a probability.
    pub score: f32,
    /// What it is for.
    pub kind: Kind,
}

/// Kinds of pieces.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Found by training.
    Normal,
    /// Stands for what no other piece does.
    Unknown,
    /// Never made of text.
    Control,
    /// Always one piece, whatever is around it.
    UserDefined,
    /// Not to be used.
    Unused,
    /// One byte of a character that no piece has.
    Byte,
}

/// Ways to split a text into pieces.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    /// Merges of neighbours, best score first.
    Bpe,
    /// The split with the greatest sum of scores.
    Unigram,
}

/// What is done to a text before it is split, in this order.
pub struct Normalizer {
    /// Replacements of characters; may be empty.
    pub charsmap: Vec<u8>,
    /// Blanks at the ends go, and so do blanks after blanks.
    pub remove_extra_whitespaces: bool,
    /// A blank goes before a text.
    pub add_dummy_prefix: bool,
    /// U+2581 is written for a blank.
    pub escape_whitespaces: bool,
}

/// A tokenizer.json over the pieces, with tokens that were added beside them.
pub fn tokenizer_json(vocabulary: &Vocabulary, added: &[Added]) -> Result<Value, VocabularyError> {
    let unknown = check(vocabulary)?;
    let pieces = &vocabulary.pieces;
    let own = pieces.iter().enumerate().filter(|(_, p)| matches!(p.kind, Kind::Unknown | Kind::Control));
    let mut special: Vec<Added> = own.map(|(id, p)| Added::special(id as u32, &p.text)).collect();
    let (model, pre_tokenizers) = match vocabulary.algorithm {
        Algorithm::Bpe if has(Kind::UserDefined, pieces) => {
            (bpe(vocabulary, unknown, added)?, json!([cuts::around_symbols(pieces), cuts::through_reserved(pieces)]))
        }
        Algorithm::Bpe => (bpe(vocabulary, unknown, added)?, json!([])),
        Algorithm::Unigram => (unigram(vocabulary, unknown, added)?, json!([cuts::through_reserved(pieces)])),
    };
    // A blank before the text would go before their texts as well.
    let added = added.iter().map(|token| Added { normalized: false, ..token.clone() });
    special.retain(|own| !added.clone().any(|token| token.id == own.id));
    special.extend(added);
    special.sort_by_key(|token| token.id);
    Ok(json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": special,
        "normalizer": normalizer(&vocabulary.normalizer)?,
        "pre_tokenizer": { "type": "Sequence", "pretokenizers": pre_tokenizers },
        "post_processor": null,
        "decoder": decoder(&vocabulary.normalizer),
        "model": model,
    }))
}

/// Fails where a vocabulary is not sound, or cannot be put as a tokenizer.json.
/// The id of the unknown piece.
fn check(vocabulary: &Vocabulary) -> Result<usize, VocabularyError> {
    let mut seen = HashSet::new();
    let mut unknown = None;
    for (id, piece) in vocabulary.pieces.iter().enumerate() {
        let Piece { text, score, kind } = piece;
        let wrong = |rule| Err(VocabularyError::Piece { id, text: text.clone(), rule });
        match kind {
            _ if text.is_empty() => return wrong(PieceRule::Empty),
            _ if !score.is_finite() => return wrong(PieceRule::Score),
            _ if !seen.insert(text) => return wrong(PieceRule::Twice),
            Kind::Unused => return wrong(PieceRule::Unused),
            Kind::Normal if vocabulary.algorithm == Algorithm::Bpe && text.len() > LONGEST => {
                return Err(VocabularyError::LongPiece { id, bytes: text.len(), max: LONGEST });
            }
            Kind::Unknown if unknown.is_some() => return wrong(PieceRule::SecondUnknown),
            Kind::Unknown => unknown = Some(id),
            _ => {}
        }
    }
    unknown.ok_or(VocabularyError::NoUnknown { pieces: vocabulary.pieces.len() })
}

fn replace(pattern: Value, content: &str) -> Value {
    json!({ "type": "Replace", "pattern": pattern, "content": content })
}

fn normalizer(spec: &Normalizer) -> Result<Value, VocabularyError> {
    let mut steps = Vec::new();
    if !spec.charsmap.is_empty() {
        steps.push(charsmap::normalizer(&spec.charsmap)?);
    }
    let blank = if spec.escape_whitespaces { BLANK } else { " " };
    if spec.remove_extra_whitespaces {
        steps.push(replace(json!({ "Regex": "\\A +| +\\z" }), ""));
        steps.push(replace(json!({ "Regex": " {2,}" }), " "));
    }
    if spec.add_dummy_prefix {
        steps.push(json!({ "type": "Prepend", "prepend": blank }));
    }
    if spec.escape_whitespaces {
        steps.push(replace(json!({ "String": " " }), BLANK));
    }
    if spec.remove_extra_whitespaces && spec.escape_whitespaces {
        // U+2581 at the end of the text itself is taken for a blank there.
        steps.push(replace(json!({ "Regex": "\u{2581}+\\z" }), ""));
    }
    Ok(json!({ "type": "Sequence", "normalizers": steps }))
}

fn decoder(spec: &Normalizer) -> Value {
    let mut steps = Vec::new();
    if spec.escape_whitespaces {
        steps.push(replace(json!({ "String": BLANK }), " "));
    }
    steps.extend([json!({ "type": "ByteFallback" }), json!({ "type": "Fuse" })]);
    let blanks = match (spec.add_dummy_prefix, spec.remove_extra_whitespaces) {
        (_, true) => u32::MAX,
        (true, false) => 1,
        (false, false) => 0,
    };
    steps.push(json!({ "type": "Strip", "content": " ", "start": blanks, "stop": 0 }));
    json!({ "type": "Sequence", "decoders": steps })
}

fn has(kind: Kind, pieces: &[Piece]) -> bool {
    pieces.iter().any(|p| p.kind == kind)
}

fn bpe(vocabulary: &Vocabulary, unknown: usize, added: &[Added]) -> Result<Value, VocabularyError> {
    let pieces = &vocabulary.pieces;
    let mut ids: Map<String, Value> = pieces.iter().enumerate().map(|(id, p)| (p.text.clone(), id.into())).collect();
    added::insert(&mut ids, added)?;
    Ok(json!({
        "type": "BPE",
        "dropout": null,
        "unk_token": pieces[unknown].text,
        "continuing_subword_prefix": null,
        "end_of_word_suffix": null,
        "fuse_unk": true,
        "byte_fallback": has(Kind::Byte, pieces),
        // Symbols of the user are cut out beforehand, and no merges lead to them.
        "ignore_merges": has(Kind::UserDefined, pieces),
        "vocab": ids,
        "merges": merges(pieces),
    }))
}

/// Every way to make a piece of two others, best score first; within a piece in
/// order of the parts' ids.
fn merges(pieces: &[Piece]) -> Vec<[&str; 2]> {
    let normal = || pieces.iter().enumerate().filter(|(_, p)| p.kind == Kind::Normal);
    let ids: HashMap<&str, usize> = normal().map(|(id, p)| (p.text.as_str(), id)).collect();
    let mut all = Vec::new();
    for (_, piece) in normal() {
        let splits = piece.text.char_indices().skip(1).map(|(at, _)| piece.text.split_at(at));
        let mut parts: Vec<_> = splits.filter_map(|(left, right)| Some((*ids.get(left)?, *ids.get(right)?))).collect();
        parts.sort_unstable();
        all.extend(parts.into_iter().map(|(left, right)| (piece.score, left, right)));
    }
    all.sort_by(|a, b| b.0.total_cmp(&a.0));
    all.into_iter().map(|(_, left, right)| [pieces[left].text.as_str(), pieces[right].text.as_str()]).collect()
}

fn unigram(vocabulary: &Vocabulary, unknown: usize, added: &[Added]) -> Result<Value, VocabularyError> {
    let pieces = &vocabulary.pieces;
    // A symbol of the user beats every split of it.
    let best = pieces.iter().filter(|p| p.kind == Kind::Normal).map(|p| p.score).fold(f32::NEG_INFINITY, f32::max);
    let best = if best.is_finite() { best } else { 0.0 };
    let score = |piece: &Piece| match piece.kind {
        Kind::UserDefined => f64::from(piece.text.len() as f32 * best) - 0.1,
        _ => f64::from(piece.score),
    };
    let mut all: Vec<Value> = pieces.iter().map(|p| json!([p.text, score(p)])).collect();
    for token in added {
        match pieces.get(token.id as usize) {
            Some(piece) if piece.text == token.content => {}
            None if token.id as usize == all.len() => all.push(json!([token.content, 0.0])),
            _ => return Err(VocabularyError::AddedBeyond { token: token.content.clone(), id: token.id, taken: all.len() }),
        }
    }
    Ok(json!({ "type": "Unigram", "unk_id": unknown, "byte_fallback": has(Kind::Byte, pieces), "vocab": all }))
}
