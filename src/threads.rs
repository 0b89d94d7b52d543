//! Threads of this process, and what to say where the system grants none.

use crate::error::{Error, Result};
use std::io;
use std::sync::Mutex;
use std::thread::Builder;

/// Number of threads: as many as asked for, or one per core where that is 0.
pub fn count(asked: usize) -> usize {
    if asked == 0 { std::thread::available_parallelism().map_or(1, |cores| cores.get()) } else { asked }
}

/// Makes the pool that rayon uses everywhere, which otherwise panics where it is first used.
pub fn start_pool(count: usize) -> Result<()> {
    use std::error::Error as _;
    let Err(error) = rayon::ThreadPoolBuilder::new().num_threads(count).build_global() else { return Ok(()) };
    match error.source().and_then(|source| source.downcast_ref::<io::Error>()) {
        Some(error) => Err(refused(count, error)),
        // There is a pool already.
        None => Ok(()),
    }
}

/// Fails where the system does not grant `count` threads besides this one. To be asked before
/// libraries that end the process where they are refused one, as OpenMP's does.
pub fn expect(count: usize) -> Result<()> {
    let gate = Mutex::new(());
    let started = std::thread::scope(|scope| {
        // None ends before all have started.
        let _closed = gate.lock();
        (0..count).try_for_each(|_| Builder::new().spawn_scoped(scope, || drop(gate.lock())).map(drop))
    });
    started.map_err(|error| refused(count, &error))
}

/// The error of a machine that refuses one of `count` threads.
pub fn refused(count: usize, error: &io::Error) -> Error {
    Error::Environment(format!(
        "cannot start {count} threads: {error}; raise the limit (ulimit -u for threads, ulimit -v for memory), or set --threads to fewer"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_that_there_are_are_granted() {
        expect(0).unwrap();
        expect(4).unwrap();
        assert!(count(0) >= 1 && count(3) == 3);
    }
}
