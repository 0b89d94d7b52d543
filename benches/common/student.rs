//! A student as our pipeline makes it.
//!
//! What it makes is kept in the build folder under a hash of the recipe, the model and
//! our version, so that a row is trained once, and one that was interrupted goes on.
//! To make all again, delete its folder: see [`crate::kept`].

use crate::kept;
use crate::subject::Subject;
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};
use thimble::compress::Compute;
use thimble::pipeline::{Options, Unfinished, compress};
use thimble::progress::Silent;
use thimble::recipe::RawRecipe;
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
        let dir = kept().join(key(subject, recipe));
        // It is written last.
        let report = dir.join("report.json");
        if !report.exists() {
            run(subject, recipe, &dir);
        }
        let report: Value = serde_json::from_slice(&std::fs::read(report).unwrap()).unwrap();
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

fn run(subject: &Subject, recipe: &str, out: &Path) {
    let recipe = RawRecipe::parse(recipe, Path::new("student.toml"), &[]).unwrap();
    let options = Options { out, compute: Compute::CPU, threads: 0, unfinished: Unfinished::Resume };
    compress(&recipe, runtime::open(&subject.dir, None).unwrap(), &options, &Silent).unwrap();
}

fn key(subject: &Subject, recipe: &str) -> String {
    let mut hash = Sha256::new();
    let files: [PathBuf; 2] = ["config.json", "model.safetensors"].map(|part| subject.dir.join(part));
    files.iter().for_each(|file| hash.update(std::fs::read(file).unwrap()));
    hash.update(env!("CARGO_PKG_VERSION"));
    hash.update(recipe);
    hash.finalize().iter().take(12).map(|byte| format!("{byte:02x}")).collect()
}
