//! llama2.c's tokenizer.bin: u32 greatest length, then for each token an f32
//! score, an i32 length and its bytes.
//!
//! Source: karpathy/llama2.c, `tokenizer.py` (`Tokenizer.export`).

use super::sentencepiece::Piece;

/// The pieces in order of ids; `None` where the bytes are no such file.
pub fn read_pieces(bytes: &[u8]) -> Option<Vec<Piece>> {
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
        pieces.push(Piece { text, score });
        rest = &rest[8 + length..];
    }
    (pieces.len() > 3).then_some(pieces)
}
