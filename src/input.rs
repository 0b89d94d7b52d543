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

/// Bytes at the beginning of a file that tell its encoding.
pub const HEAD_BYTES: usize = 4096;

/// Byte-order marks of other encodings. UTF-32's come first: one begins as UTF-16's does.
const OTHER_MARKS: [(&[u8], &str); 4] = [
    (b"\xff\xfe\0\0", "UTF-32 (little-endian)"),
    (b"\0\0\xfe\xff", "UTF-32 (big-endian)"),
    (b"\xff\xfe", "UTF-16 (little-endian)"),
    (b"\xfe\xff", "UTF-16 (big-endian)"),
];

/// Length of the byte-order mark of UTF-8 that a text begins with, or 0. Fails where its first
/// [`HEAD_BYTES`] show that it is UTF-16 or UTF-32.
pub fn mark_len(text: &[u8], path: &Path) -> Result<usize> {
    let head = &text[..text.len().min(HEAD_BYTES)];
    let by_mark = OTHER_MARKS.iter().find(|(mark, _)| head.starts_with(mark)).map(|(_, encoding)| *encoding);
    match by_mark.or_else(|| unmarked(head)) {
        Some(encoding) => Err(Error::format(path, format!("this text is {encoding}: convert it to UTF-8 (iconv -t UTF-8)"))),
        None => Ok(if head.starts_with(b"\xef\xbb\xbf") { 3 } else { 0 }),
    }
}

/// UTF-16 and UTF-32 of mostly Latin text without a mark: zeros in the same places of every
/// character.
fn unmarked(head: &[u8]) -> Option<&'static str> {
    const ENCODINGS: [(usize, &[usize], &str); 4] = [
        (4, &[1, 2, 3], "UTF-32 (little-endian, without a byte-order mark)"),
        (4, &[0, 1, 2], "UTF-32 (big-endian, without a byte-order mark)"),
        (2, &[1], "UTF-16 (little-endian, without a byte-order mark)"),
        (2, &[0], "UTF-16 (big-endian, without a byte-order mark)"),
    ];
    let fits = |&&(width, zeros, _): &&(usize, &[usize], &str)| {
        let characters = head.len() / width;
        let are_zero = |character: &[u8]| (0..width).all(|at| (character[at] == 0) == zeros.contains(&at));
        characters >= 2 && head.chunks_exact(width).filter(|c| are_zero(c)).count() * 10 > characters * 7
    };
    ENCODINGS.iter().find(fits).map(|&(_, _, encoding)| encoding)
}

/// True if a folder has an entry of this name, be it a link whose target is gone. Where the
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
