//! Progress bars on standard error, and Ctrl-C.

use crate::progress::Progress;
use indicatif::{ProgressBar, ProgressStyle};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

/// One bar at a time.
#[derive(Default)]
pub struct Bars {
    current: Mutex<Option<Bar>>,
    interrupted: Arc<AtomicBool>,
}

struct Bar {
    bar: ProgressBar,
    what: String,
}

#[cfg(feature = "torch")]
impl Bars {
    /// Ctrl-C, or a request to terminate, becomes a wish to stop; a second one stops at
    /// once.
    pub fn heeding_interrupts() -> Self {
        let bars = Self::default();
        let interrupted = bars.interrupted.clone();
        // Without a handler it stops at once, which loses little.
        let _ = ctrlc::set_handler(move || {
            if interrupted.swap(true, Ordering::Relaxed) {
                crate::exit::release();
                std::process::exit(crate::Error::Interrupted.exit_code().into());
            }
            eprintln!("stopping where nothing is lost; once more stops at once");
        });
        bars
    }
}

impl Progress for Bars {
    fn begin(&self, what: &str, steps: u64) {
        self.end();
        let style =
            ProgressStyle::with_template("{msg:<34} {bar:32} {pos}/{len} {per_sec} {elapsed} (eta {eta})").expect("a valid template");
        let bar = ProgressBar::new(steps).with_style(style).with_message(what.to_owned());
        *self.current.lock().unwrap() = Some(Bar { bar, what: what.to_owned() });
    }

    fn advance(&self, steps: u64) {
        if let Some(Bar { bar, .. }) = &*self.current.lock().unwrap() {
            bar.inc(steps);
        }
    }

    fn tell(&self, how: &str) {
        if let Some(Bar { bar, what }) = &*self.current.lock().unwrap() {
            bar.set_message(format!("{what}: {how}"));
        }
    }

    fn is_interrupted(&self) -> bool {
        self.interrupted.load(Ordering::Relaxed)
    }

    fn end(&self) {
        if let Some(Bar { bar, .. }) = self.current.lock().unwrap().take() {
            bar.finish_and_clear();
        }
    }
}
