//! JSON as people have it: with a byte-order mark in front, and with the `NaN`, `Infinity`
//! and `-Infinity` that Python's `json` writes and JSON does not have.
//!
//! Such a number is read as the text of its name. Where nobody asks for the key it does no
//! harm; where a number is asked for, the error names the key and says that `"NaN"` was found.

use crate::error::{Error, Result};
use crate::input;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::path::Path;

/// Reads and parses a file.
pub fn read<T: DeserializeOwned>(path: &Path) -> Result<T> {
    parse(&input::read(path)?, path)
}

/// Reads and parses a file; `null` where there is none.
pub fn read_optional(path: &Path) -> Result<Value> {
    input::read_optional(path)?.map_or(Ok(Value::Null), |bytes| parse(&bytes, path))
}

/// Parses the bytes of a file; `path` is for messages.
pub fn parse<T: DeserializeOwned>(bytes: &[u8], path: &Path) -> Result<T> {
    let bytes = &bytes[input::mark_len(bytes, path)?..];
    let not_json = |e| Error::format(path, format!("not JSON: {e}"));
    let error = match serde_json::from_slice(bytes) {
        Ok(value) => return Ok(value),
        Err(error) => error,
    };
    match quoted(bytes) {
        Some(quoted) => serde_json::from_slice(&quoted).map_err(not_json),
        None => Err(not_json(error)),
    }
}

/// The JSON text with Python's `NaN` and `Infinity` in quotes; `None` where it has neither.
fn quoted(bytes: &[u8]) -> Option<Vec<u8>> {
    const NUMBERS: [&[u8]; 3] = [b"NaN", b"-Infinity", b"Infinity"];
    let mut out = Vec::with_capacity(bytes.len() + 16);
    let (mut rest, mut found) = (bytes, false);
    while let [first, ..] = rest {
        let number = NUMBERS.iter().find(|number| rest.starts_with(number));
        let len = match number {
            Some(number) => {
                out.push(b'"');
                out.extend_from_slice(number);
                out.push(b'"');
                (rest, found) = (&rest[number.len()..], true);
                continue;
            }
            None if *first == b'"' => string_len(rest),
            None => 1,
        };
        out.extend_from_slice(&rest[..len]);
        rest = &rest[len..];
    }
    found.then_some(out)
}

/// Bytes of the string that `bytes` begins with, with both quotes; all where it does not end.
fn string_len(bytes: &[u8]) -> usize {
    let mut at = 1;
    while at < bytes.len() {
        match bytes[at] {
            b'"' => return at + 1,
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    bytes.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn parsed(text: &[u8]) -> Result<Value> {
        parse(text, Path::new("config.json"))
    }

    /// The text is what Python's `json.dumps` makes of such numbers beside strings that hold
    /// their names.
    #[test]
    fn pythons_numbers_are_texts() {
        let text = br#"{"loss": NaN, "limits": [0.0, Infinity, -Infinity], "say \"NaN": "Infinity, NaN\\", "x": "\\\"NaN"}"#;
        let expected = json!({ "loss": "NaN", "limits": [0.0, "Infinity", "-Infinity"], "say \"NaN": "Infinity, NaN\\", "x": "\\\"NaN" });
        assert_eq!(parsed(text).unwrap(), expected);
    }

    #[test]
    fn marks_are_no_part_of_the_text() {
        assert_eq!(parsed(b"\xef\xbb\xbf{\"a\": 1}").unwrap(), json!({ "a": 1 }));
        for text in ["\u{feff}{\"a\": 1}", "{\"a\": 1}"] {
            let words: Vec<u16> = text.encode_utf16().collect();
            for bytes in
                [words.iter().flat_map(|w| w.to_le_bytes()).collect::<Vec<_>>(), words.iter().flat_map(|w| w.to_be_bytes()).collect()]
            {
                let error = parsed(&bytes).unwrap_err().to_string();
                assert!(error.contains("UTF-16") && error.contains("config.json"), "{error}");
            }
        }
    }

    #[test]
    fn what_is_no_json_is_refused() {
        for text in ["{\"a\": NaN", "{\"a\": nan}", "NaNa", "{NaN: 1, }", "", "{\"a"] {
            let error = parsed(text.as_bytes()).unwrap_err().to_string();
            assert!(error.contains("config.json: not JSON"), "{text}: {error}");
        }
    }
}
