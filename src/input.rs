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

/// A file of text in UTF-8.
pub fn read_text(path: &Path) -> Result<String> {
    let invalid = |_| std::io::Error::new(ErrorKind::InvalidData, "stream did not contain valid UTF-8");
    String::from_utf8(read(path)?).map_err(|e| Error::io("read", path)(invalid(e)))
}

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
