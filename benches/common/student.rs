//! A student, or any model that was trained, and how that went.

use crate::made::made;
use crate::subject::Subject;
use tch::Kind;
use thimble::report::{End, StageReport};
use thimble::runtime::{self, Model};

/// What students are trained on, and nothing else.
pub const TEXTS: [&str; 3] = ["tinystories/calib.txt", "prose", "redpajama-sample"];

#[allow(dead_code)] // not every benchmark asks how training went
pub struct Student {
    pub model: Model,
    /// Trained on.
    pub tokens: u64,
    /// Whether training has stopped before its end.
    pub diverged: bool,
}

impl Student {
    /// Forwards are in `kind`.
    pub fn make(subject: &Subject, recipe: &str, kind: Kind) -> Self {
        let (dir, report) = made(subject, recipe, kind);
        let stages: Vec<StageReport> = serde_json::from_value(report["stages"].clone()).unwrap();
        let (mut tokens, mut diverged) = (0, false);
        for training in stages.iter().flat_map(|stage| &stage.training) {
            tokens += training.lines.last().map_or(0, |line| line.tokens);
            diverged |= training.end == End::Diverged;
        }
        Self { model: runtime::open(&dir, None).unwrap(), tokens, diverged }
    }
}
