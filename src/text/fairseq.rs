//! XGLM's ids are not those of its sentencepiece model: fairseq begins with
//! special tokens in an order of its own, and ends with seven that fill up.
//!
//! Source: transformers, `convert_slow_tokenizer.py` (`XGLMConverter`).

use super::error::VocabularyError;
use super::sentencepiece::{Kind, Piece, Vocabulary};

/// The `model_type` this is for.
pub const FAMILY: &str = "xglm";
/// The class of transformers that reads it.
pub const CLASS: &str = "XGLMTokenizer";

/// The same vocabulary in fairseq's order.
pub fn reorder(mut vocabulary: Vocabulary) -> Result<Vocabulary, VocabularyError> {
    let special = ["<unk>", "<s>", "</s>"];
    if !vocabulary.pieces.iter().map(|p| p.text.as_str()).take(3).eq(special) {
        return Err(VocabularyError::Order { family: FAMILY, pieces: special.join(", ") });
    }
    let piece = |text: String, kind| Piece { text, score: 0.0, kind };
    let first = [("<s>", Kind::Control), ("<pad>", Kind::Control), ("</s>", Kind::Control), ("<unk>", Kind::Unknown)];
    vocabulary.pieces.splice(..3, first.map(|(text, kind)| piece(text.into(), kind)));
    vocabulary.pieces.extend((0..7).map(|i| piece(format!("<madeupword{i}>"), Kind::Control)));
    (vocabulary.bos, vocabulary.eos) = (Some(0), Some(2));
    Ok(vocabulary)
}
