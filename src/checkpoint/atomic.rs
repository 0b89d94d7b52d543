//! Writing that never leaves a broken file: a sibling temporary file is
//! written, synced, and renamed over the target.

use super::lock::open_exclusive;
use crate::error::{Error, Result};
use std::cell::Cell;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

/// Writes `path` through `fill`; on any error nothing of it remains. What is there
/// and is no regular file (a pipe, a device) is written to and not replaced.
pub fn write_atomically(path: &Path, fill: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>) -> Result<()> {
    if std::fs::metadata(path).is_ok_and(|m| !m.is_file() && !m.is_dir()) {
        return write_through(path, fill).map_err(Error::io("write", path));
    }
    let part = part_of(path);
    // Locked, so that two processes that write one file do not mix their bytes.
    let Some(file) = open_exclusive(&part).map_err(Error::io("write", path))? else {
        return Err(Error::Busy { path: path.to_owned(), holder: "another process".into() });
    };
    let written = (|| {
        file.set_len(0)?;
        let mut writer = BufWriter::with_capacity(1 << 20, file);
        fill(&mut writer)?;
        writer.flush()?;
        if !UNSYNCED.get() {
            writer.get_ref().sync_all()?;
        }
        std::fs::rename(&part, path)
    })();
    written.map_err(|source| {
        // The reason to report is the first one; a leftover part is overwritten next time.
        let _ = std::fs::remove_file(&part);
        Error::Io { action: "write", path: path.to_owned(), source }
    })
}

/// Where a file is written before it takes its name.
pub fn part_of(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".part");
    path.with_file_name(name)
}

thread_local! {
    static UNSYNCED: Cell<bool> = const { Cell::new(false) };
}

/// Runs `write`, in which this thread's files do not wait for the disk. For files that are
/// made again sooner than a disk answers: a power failure may leave such a file empty.
pub fn without_sync<T>(write: impl FnOnce() -> T) -> T {
    let before = UNSYNCED.replace(true);
    let written = write();
    UNSYNCED.set(before);
    written
}

fn write_through(path: &Path, fill: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>) -> io::Result<()> {
    let mut writer = BufWriter::new(File::options().write(true).open(path)?);
    fill(&mut writer)?;
    writer.flush()
}
