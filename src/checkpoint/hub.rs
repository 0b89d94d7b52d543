//! The cache of Hugging Face's hub: `models--org--name` holds `refs/main`, which names a
//! commit, `snapshots/COMMIT` with a model's folder, and `blobs`, which the files there link
//! to.
//!
//! Source: huggingface_hub, "Understand caching".

use crate::error::{Error, Result};
use crate::input;
use crate::notice::warn_once;
use std::path::{Path, PathBuf};

const SNAPSHOTS: &str = "snapshots";

/// The folder of a model: that of the snapshot that `refs/main` names where the folder of a
/// whole repository is given, or the only snapshot; otherwise `dir` itself.
pub fn snapshot(dir: &Path) -> Result<PathBuf> {
    let all = dir.join(SNAPSHOTS);
    if !all.is_dir() || repository(dir).is_none() {
        return Ok(dir.to_owned());
    }
    let main = input::read_optional(&dir.join("refs/main"))?;
    let main = main.map(|name| String::from_utf8_lossy(&name).trim().to_owned()).filter(|name| !name.is_empty() && !name.contains('/'));
    if let Some(found) = main.as_ref().map(|name| all.join(name)).filter(|found| found.is_dir()) {
        return Ok(found);
    }
    let mut found = folders(&all);
    match (found.pop(), &found[..]) {
        (Some(only), []) => {
            if let Some(main) = main {
                warn_once(dir, format!("refs/main names snapshot {main}, which is not there; the only other one is opened"));
            }
            Ok(only)
        }
        (None, _) => {
            let wants = main.map_or(String::new(), |main| format!(", though refs/main names {main}"));
            Err(Error::format(dir, format!("a repository in the hub's cache without a snapshot{wants}: download it again")))
        }
        (Some(last), _) => {
            found.push(last);
            let names: Vec<_> =
                found.iter().filter_map(|path| path.file_name()).map(|name| format!("{SNAPSHOTS}/{}", name.display())).collect();
            Err(Error::format(dir, format!("a repository in the hub's cache with several snapshots: name one of {}", names.join(", "))))
        }
    }
}

/// `org/name`, where a path is a repository in the cache or a snapshot of one.
pub fn repository_name(path: &Path) -> Option<String> {
    repository(path).or_else(|| {
        let parent = path.parent()?;
        parent.file_name().filter(|name| *name == SNAPSHOTS).and_then(|_| repository(parent.parent()?))
    })
}

fn repository(path: &Path) -> Option<String> {
    // As in `.`, which has no name.
    let absolute = std::path::absolute(path).ok()?;
    Some(absolute.components().next_back()?.as_os_str().to_str()?.strip_prefix("models--")?.replace("--", "/"))
}

/// Folders in a folder that hold one of some files, by the alphabet.
pub fn folders_with(dir: &Path, files: &[&str]) -> Vec<PathBuf> {
    let mut found = folders(dir);
    found.retain(|folder| files.iter().any(|file| input::is_there(&folder.join(file))));
    found
}

fn folders(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut found: Vec<_> = entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect();
    found.sort();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn snapshots_are_known_by_their_repository() {
        let name = |path: &str| repository_name(Path::new(path));
        assert_eq!(name("/hub/models--org--name").as_deref(), Some("org/name"));
        assert_eq!(name("/hub/models--org--name/snapshots/0123").as_deref(), Some("org/name"));
        assert_eq!(name("/hub/models--gpt2/snapshots/0123").as_deref(), Some("gpt2"));
        assert_eq!((name("/models/name"), name("/hub/other/snapshots/0123")), (None, None));
    }

    #[test]
    fn the_main_snapshot_is_opened_or_the_only_one() {
        let hub = tempfile::tempdir().unwrap();
        let top = hub.path().join("models--org--name");
        let folder = |name: &str| {
            let path = top.join(name);
            std::fs::create_dir_all(&path).unwrap();
            path
        };
        folder("snapshots");
        let refused = |says: &str| {
            let error = snapshot(&top).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        };
        refused("without a snapshot");
        let a = folder("snapshots/aaaa");
        assert_eq!(snapshot(&top).unwrap(), a);
        assert_eq!(snapshot(&a).unwrap(), a);
        let b = folder("snapshots/bbbb");
        refused("snapshots/aaaa, snapshots/bbbb");
        folder("refs");
        std::fs::write(top.join("refs/main"), "bbbb\n").unwrap();
        assert_eq!(snapshot(&top).unwrap(), b);
    }
}
