//! llama2.c's tokenizer.bin: u32 greatest length, then for each token an f32
//! score, an i32 length and its bytes.
//!
//! Source: karpathy/llama2.c, `tokenizer.py` (`Tokenizer.export`).

use super::sentencepiece::{Algorithm, Kind, Normalizer, Piece, Vocabulary};

/// The vocabulary; `None` where the bytes are no such file.
pub fn read(bytes: &[u8]) -> Option<Vocabulary> {
    let longest = u32::from_le_bytes(bytes.get(..4)?.try_into().ok()?) as usize;
    let mut rest = &bytes[4..];
    let mut pieces = Vec::new();
    while !rest.is_empty() {
        let score = f32::from_le_bytes(rest.get(..4)?.try_into().ok()?);
        let length = u32::from_le_bytes(rest.get(4..8)?.try_into().ok()?) as usize;
        let text = std::str::from_utf8(rest.get(8..8 + length)?).ok()?;
        // The exporter writes blanks for U+2581 and lines around <s> and </s>.
        let text = match pieces.len() {
            1 | 2 => text.trim_matches('\n').to_owned(),
            _ => text.replace(' ', "\u{2581}"),
        };
        if length > longest || !score.is_finite() {
            return None;
        }
        let kind = match pieces.len() {
            0 => Kind::Unknown,
            1 | 2 => Kind::Control,
            _ if is_byte(&text) => Kind::Byte,
            _ => Kind::Normal,
        };
        pieces.push(Piece { text, score, kind });
        rest = &rest[8 + length..];
    }
    // The file does not say how blanks are read: as in the vocabularies that llama2.c trains.
    let normalizer = Normalizer { charsmap: Vec::new(), add_dummy_prefix: true, remove_extra_whitespaces: true, escape_whitespaces: true };
    (pieces.len() > 3).then_some(Vocabulary { pieces, algorithm: Algorithm::Bpe, normalizer, bos: Some(1), eos: Some(2) })
}

/// `<0x0A>` and its like; the file does not say which pieces are bytes.
fn is_byte(text: &str) -> bool {
    let digits = text.strip_prefix("<0x").and_then(|t| t.strip_suffix('>'));
    digits.is_some_and(|d| d.len() == 2 && d.bytes().all(|b| b.is_ascii_hexdigit()))
}
