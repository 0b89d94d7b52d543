//! Stopping a run, and going on.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use thimble::Error;
use thimble::compress::Compute;
use thimble::pipeline::{Options, Unfinished, compress};
use thimble::progress::{Progress, Unit};
use thimble::recipe::RawRecipe;
use thimble::runtime;

/// Stops a run after so many steps.
struct Stop(AtomicU64);

impl Progress for Stop {
    fn begin(&self, _what: &str, _steps: u64, _unit: Unit) {}
    fn advance(&self, steps: u64) {
        let left = self.0.load(Ordering::Relaxed);
        self.0.store(left.saturating_sub(steps), Ordering::Relaxed);
    }
    fn end(&self) {}
    fn is_interrupted(&self) -> bool {
        self.0.load(Ordering::Relaxed) == 0
    }
}

/// Runs a recipe that is stopped ever later, until it has ended; says how often it was.
pub fn run(recipe: &RawRecipe, model: &Path, out: &Path) -> u64 {
    let options = Options { out, compute: Compute::CPU, threads: 0, unfinished: Unfinished::Resume };
    let mut stops = 0;
    while let Err(error) = compress(recipe, runtime::open(model, None).unwrap(), &options, &Stop(AtomicU64::new(2 + 7 * stops))) {
        assert!(matches!(error, Error::Interrupted), "{error}");
        stops += 1;
    }
    stops
}
