//! Libraries that end the process themselves, as OpenMP's does with exit code 1 where the system
//! refuses it a thread: the program's exit codes mean something else.

use crate::error::ENVIRONMENT;
use std::sync::atomic::{AtomicBool, Ordering};

static WATCHED: AtomicBool = AtomicBool::new(false);

/// Until [`release`] is called, an `exit` of a library ends the process with a message and exit
/// code 4. For programs.
pub fn watch() {
    if WATCHED.swap(true, Ordering::Relaxed) {
        return;
    }
    #[cfg(unix)]
    // SAFETY: no handler runs: a file that would outgrow its limit (ulimit -f) is then an error of
    // the write.
    let _ = unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
    #[cfg(unix)]
    // SAFETY: the handler is a function without arguments that lives as long as the program.
    // Where it cannot be registered the exit code is the library's.
    let _ = unsafe { libc::atexit(ended) };
}

/// From here on the program ends by itself, with an exit code of its own.
pub fn release() {
    WATCHED.store(false, Ordering::Relaxed);
}

#[cfg(unix)]
extern "C" fn ended() {
    if !WATCHED.load(Ordering::Relaxed) {
        return;
    }
    let message = b"\nerror: a library has ended the process (see above), most likely for lack of threads or memory\n\
        hint: raise the limit (ulimit -u for threads, ulimit -v for memory), or set --threads to fewer; what was written before is sound\n";
    // SAFETY: pointer and length are of one slice; `_exit` ends the process and runs nothing more.
    unsafe {
        let _ = libc::write(libc::STDERR_FILENO, message.as_ptr().cast(), message.len());
        libc::_exit(ENVIRONMENT.into())
    }
}
