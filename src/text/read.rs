//! Reads texts that users name: held-out text, calibration text, tasks, recipes, corpora.
//!
//! A text is UTF-8. A byte-order mark at its beginning is taken off, since it is no part
//! of the text and would be a token of its own. UTF-16 and UTF-32 are named, and other
//! bytes that are no UTF-8 are named with their position. Everything else stays as it is:
//! line ends are not converted.

use crate::error::{Error, Result};
use crate::input;
use std::io::Read;
use std::path::Path;

/// In place of a file's name: standard input.
pub const STANDARD_INPUT: &str = "-";

/// Bytes that are read at once.
const READ: usize = 1 << 16;

/// A text that is read piece by piece.
pub struct TextReader<'a> {
    reader: Box<dyn Read + 'a>,
    /// For messages.
    path: &'a Path,
    /// Bytes that are read and not yet handed on: the beginning of a character.
    rest: Vec<u8>,
    /// Position in the file of the first of them.
    position: u64,
    ended: bool,
    /// Bytes of the file, where that is known.
    size: Option<u64>,
}

impl<'a> TextReader<'a> {
    /// A file; `-` is standard input.
    pub fn open(path: &'a Path) -> Result<Self> {
        if path == Path::new(STANDARD_INPUT) {
            return Self::new(Box::new(std::io::stdin().lock()), Path::new("standard input"));
        }
        let file = std::fs::File::open(path).map_err(|e| input::not_read(path, e))?;
        let size = file.metadata().ok().filter(|data| data.is_file()).map(|data| data.len());
        Ok(Self { size, ..Self::new(Box::new(file), path)? })
    }

    /// Anything that can be read; `path` is for messages.
    pub fn new(reader: Box<dyn Read + 'a>, path: &'a Path) -> Result<Self> {
        let mut text = Self { reader, path, rest: Vec::new(), position: 0, ended: false, size: None };
        while text.rest.len() < input::HEAD_BYTES && !text.ended {
            text.fill()?;
        }
        input::check(&text.rest, path)?;
        let mark = input::mark_len(&text.rest, path)?;
        text.rest.drain(..mark);
        text.position = mark as u64;
        Ok(text)
    }

    /// A text that is in memory; `path` is for messages.
    pub fn of(text: &'a str, path: &'a Path) -> Self {
        Self { reader: Box::new(text.as_bytes()), path, rest: Vec::new(), position: 0, ended: false, size: Some(text.len() as u64) }
    }

    /// The name of its file, for messages.
    pub fn path(&self) -> &Path {
        self.path
    }

    /// Bytes of all of it, where that is known.
    pub fn size(&self) -> Option<u64> {
        self.size
    }

    /// Appends text until `to` has `length` bytes or the text ends. Whether it has ended.
    pub fn read_to(&mut self, to: &mut String, length: usize) -> Result<bool> {
        loop {
            let valid = valid_length(&self.rest, self.ended).map_err(|at| not_utf8(self.path, self.position + at as u64))?;
            to.push_str(std::str::from_utf8(&self.rest[..valid]).expect("it was checked"));
            self.rest.drain(..valid);
            self.position += valid as u64;
            if self.ended || to.len() >= length {
                return Ok(self.ended);
            }
            self.fill()?;
        }
    }

    fn fill(&mut self) -> Result<()> {
        let before = self.rest.len();
        self.rest.resize(before + READ, 0);
        let read = loop {
            match self.reader.read(&mut self.rest[before..]) {
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                read => break read,
            }
        };
        self.rest.truncate(before + *read.as_ref().unwrap_or(&0));
        self.ended = read.map_err(Error::io("read", self.path))? == 0;
        Ok(())
    }
}

/// Number of bytes that are whole characters; at the end of a text all must be. The error
/// is the place of the first byte that is no UTF-8.
fn valid_length(bytes: &[u8], ended: bool) -> std::result::Result<usize, usize> {
    match std::str::from_utf8(bytes) {
        Ok(text) => Ok(text.len()),
        Err(e) if e.error_len().is_none() && !ended => Ok(e.valid_up_to()),
        Err(e) => Err(e.valid_up_to()),
    }
}

/// The whole of a text that is small, such as a recipe or a task; `-` is standard input.
pub fn whole(path: &Path) -> Result<String> {
    let mut text = String::new();
    TextReader::open(path)?.read_to(&mut text, usize::MAX)?;
    Ok(text)
}

/// Bytes of a file as text, without a byte-order mark; `path` is for messages.
pub fn decode<'a>(bytes: &'a [u8], path: &Path) -> Result<&'a str> {
    let mark = input::mark_len(bytes, path)?;
    std::str::from_utf8(&bytes[mark..]).map_err(|e| not_utf8(path, (mark + e.valid_up_to()) as u64))
}

fn not_utf8(path: &Path, position: u64) -> Error {
    Error::format(path, format!("not a text in UTF-8: byte {position} is no part of a character; convert it to UTF-8"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Hands on few bytes at a time, as a pipe may.
    struct Slow<'a>(&'a [u8], usize);

    impl Read for Slow<'_> {
        fn read(&mut self, to: &mut [u8]) -> std::io::Result<usize> {
            let length = self.1.min(self.0.len()).min(to.len());
            to[..length].copy_from_slice(&self.0[..length]);
            self.0 = &self.0[length..];
            Ok(length)
        }
    }

    fn read(bytes: &[u8], at_once: usize) -> Result<String> {
        let mut text = String::new();
        TextReader::new(Box::new(Slow(bytes, at_once)), Path::new("a.txt"))?.read_to(&mut text, usize::MAX)?;
        Ok(text)
    }

    fn utf16(text: &str, bytes: fn(u16) -> [u8; 2]) -> Vec<u8> {
        text.encode_utf16().flat_map(bytes).collect()
    }

    fn utf32(text: &str, bytes: fn(u32) -> [u8; 4]) -> Vec<u8> {
        text.chars().flat_map(|c| bytes(c as u32)).collect()
    }

    #[test]
    fn a_mark_is_no_part_of_the_text() {
        let text = "größer\r\n世界 🎈\n\u{feff}inside";
        let marked = format!("\u{feff}{text}");
        for at_once in [1, 2, 3, 7, 1 << 20] {
            assert_eq!(read(text.as_bytes(), at_once).unwrap(), text);
            assert_eq!(read(marked.as_bytes(), at_once).unwrap(), text, "{at_once} bytes at once");
        }
        assert_eq!(decode(marked.as_bytes(), Path::new("a")).unwrap(), text);
        assert_eq!((read(b"", 1).unwrap(), decode(b"\xef\xbb\xbf", Path::new("a")).unwrap()), (String::new(), ""));
    }

    #[test]
    fn other_encodings_are_named() {
        let text = "Once upon a time, größer";
        for marked in [text.to_owned(), format!("\u{feff}{text}")] {
            for (bytes, says) in [
                (utf16(&marked, u16::to_le_bytes), "UTF-16 (little-endian"),
                (utf16(&marked, u16::to_be_bytes), "UTF-16 (big-endian"),
                (utf32(&marked, u32::to_le_bytes), "UTF-32 (little-endian"),
                (utf32(&marked, u32::to_be_bytes), "UTF-32 (big-endian"),
            ] {
                for error in [read(&bytes, 5).unwrap_err(), decode(&bytes, Path::new("a.txt")).unwrap_err()] {
                    let message = error.to_string();
                    assert!(message.contains(says) && message.contains("convert it to UTF-8"), "{message}");
                    assert_eq!(error.exit_code(), 3);
                }
            }
        }
        // Zeros alone are no other encoding.
        assert_eq!(read(b"a\0b and then much more text", 1).unwrap().len(), 27);
    }

    #[test]
    fn bytes_that_are_no_text_are_named_by_position() {
        for (bytes, position) in [(&b"sound \xff more"[..], 6), (b"\xef\xbb\xbfab\xc3(", 5), (b"ends with \xe4\xb8", 10)] {
            for error in [read(bytes, 2).unwrap_err(), decode(bytes, Path::new("a.txt")).unwrap_err()] {
                assert!(error.to_string().contains(&format!("a.txt: not a text in UTF-8: byte {position} ")), "{error}");
            }
        }
        let late = [&b"a".repeat(3 * READ)[..], b"\xff"].concat();
        assert!(read(&late, 1000).unwrap_err().to_string().contains(&format!("byte {} ", 3 * READ)));
    }

    /// No more is read than is asked for, but for what one read gives.
    #[test]
    fn a_part_of_a_text() {
        let bytes = b"abcdefgh".repeat(1 << 16);
        let mut slow = Slow(&bytes, 1000);
        let mut text = String::new();
        let ended = TextReader::new(Box::new(&mut slow), Path::new("a")).unwrap().read_to(&mut text, 10_000).unwrap();
        assert!(!ended && (10_000..12_000).contains(&text.len()) && bytes.starts_with(text.as_bytes()), "{}", text.len());
        assert!(bytes.len() - slow.0.len() < 13_000);
    }
}
