//! Which files were found sound: a list in the user's cache folder, so that a file is hashed
//! when it is opened for the first time and not each time.
//!
//! `$XDG_CACHE_HOME/thimble/verified`, or `~/.cache/thimble/verified`, has a line for each:
//! device, inode, size, and time of its last change in nanoseconds. Where the list cannot be
//! read or written, files are hashed each time.

use std::fs::{File, Metadata};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

/// Length from which the list is begun anew: about a thousand files.
const MAX_BYTES: u64 = 64 << 10;
/// A file that was changed so little ago may change again at what the file system takes for the
/// same time; it is not remembered.
const SETTLED: Duration = Duration::from_secs(2);

/// The list.
pub struct Verified {
    list: PathBuf,
}

impl Verified {
    /// The user's; `None` where there is no such folder.
    pub fn of_user() -> Option<Self> {
        let folder = |variable: &str| std::env::var_os(variable).map(PathBuf::from).filter(|path| path.is_absolute());
        let cache = folder("XDG_CACHE_HOME").or_else(|| folder("HOME").map(|home| home.join(".cache")))?;
        Some(Self { list: cache.join("thimble/verified") })
    }

    /// True if the list has the file in its present state.
    pub fn holds(&self, path: &Path) -> bool {
        let line = std::fs::metadata(path).ok().and_then(|metadata| line(&metadata));
        line.is_some_and(|line| std::fs::read_to_string(&self.list).is_ok_and(|list| list.lines().any(|known| known == line)))
    }

    /// Adds a file; where that fails nothing is lost.
    pub fn add(&self, path: &Path) {
        let Ok(metadata) = std::fs::metadata(path) else { return };
        let settled = metadata.modified().ok().and_then(|time| time.elapsed().ok()).is_some_and(|age| age >= SETTLED);
        let Some(line) = line(&metadata).filter(|_| settled) else { return };
        let _ = self.append(&line);
    }

    fn append(&self, line: &str) -> std::io::Result<()> {
        std::fs::create_dir_all(self.list.parent().expect("a file in a folder"))?;
        let mut list = File::options().create(true).append(true).open(&self.list)?;
        if list.metadata()?.len() > MAX_BYTES {
            list.set_len(0)?;
        }
        // In one piece, so that two processes do not mix their lines.
        list.write_all(format!("{line}\n").as_bytes())
    }
}

#[cfg(unix)]
fn line(metadata: &Metadata) -> Option<String> {
    use std::os::unix::fs::MetadataExt;
    let modified = metadata.modified().ok()?.duration_since(UNIX_EPOCH).ok()?.as_nanos();
    Some(format!("{} {} {} {modified}", metadata.dev(), metadata.ino(), metadata.len()))
}

/// Without inodes files cannot be told apart.
#[cfg(not(unix))]
fn line(_: &Metadata) -> Option<String> {
    None
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_known_until_it_changes() {
        let dir = tempfile::tempdir().unwrap();
        let verified = Verified { list: dir.path().join("cache/verified") };
        let path = dir.path().join("model");
        std::fs::write(&path, "content").unwrap();
        verified.add(&path);
        assert!(!verified.holds(&path), "changed just now");
        let set_age = |seconds| {
            let time = std::time::SystemTime::now() - Duration::from_secs(seconds);
            File::options().write(true).open(&path).unwrap().set_modified(time).unwrap();
        };
        set_age(100);
        verified.add(&path);
        assert!(verified.holds(&path));
        set_age(50);
        assert!(!verified.holds(&path), "changed since");
        std::fs::write(&verified.list, vec![b'x'; MAX_BYTES as usize + 1]).unwrap();
        verified.add(&path);
        assert!(verified.holds(&path) && std::fs::metadata(&verified.list).unwrap().len() < 100, "a list that is too long is begun anew");
    }
}
