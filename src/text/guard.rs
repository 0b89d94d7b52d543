//! The tokenizers crate panics on some files that it should refuse (its decoders
//! unwrap what they parse). Such a file is bad input like any other.

use crate::error::{Error, Result};
use std::cell::Cell;
use std::panic::{self, AssertUnwindSafe};
use std::path::Path;
use std::sync::Once;

thread_local! {
    static GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// Calls into the crate; `what` was tried with the file `path`. Panics become
/// errors, and are not printed.
pub fn guard<T>(path: &Path, what: &str, call: impl FnOnce() -> tokenizers::Result<T>) -> Result<T> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if !GUARDED.get() {
                before(info)
            }
        }));
    });
    GUARDED.set(true);
    let outcome = panic::catch_unwind(AssertUnwindSafe(call));
    GUARDED.set(false);
    match outcome {
        Ok(done) => done.map_err(|e| Error::format(path, format!("{what}: {e}"))),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
            Err(Error::format(path, format!("{what}: {}", text.unwrap_or("the tokenizers library gave up"))))
        }
    }
}
