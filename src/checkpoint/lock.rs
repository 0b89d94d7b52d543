//! Locks between processes. The kernel holds them, so that they end with the process, however
//! it ends: a file that a killed run has left blocks nobody.

use crate::error::{Error, Result};
use std::fs::{File, Metadata, TryLockError};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Opens or creates a file, without changing its content, and locks it. `None` where another
/// process holds the lock.
pub fn open_exclusive(path: &Path) -> io::Result<Option<File>> {
    loop {
        let file = File::options().read(true).write(true).create(true).truncate(false).open(path)?;
        match file.try_lock() {
            Ok(()) => (),
            Err(TryLockError::WouldBlock) => return Ok(None),
            // A file system without locks: two runs at once cannot be told there.
            Err(TryLockError::Error(e)) if e.kind() == ErrorKind::Unsupported => return Ok(Some(file)),
            Err(TryLockError::Error(e)) if has_no_locks(&e) => return Ok(Some(file)),
            Err(TryLockError::Error(e)) => return Err(e),
        }
        // Its last holder may have renamed or removed it after it was opened here.
        match std::fs::metadata(path) {
            Ok(there) if same_file(&there, &file.metadata()?) => return Ok(Some(file)),
            Err(e) if e.kind() != ErrorKind::NotFound => return Err(e),
            _ => (),
        }
    }
}

/// True for the error of a network file system without its lock service.
#[cfg(unix)]
fn has_no_locks(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::ENOLCK)
}

#[cfg(not(unix))]
fn has_no_locks(_: &io::Error) -> bool {
    false
}

#[cfg(unix)]
pub(super) fn same_file(a: &Metadata, b: &Metadata) -> bool {
    use std::os::unix::fs::MetadataExt;
    (a.dev(), a.ino()) == (b.dev(), b.ino())
}

/// Other systems do not rename or remove a file that is open.
#[cfg(not(unix))]
pub(super) fn same_file(_: &Metadata, _: &Metadata) -> bool {
    true
}

/// A folder that one run at a time writes to. The lock is a file in it, so that two names of
/// one folder have one lock.
pub struct FolderLock {
    file: PathBuf,
    /// The folder, where it was created for the lock.
    created: Option<PathBuf>,
    _held: File,
}

const LOCK: &str = ".thimble.lock";

impl FolderLock {
    /// Creates the folder where it is not there, and locks it. Fails with [`Error::Busy`] where
    /// another run holds it.
    pub fn take(dir: &Path) -> Result<Self> {
        let created = (!dir.exists()).then(|| dir.to_owned());
        let file = dir.join(LOCK);
        let held = loop {
            std::fs::create_dir_all(dir).map_err(Error::io("create", dir))?;
            match open_exclusive(&file) {
                Ok(held) => break held,
                // Another run has just ended, and removed the folder that it had created.
                Err(e) if e.kind() == ErrorKind::NotFound && !dir.exists() => (),
                Err(e) => return Err(Error::io("create", &file)(e)),
            }
        };
        let Some(mut held) = held else {
            let holder = Holder::read(&file).map_or_else(|| "another process".to_owned(), |holder| holder.to_string());
            return Err(Error::Busy { path: dir.to_owned(), holder });
        };
        // Only the message of others needs it.
        let _ = held.set_len(0).and_then(|()| held.write_all(Holder::this_process().line().as_bytes()));
        Ok(Self { file, created, _held: held })
    }
}

impl Drop for FolderLock {
    /// Removes the file while it is still locked, and the folder where it was created for
    /// nothing.
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.file);
        if let Some(dir) = &self.created {
            let _ = std::fs::remove_dir(dir);
        }
    }
}

/// The process that holds a lock, as its file says.
struct Holder {
    pid: u32,
    /// Seconds since 1970.
    since: u64,
    host: String,
}

impl Holder {
    fn this_process() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        Self { pid: std::process::id(), since, host: host() }
    }

    fn line(&self) -> String {
        format!("{} {} {}\n", self.pid, self.since, self.host)
    }

    fn read(file: &Path) -> Option<Self> {
        let text = std::fs::read_to_string(file).ok()?;
        let mut words = text.split_whitespace();
        let (pid, since) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        Some(Self { pid, since, host: words.next().unwrap_or_default().to_owned() })
    }
}

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(f, "process {}", self.pid)?;
        if self.host != host() {
            write!(f, " on {}", self.host)?;
        }
        let elapsed = (UNIX_EPOCH + Duration::from_secs(self.since)).elapsed().unwrap_or_default().as_secs();
        match elapsed {
            0..120 => write!(f, ", started {elapsed} s ago"),
            120..7200 => write!(f, ", started {} min ago", elapsed / 60),
            _ => write!(f, ", started {} h ago", elapsed / 3600),
        }
    }
}

/// Name of this machine; empty where the system does not say.
fn host() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_has_one_holder_under_all_its_names() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("out");
        let held = FolderLock::take(&out).unwrap();
        let link = dir.path().join("link");
        #[cfg(unix)]
        std::os::unix::fs::symlink(&out, &link).unwrap();
        for name in [&out, &out.join("../out"), &link] {
            let error = FolderLock::take(name).err().unwrap();
            assert!(matches!(&error, Error::Busy { holder, .. } if holder.contains(&format!("process {}", std::process::id()))), "{error}");
            assert_eq!(error.exit_code(), 4);
        }
        drop(held);
        assert!(!out.exists(), "a folder that was created for nothing is removed");
        std::fs::create_dir(&out).unwrap();
        // A lock file left by a killed run.
        std::fs::write(out.join(LOCK), "1 1 elsewhere\n").unwrap();
        drop(FolderLock::take(&out).unwrap());
        assert!(out.exists() && !out.join(LOCK).exists());
    }

    #[test]
    fn a_file_that_was_renamed_after_it_was_opened_is_not_locked() {
        let dir = tempfile::tempdir().unwrap();
        let [part, done] = ["part", "done"].map(|name| dir.path().join(name));
        let first = open_exclusive(&part).unwrap().unwrap();
        assert!(open_exclusive(&part).unwrap().is_none());
        std::fs::rename(&part, &done).unwrap();
        drop(first);
        open_exclusive(&part).unwrap().unwrap();
        assert!(part.exists() && done.exists());
    }
}
