//! A student, or any model that was trained, and how that went.

use crate::made::made;
use crate::subject::Subject;
use thimble::report::{End, StageReport};
use thimble::runtime::{self, Model};

/// What students are trained on, and nothing else.
pub const TEXTS: [&str; 3] = ["tinystories/calib.txt", "prose", "redpajama-sample"];

#[allow(dead_code)] // not every benchmark asks how training went
pub struct Student {
    pub model: Model,
    /// Trained on.
    pub tokens: u64,
    /// Of all steps, what it wrote itself included; evaluations are not counted.
    pub seconds: f64,
    /// Whether training has stopped before its end.
    pub diverged: bool,
}

impl Student {
    pub fn make(subject: &Subject, recipe: &str) -> Self {
        let (dir, report) = made(subject, recipe);
        let stages: Vec<StageReport> = serde_json::from_value(report["stages"].clone()).unwrap();
        let (mut tokens, mut seconds, mut diverged) = (0, 0.0, false);
        for training in stages.iter().flat_map(|stage| &stage.training) {
            let step = training.lines[0].tokens;
            tokens += step * training.lines.len() as u64;
            seconds += training.lines.iter().map(|line| step as f64 / line.tokens_per_s).sum::<f64>();
            diverged |= training.end == End::Diverged;
        }
        Self { model: runtime::open(&dir, None).unwrap(), tokens, seconds, diverged }
    }
}
