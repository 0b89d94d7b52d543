//! Reading a user's files. Two things lie in folders in place of a file: the pointer that Git
//! LFS leaves where the file was not downloaded, and a link whose target is gone. Both are
//! found here, for every file that is read or mapped, and are errors of their own.

use crate::error::{Error, Result};
use std::io::ErrorKind;
use std::path::Path;

/// First line of a pointer, now and before version 1.
///
/// Source: git-lfs, `docs/spec.md`.
const POINTERS: [&[u8]; 2] = [b"version https://git-lfs.github.com/spec/", b"version https://hawser.github.com/spec/"];
/// A pointer is smaller, by the specification.
const MAX_POINTER_BYTES: usize = 1024;

/// The bytes of a file.
pub fn read(path: &Path) -> Result<Vec<u8>> {
    let bytes = std::fs::read(path).map_err(|e| not_read(path, e))?;
    check(&bytes, path)?;
    Ok(bytes)
}

/// The bytes of a file; `None` where there is none.
pub fn read_optional(path: &Path) -> Result<Option<Vec<u8>>> {
    if is_there(path) { read(path).map(Some) } else { Ok(None) }
}

/// A file of text in UTF-8, without its byte-order mark.
pub fn read_text(path: &Path) -> Result<String> {
    let bytes = read(path)?;
    let text = std::str::from_utf8(without_mark(&bytes, path)?);
    let invalid = |_| std::io::Error::new(ErrorKind::InvalidData, "stream did not contain valid UTF-8");
    text.map(str::to_owned).map_err(|e| Error::io("read", path)(invalid(e)))
}

/// The bytes of a text behind the byte-order mark of UTF-8, if it has one; fails on the marks
/// of UTF-16 and UTF-32.
pub fn without_mark<'a>(bytes: &'a [u8], path: &Path) -> Result<&'a [u8]> {
    if bytes.starts_with(b"\xff\xfe") || bytes.starts_with(b"\xfe\xff") {
        return Err(Error::format(path, UTF_16));
    }
    Ok(bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes))
}

/// What is said of a text in another encoding.
pub const UTF_16: &str = "is in UTF-16 or UTF-32, and texts are read in UTF-8: convert it (iconv -f UTF-16 -t UTF-8)";

/// Whether a folder has an entry of this name, be it a link whose target is gone. Where the
/// folder may not be read it may have one: reading it then says what is wrong.
pub fn is_there(path: &Path) -> bool {
    path.symlink_metadata().map_or_else(|e| e.kind() == ErrorKind::PermissionDenied, |_| true)
}

/// Fails where the bytes of a file are a Git LFS pointer.
pub fn check(bytes: &[u8], path: &Path) -> Result<()> {
    if bytes.len() >= MAX_POINTER_BYTES || !POINTERS.iter().any(|start| bytes.starts_with(start)) {
        return Ok(());
    }
    let text = String::from_utf8_lossy(bytes);
    let size = text.lines().find_map(|line| line.strip_prefix("size ")?.trim().parse().ok());
    Err(Error::LfsPointer { path: path.to_owned(), size })
}

/// The error for a file that could not be opened.
pub fn not_read(path: &Path, source: std::io::Error) -> Error {
    match std::fs::read_link(path) {
        Ok(target) if source.kind() == ErrorKind::NotFound => Error::DanglingLink { path: path.to_owned(), target },
        _ => Error::io("read", path)(source),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_no_part_of_a_text() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("text.txt");
        let read = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            read_text(&path).map_err(|e| e.to_string())
        };
        assert_eq!(read(b"\xef\xbb\xbfw5 \xef\xbb\xbf").unwrap(), "w5 \u{feff}");
        assert!(read(b"\xff\xfew\x005\x00").unwrap_err().contains("UTF-16") && read(b"\xff").unwrap_err().contains("UTF-8"));
    }

    #[test]
    fn pointers_are_told_from_files_that_begin_alike() {
        let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 2471645608\n".to_vec();
        let path = Path::new("model.safetensors");
        match check(&pointer, path) {
            Err(Error::LfsPointer { size: Some(2_471_645_608), .. }) => (),
            other => panic!("{other:?}"),
        }
        assert!(matches!(check(b"version https://git-lfs.github.com/spec/v1\n", path), Err(Error::LfsPointer { size: None, .. })));
        // A text about pointers is longer than one.
        assert!(check(&[&pointer[..], &[b'x'; 1024]].concat(), path).is_ok());
        assert!(check(b"version 2\n", path).is_ok() && check(b"", path).is_ok());
    }
}
