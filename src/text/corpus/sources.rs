//! Which files a corpus is made of, and of what kind each is.

use crate::checkpoint::Bytes;
use crate::error::{Error, Result};
use std::path::{Path, PathBuf};

/// How documents lie in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The whole file is a text.
    Text,
    /// A JSON object a line.
    Lines,
    /// Token ids in a safetensors file.
    Tensor,
    /// Token ids of two bytes each, and nothing else.
    Raw,
}

/// A file of a corpus.
#[derive(Debug, PartialEq, Eq)]
pub struct Source {
    /// The file.
    pub path: PathBuf,
    /// What its name says that it is.
    pub kind: Kind,
}

impl Source {
    fn new(path: PathBuf) -> Self {
        let ending = path.extension().unwrap_or_default().to_ascii_lowercase();
        let kind = match ending.to_str() {
            Some("jsonl") => Kind::Lines,
            Some("safetensors") => Kind::Tensor,
            Some("bin") => Kind::Raw,
            _ => Kind::Text,
        };
        Self { path, kind }
    }

    /// Its bytes. They are mapped anew each time: there may be more files than a
    /// process may have maps.
    pub fn content(&self) -> Result<Bytes> {
        let bytes = Bytes::map(&self.path)?;
        if bytes.is_empty() {
            return Err(Error::format(&self.path, "is empty: leave it out of the corpus"));
        }
        Ok(bytes)
    }
}

/// The files that paths stand for, in the order of the paths, but for `cache`.
pub fn find(paths: &[PathBuf], cache: &Path) -> Result<Vec<Source>> {
    let real = |path: &Path| path.canonicalize().ok();
    let cache = real(cache);
    let is_cache = |path: &Path| cache.is_some() && real(path) == cache;
    let mut found = Vec::new();
    for path in paths {
        if path.is_dir() {
            let mut files = files(path)?;
            files.retain(|file| !is_cache(file));
            if files.is_empty() {
                return Err(Error::format(path, "holds no file to train on (those in folders of its own are not read)"));
            }
            found.extend(files);
        } else if is_cache(path) {
            return Err(Error::format(path, "is to be the corpus's cache and is a source of it: name another file for the cache"));
        } else {
            found.push(path.clone());
        }
    }
    if found.is_empty() {
        return Err(Error::Usage("a corpus needs a file at least".into()));
    }
    Ok(found.into_iter().map(Source::new).collect())
}

/// The files in a folder by their names, but for hidden ones.
fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(folder).map_err(Error::io("read", folder))?;
    let entries = entries.map(|entry| Ok(entry.map_err(Error::io("read", folder))?.path())).collect::<Result<Vec<_>>>()?;
    let hidden = |path: &PathBuf| path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
    let mut files: Vec<_> = entries.into_iter().filter(|path| !path.is_dir() && !hidden(path)).collect();
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_stands_for_its_files() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for name in ["b.txt", "a.JSONL", ".hidden", "d.bin", "cache.safetensors", "c.safetensors"] {
            std::fs::write(at(name), "x").unwrap();
        }
        std::fs::create_dir(at("inner")).unwrap();
        std::fs::write(at("inner/e.txt"), "x").unwrap();

        let found = find(&[at("inner/e.txt"), dir.path().to_owned()], &at("cache.safetensors")).unwrap();
        let expected = [
            ("inner/e.txt", Kind::Text),
            ("a.JSONL", Kind::Lines),
            ("b.txt", Kind::Text),
            ("c.safetensors", Kind::Tensor),
            ("d.bin", Kind::Raw),
        ];
        assert_eq!(found, expected.map(|(name, kind)| Source { path: at(name), kind }));

        std::fs::create_dir(at("empty")).unwrap();
        for (paths, word) in [(vec![at("empty")], "no file"), (vec![], "needs a file"), (vec![at("cache.safetensors")], "another file")] {
            let error = find(&paths, &at("cache.safetensors")).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
    }
}
