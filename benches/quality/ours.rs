//! A model as a recipe of ours makes it.

use crate::subject::Subject;
use std::path::Path;
use tempfile::TempDir;
use thimble::compress::Compute;
use thimble::eval::Footprint;
use thimble::pipeline::{Options, Unfinished, compress};
use thimble::progress::Silent;
use thimble::recipe::RawRecipe;
use thimble::runtime::{self, Model};

pub struct Made {
    pub model: Model,
    pub footprint: Footprint,
    pub seconds: f64,
    _dir: TempDir,
}

/// Runs one stage, written as its method and keys: `gptq bits=4 act_order=false`.
pub fn make(subject: &Subject, stage: &str, sequences: usize, seed: u64) -> Made {
    let text = subject.calibration_text();
    let (method, keys) = stage.split_once(' ').expect("a method and its keys");
    let recipe = format!(
        "[calibration]\ntext = '{0}'\nsequences = {sequences}\nlength = {1}\nseed = {seed}\n[[stage]]\n[stage.{method}]\n{2}\n\
         [evaluate]\ntext = '{0}'\nmax_windows = 1\n",
        text.display(),
        subject.window(),
        keys.replace(' ', "\n")
    );
    let recipe = RawRecipe::parse(&recipe, Path::new("quality.toml"), &[]).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let options = Options { out: dir.path(), compute: Compute::CPU, threads: 0, unfinished: Unfinished::Resume };
    let report = compress(&recipe, runtime::open(&subject.dir, None).unwrap(), &options, &Silent).unwrap();
    let seconds = report.stages.iter().map(|stage| stage.seconds).sum();
    let model = runtime::open(dir.path(), None).unwrap();
    Made { footprint: Footprint::of(&*model.store).unwrap(), model, seconds, _dir: dir }
}
