//! A model as our pipeline makes it by a recipe.
//!
//! What is made is kept in the build folder under a hash of the recipe, the model, the number
//! format of forwards and our version, so that it is made once, and a run that was interrupted goes on. What our code, or
//! a default, is between two versions is not in it: who changes those makes all again, for which the folder is
//! deleted: see [`crate::kept`].

use crate::kept;
use crate::subject::Subject;
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};
use tch::Kind;
use thimble::compress::Compute;
use thimble::pipeline::{Options, Unfinished, compress};
use thimble::progress::Silent;
use thimble::recipe::RawRecipe;
use thimble::runtime;

/// The folder it is in, and its `report.json`; forwards are in `kind`.
pub fn made(subject: &Subject, recipe: &str, kind: Kind) -> (PathBuf, Value) {
    let dir = kept().join(key(subject, recipe, kind));
    // It is written last.
    let report = dir.join("report.json");
    if !report.exists() {
        run(subject, recipe, kind, &dir);
    }
    let report = serde_json::from_slice(&std::fs::read(report).unwrap()).unwrap();
    (dir, report)
}

fn run(subject: &Subject, recipe: &str, kind: Kind, out: &Path) {
    let recipe = RawRecipe::parse(recipe, Path::new("recipe.toml"), &[]).unwrap();
    let options = Options { out, compute: Compute { kind, ..Compute::CPU }, threads: 0, unfinished: Unfinished::Resume };
    compress(&recipe, runtime::open(&subject.dir, None).unwrap(), &options, &Silent).unwrap();
}

/// The same wherever the data lie.
pub fn key(subject: &Subject, recipe: &str, kind: Kind) -> String {
    let mut hash = Sha256::new();
    let files: [PathBuf; 2] = ["config.json", "model.safetensors"].map(|part| subject.dir.join(part));
    files.iter().for_each(|file| hash.update(std::fs::read(file).unwrap()));
    hash.update(env!("CARGO_PKG_VERSION"));
    if kind != Kind::Float {
        hash.update(format!("{kind:?}"));
    }
    hash.update(recipe.replace(&*subject.data.to_string_lossy(), ""));
    hash.finalize().iter().take(12).map(|byte| format!("{byte:02x}")).collect()
}
