//! Progress bars on standard error.

use crate::progress::Progress;
use indicatif::{ProgressBar, ProgressStyle};
use std::sync::Mutex;

/// One bar at a time.
#[derive(Default)]
pub struct Bars {
    current: Mutex<Option<ProgressBar>>,
}

impl Progress for Bars {
    fn begin(&self, what: &str, steps: u64) {
        self.end();
        let style = ProgressStyle::with_template("{msg:<34} {bar:32} {pos}/{len} {elapsed} (eta {eta})").expect("a valid template");
        let bar = ProgressBar::new(steps).with_style(style).with_message(what.to_owned());
        *self.current.lock().unwrap() = Some(bar);
    }

    fn advance(&self, steps: u64) {
        if let Some(bar) = &*self.current.lock().unwrap() {
            bar.inc(steps);
        }
    }

    fn end(&self) {
        if let Some(bar) = self.current.lock().unwrap().take() {
            bar.finish_and_clear();
        }
    }
}
