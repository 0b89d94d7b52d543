//! A model as a recipe of ours makes it.

use crate::made::made;
use crate::subject::Subject;
use tch::Kind;
use thimble::eval::Footprint;
use thimble::runtime::{self, Model};

pub struct CompressedModel {
    pub model: Model,
    pub footprint: Footprint,
}

/// Runs one stage, written as its method and keys: `gptq bits=4 act_order=false`.
pub fn make(subject: &Subject, stage: &str, sequences: usize, seed: u64) -> CompressedModel {
    let text = subject.calibration_text();
    let (method, keys) = stage.split_once(' ').expect("a method and its keys");
    let recipe = format!(
        "[calibration]\ntext = '{0}'\nsequences = {sequences}\nlength = {1}\nseed = {seed}\n[[stage]]\n[stage.{method}]\n{2}\n\
         [evaluate]\ntext = '{0}'\nmax_windows = 1\n",
        text.display(),
        subject.window(),
        keys.replace(' ', "\n")
    );
    let (dir, _) = made(subject, &recipe, Kind::Float);
    let model = runtime::open(&dir, None).unwrap();
    let footprint = Footprint::of(&*model.store).unwrap();
    CompressedModel { model, footprint }
}
