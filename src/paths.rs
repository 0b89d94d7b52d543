//! Paths as users name them: in JSON, and outputs that would replace an input.

use crate::error::{Error, Result};
use serde::Serializer;
use std::path::{Path, PathBuf};

/// A path as text, for JSON, which holds nothing but UTF-8: other bytes become `U+FFFD`.
pub fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// [`text`] of each path, for `serialize_with`.
pub fn texts<S: Serializer>(paths: &[PathBuf], serializer: S) -> std::result::Result<S::Ok, S::Error> {
    serializer.collect_seq(paths.iter().map(|path| path.to_string_lossy()))
}

/// Files that a command reads, none of which its outputs may replace.
#[derive(Default)]
pub struct Inputs(Vec<Input>);

struct Input {
    /// Role of the file for the command, such as `--text`.
    what: String,
    path: PathBuf,
}

impl Inputs {
    /// Adds a file, or the files of a folder. One that is not there is added too: it may be an
    /// output's name.
    pub fn add(&mut self, what: &str, path: &Path) {
        let path = real(path);
        let entries = std::fs::read_dir(&path).into_iter().flatten().flatten();
        self.0.extend(entries.map(|entry| Input { what: what.to_owned(), path: entry.path() }));
        self.0.push(Input { what: what.to_owned(), path });
    }

    /// Adds several files.
    pub fn add_all<P: AsRef<Path>>(&mut self, what: &str, paths: impl IntoIterator<Item = P>) {
        paths.into_iter().for_each(|path| self.add(what, path.as_ref()));
    }

    /// Fails where a file is one of these, under whatever name.
    pub fn refuse_file(&self, option: &str, out: &Path) -> Result<()> {
        let out_is = real(out);
        match self.0.iter().find(|input| input.path == out_is) {
            Some(input) => Err(refused(option, out, input)),
            None => Ok(()),
        }
    }

    /// Fails where one of these lies in a folder under a name that is `written` to there.
    pub fn refuse_in_folder(&self, option: &str, folder: &Path, written: impl Fn(&str) -> bool) -> Result<()> {
        let folder_is = real(folder);
        let is_written = |input: &&Input| {
            let Ok(inside) = input.path.strip_prefix(&folder_is) else { return false };
            let first = inside.components().next().map(|first| first.as_os_str().to_string_lossy().into_owned());
            first.is_some_and(|first| written(&first))
        };
        match self.0.iter().find(is_written) {
            Some(input) => Err(refused(option, &input.path, input)),
            None => Ok(()),
        }
    }
}

fn refused(option: &str, out: &Path, input: &Input) -> Error {
    Error::Usage(format!("{option}: {} would be overwritten, and is an input ({}): choose another {option}", out.display(), input.what))
}

/// The path without links and dots. Where the file is not there yet, that of its folder, and its
/// name.
fn real(path: &Path) -> PathBuf {
    let absolute = || std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    path.canonicalize().unwrap_or_else(|_| {
        let path = absolute();
        match (path.parent().and_then(|folder| folder.canonicalize().ok()), path.file_name()) {
            (Some(folder), Some(name)) => folder.join(name),
            _ => path,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(unix)]
    #[test]
    fn an_input_is_known_under_other_names() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::create_dir(at("inner")).unwrap();
        std::fs::write(at("text"), "").unwrap();
        std::os::unix::fs::symlink(at("text"), at("inner/link")).unwrap();
        std::os::unix::fs::symlink(at("inner"), at("also")).unwrap();
        let mut inputs = Inputs::default();
        inputs.add("--text", &at("text"));
        for same in ["text", "inner/../text", "inner/link", "also/link"] {
            let error = inputs.refuse_file("--out", &at(same)).unwrap_err();
            assert!(error.exit_code() == 2 && error.to_string().contains("--text"), "{error}");
        }
        inputs.refuse_file("--out", &at("inner/text")).unwrap();
        inputs.refuse_file("--out", &at("absent/text")).unwrap();
        assert!(inputs.refuse_in_folder("--out", &at("inner/.."), |name| name == "text").is_err());
        inputs.refuse_in_folder("--out", dir.path(), |name| name == "model").unwrap();
        inputs.refuse_in_folder("--out", &at("inner"), |_| true).unwrap();
    }

    #[cfg(unix)]
    #[test]
    fn paths_that_are_not_utf8_are_printed() {
        use std::os::unix::ffi::OsStrExt;
        let path = Path::new(std::ffi::OsStr::from_bytes(b"a\xff"));
        assert_eq!(text(path), "a\u{fffd}");
    }
}
