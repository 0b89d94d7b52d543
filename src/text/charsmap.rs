//! sentencepiece's precompiled_charsmap, as the tokenizers crate reads it: the
//! length of a trie, the trie, and the texts that it leads to.

use super::error::VocabularyError;
use serde_json::{Value, json};

/// The normalizer of a tokenizer.json that applies it.
pub fn normalizer(charsmap: &[u8]) -> Result<Value, VocabularyError> {
    check(charsmap)?;
    Ok(json!({ "type": "Precompiled", "precompiled_charsmap": base64(charsmap) }))
}

/// The library reserves as much memory as the charsmap says that its trie takes.
fn check(charsmap: &[u8]) -> Result<(), VocabularyError> {
    let size = charsmap.first_chunk().map(|size| u32::from_le_bytes(*size) as usize);
    match size {
        Some(size) if size >= 4 && size % 4 == 0 && size <= charsmap.len() - 4 => Ok(()),
        _ => Err(VocabularyError::Charsmap { bytes: charsmap.len(), trie: size.unwrap_or(0) }),
    }
}

/// RFC 4648, section 4.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for three in bytes.chunks(3) {
        let bits = three.iter().fold(0, |bits, &b| bits << 8 | u32::from(b)) << (8 * (3 - three.len()));
        for digit in 0..4 {
            let kept = digit <= three.len();
            text.push(if kept { DIGITS[(bits >> (18 - 6 * digit)) as usize & 63] as char } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::base64;

    /// The test vectors of RFC 4648, section 10.
    #[test]
    fn base64_of_the_standard() {
        for (bytes, text) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg=="), ("foobar", "Zm9vYmFy")] {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
    }
}
