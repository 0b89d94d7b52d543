//! Warnings that one process says once: a folder is opened several times in a run.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Mutex;

/// Warns of something in a file, unless the same has been said, be it of another file: of a model and what is written from it.
pub fn warn_once(path: &Path, message: String) {
    static SAID: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    if SAID.lock().expect("no panic while it is held").insert(message.clone()) {
        tracing::warn!("{}: {message}", path.display());
    }
}
