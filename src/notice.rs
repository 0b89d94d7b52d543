//! Warnings that one process says once: a folder is opened several times in a run.

use std::collections::BTreeSet;
use std::sync::Mutex;

/// Warns, unless the same has been said.
pub fn warn_once(message: String) {
    static SAID: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    if SAID.lock().expect("no panic while it is held").insert(message.clone()) {
        tracing::warn!("{message}");
    }
}
