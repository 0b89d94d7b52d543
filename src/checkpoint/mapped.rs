//! Mapped files, and what happens when another program truncates or rewrites one meanwhile.
//!
//! The pages of a map show the file as it is now. Behind the end of a truncated file there are
//! none, and a read faults with SIGBUS: [`exit_on_truncated_maps`] turns the fault into a
//! message and an exit code. A file that is written over in place faults nowhere and gives
//! other numbers: [`check_unchanged`] finds it by its size and time. A file that is replaced by
//! renaming another over it stays as it was mapped.

use super::lock::same_file;
use crate::error::{Error, Result};
use memmap2::Mmap;
use std::collections::BTreeMap;
use std::fs::Metadata;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// The files that are mapped now, by the address of their map.
static MAPPED: Mutex<BTreeMap<usize, Mapped>> = Mutex::new(BTreeMap::new());

/// A file as it was when it was mapped.
#[derive(Clone)]
struct Mapped {
    path: PathBuf,
    metadata: Metadata,
}

/// A map of a whole file.
pub(super) struct Map {
    map: Mmap,
    #[cfg(unix)]
    watched: Option<signal::Watched>,
}

impl Map {
    /// Maps a file. Pages are read when they are touched.
    pub fn new(path: &Path) -> Result<Self> {
        let file = std::fs::File::open(path).map_err(Error::io("read", path))?;
        let metadata = file.metadata().map_err(Error::io("read", path))?;
        // SAFETY: the map is private and read-only. Another process that writes to the file
        // while it is mapped is what this module watches for; numbers are plain data, of which
        // every bit pattern is valid.
        let map = unsafe { Mmap::map(&file) }.map_err(Error::io("read", path))?;
        if !map.is_empty() {
            let mapped = Mapped { path: path.to_owned(), metadata };
            MAPPED.lock().unwrap_or_else(|e| e.into_inner()).insert(map.as_ptr() as usize, mapped);
        }
        Ok(Self {
            #[cfg(unix)]
            watched: (!map.is_empty()).then(|| signal::Watched::new(map.as_ptr() as usize, map.len(), path)),
            map,
        })
    }
}

impl AsRef<[u8]> for Map {
    fn as_ref(&self) -> &[u8] {
        &self.map
    }
}

impl Drop for Map {
    /// Forgets the map before it is unmapped: the address may then be another's.
    fn drop(&mut self) {
        if !self.map.is_empty() {
            MAPPED.lock().unwrap_or_else(|e| e.into_inner()).remove(&(self.map.as_ptr() as usize));
        }
        #[cfg(unix)]
        drop(self.watched.take());
    }
}

/// Fails where a file that is mapped now was written to since: what was computed from it is of
/// no model. Asks the system for size and time of each file, and reads none.
pub fn check_unchanged() -> Result<()> {
    let mapped: Vec<Mapped> = MAPPED.lock().unwrap_or_else(|e| e.into_inner()).values().cloned().collect();
    for Mapped { path, metadata } in mapped {
        // Another file of that name, or none: the one that is mapped is untouched by it.
        let Ok(now) = std::fs::metadata(&path) else { continue };
        if same_file(&now, &metadata) && (now.len() != metadata.len() || now.modified().ok() != metadata.modified().ok()) {
            return Err(Error::format(&path, "was written to while it was being read, so that no result can be trusted"));
        }
    }
    Ok(())
}

/// Makes a read behind the end of a mapped file that was truncated end this process with a
/// message and exit code 3, and not with SIGBUS. For programs: it changes how the whole
/// process handles the signal. Other faults are handled as before.
pub fn exit_on_truncated_maps() {
    #[cfg(unix)]
    signal::install();
}

/// List of mapped ranges that the signal handler reads, without locks or allocation.
#[cfg(unix)]
mod signal {
    use std::ffi::{c_int, c_void};
    use std::os::unix::ffi::OsStrExt;
    use std::path::Path;
    use std::ptr::{null, null_mut};
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering};

    /// Exit code of bad input.
    const BAD_INPUT: c_int = 3;

    /// Address range of a map, and the name of its file. Entries form a list that only grows,
    /// and are reused.
    struct Entry {
        /// 0 in an entry that is free.
        start: AtomicUsize,
        end: AtomicUsize,
        name: AtomicPtr<Box<[u8]>>,
        next: Option<&'static Entry>,
    }

    static FIRST: AtomicPtr<Entry> = AtomicPtr::new(null_mut());
    /// Held while the list is changed.
    static CHANGE: Mutex<()> = Mutex::new(());

    fn entries() -> impl Iterator<Item = &'static Entry> {
        // SAFETY: null, or an entry that was leaked and is never freed.
        let first = unsafe { FIRST.load(Ordering::Acquire).as_ref() };
        std::iter::successors(first, |entry| entry.next)
    }

    /// A map in the list, for as long as this value lives.
    pub struct Watched(&'static Entry);

    impl Watched {
        pub fn new(start: usize, len: usize, path: &Path) -> Self {
            let _changing = CHANGE.lock().unwrap_or_else(|e| e.into_inner());
            let entry = entries().find(|entry| entry.start.load(Ordering::Relaxed) == 0).unwrap_or_else(|| {
                let next = entries().next();
                let entry: &'static Entry =
                    Box::leak(Box::new(Entry { start: 0.into(), end: 0.into(), name: AtomicPtr::new(null_mut()), next }));
                FIRST.store(std::ptr::from_ref(entry).cast_mut(), Ordering::Release);
                entry
            });
            let name: Box<[u8]> = path.as_os_str().as_bytes().into();
            entry.name.store(Box::into_raw(Box::new(name)), Ordering::Relaxed);
            entry.end.store(start + len, Ordering::Relaxed);
            entry.start.store(start, Ordering::Release);
            Self(entry)
        }
    }

    impl Drop for Watched {
        fn drop(&mut self) {
            let _changing = CHANGE.lock().unwrap_or_else(|e| e.into_inner());
            self.0.start.store(0, Ordering::Release);
            let name = self.0.name.swap(null_mut(), Ordering::AcqRel);
            // SAFETY: it came from `Box::into_raw` and is taken out of the entry once. A handler
            // reads the name of a map that a thread is reading from, which is not this one: it
            // is about to be unmapped.
            drop(unsafe { Box::from_raw(name) });
        }
    }

    /// Earlier handler of the signal.
    static BEFORE: AtomicPtr<libc::sigaction> = AtomicPtr::new(null_mut());

    pub fn install() {
        // SAFETY: all zeros is a valid sigaction; both pointers are to values that live through
        // the call.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = on_fault as extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void) as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
            libc::sigemptyset(&mut action.sa_mask);
            let mut before: libc::sigaction = std::mem::zeroed();
            if libc::sigaction(libc::SIGBUS, null(), &mut before) == 0 && BEFORE.load(Ordering::Relaxed).is_null() {
                BEFORE.store(Box::into_raw(Box::new(before)), Ordering::Release);
                libc::sigaction(libc::SIGBUS, &action, null_mut());
            }
        }
    }

    /// True once a thread writes the message.
    static FAULTED: AtomicBool = AtomicBool::new(false);

    /// Calls only what a signal handler may: `write`, `pause`, `_exit` and `sigaction`.
    extern "C" fn on_fault(_signal: c_int, info: *mut libc::siginfo_t, _context: *mut c_void) {
        // SAFETY: the kernel passes a valid siginfo_t to a handler with SA_SIGINFO.
        let address = unsafe { (*info).si_addr() } as usize;
        for entry in entries() {
            let start = entry.start.load(Ordering::Acquire);
            if start == 0 || !(start..entry.end.load(Ordering::Relaxed)).contains(&address) {
                continue;
            }
            // Of several threads that fault, one writes and ends the process.
            if FAULTED.swap(true, Ordering::Relaxed) {
                loop {
                    // SAFETY: it only waits.
                    let _ = unsafe { libc::pause() };
                }
            }
            // SAFETY: the thread of this handler is reading from the map, so that its entry and
            // name live.
            let name: &[u8] = unsafe { entry.name.load(Ordering::Relaxed).as_ref() }.map_or(b"a mapped file", |name| name);
            let why = b": cannot be read any more: it was truncated while it was being read, or its disk failed\nhint: write a model under another name and rename it, or wait until nobody reads it\n";
            for part in [b"\nerror: ", name, why] {
                // SAFETY: pointer and length are of one slice. That nobody may listen is no matter.
                let _ = unsafe { libc::write(libc::STDERR_FILENO, part.as_ptr().cast(), part.len()) };
            }
            // SAFETY: it ends the process and runs nothing more of it.
            unsafe { libc::_exit(BAD_INPUT) }
        }
        // SAFETY: a valid sigaction that was leaked. The read is tried again when this handler
        // returns, and faults under the earlier handler.
        unsafe { libc::sigaction(libc::SIGBUS, BEFORE.load(Ordering::Acquire), null_mut()) };
    }
}

#[cfg(test)]
mod tests {
    use super::super::Bytes;
    use super::*;

    fn changed(path: &Path) -> bool {
        match check_unchanged() {
            // Other tests have files of their own.
            Err(error) => error.to_string().contains(&*path.to_string_lossy()),
            Ok(()) => false,
        }
    }

    #[test]
    fn a_file_that_is_written_over_in_place_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("weights");
        std::fs::write(&path, [1; 100]).unwrap();
        let map = Bytes::map(&path).unwrap();
        assert!(!changed(&path));
        std::thread::sleep(std::time::Duration::from_millis(20));
        std::fs::write(&path, [2; 100]).unwrap();
        assert!(changed(&path));
        drop(map);
        assert!(!changed(&path), "nobody reads it any more");
    }

    #[test]
    fn a_file_that_is_replaced_or_removed_stays_as_it_was_mapped() {
        let dir = tempfile::tempdir().unwrap();
        let [path, other] = ["weights", "other"].map(|name| dir.path().join(name));
        std::fs::write(&path, [1; 100]).unwrap();
        let map = Bytes::map(&path).unwrap();
        std::fs::write(&other, [2; 50]).unwrap();
        std::fs::rename(&other, &path).unwrap();
        assert!(!changed(&path) && *map == [1; 100]);
        std::fs::remove_file(&path).unwrap();
        assert!(!changed(&path) && *map == [1; 100]);
    }
}
