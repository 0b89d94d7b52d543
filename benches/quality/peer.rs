//! A model as gptqmodel makes it: `python-compat/peers/quantize.py` on the same
//! weights and calibration ids.
//!
//! What it makes is kept in the build folder under a hash of all that decides it,
//! the scripts, pins, weights, ids and settings, so that parts share it: a run of
//! the library takes minutes, and nothing of ours is in it.

use crate::ids;
use crate::subject::Subject;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};
use std::process::Command;
use thimble::runtime::{self, Model};

const SCRIPTS: &str = "python-compat/peers";

/// What of `peer.json` is of use here.
#[derive(Deserialize)]
pub struct Notes {
    pub bits_per_weight: f64,
    pub bits_per_weight_linear: f64,
}

pub struct PeerModel {
    pub model: Model,
    pub notes: Notes,
}

/// `settings` are the method and the script's other options:
/// `gptq --bits 4 --group-size 128 --set sym=false`.
/// Fails with what the library says where it cannot.
pub fn make(subject: &Subject, settings: &str, ids: &[Vec<u32>]) -> Result<PeerModel, String> {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("peers").join(key(subject, settings, ids));
    let notes = dir.join("peer.json");
    if !notes.exists() {
        run(subject, settings, ids, &dir)?;
    }
    let notes = serde_json::from_slice(&std::fs::read(notes).unwrap()).unwrap();
    Ok(PeerModel { model: runtime::open(&dir, None).unwrap(), notes })
}

fn run(subject: &Subject, settings: &str, ids: &[Vec<u32>], out: &Path) -> Result<(), String> {
    let file = tempfile::NamedTempFile::new().unwrap();
    ids::write(file.path(), ids.iter().flatten(), [ids.len(), ids[0].len()]);
    // The library writes its logs where it runs.
    let run = Command::new(root().join(".venv-peers/bin/python"))
        .current_dir(std::env::temp_dir())
        .arg(root().join(SCRIPTS).join("quantize.py"))
        .args([&subject.dir, file.path(), out].map(Path::as_os_str))
        .arg("--method")
        .args(settings.split(' '))
        .output()
        .expect("`make .venv-peers/ready` makes its environment");
    let said = String::from_utf8_lossy(&run.stderr);
    let last: Vec<&str> = said.lines().rev().take(20).collect();
    let failed = || format!("{settings}\n{}", last.into_iter().rev().collect::<Vec<_>>().join("\n"));
    if run.status.success() { Ok(()) } else { Err(failed()) }
}

/// A hash of all that decides what is made.
pub fn key(subject: &Subject, settings: &str, ids: &[Vec<u32>]) -> String {
    let mut hash = Sha256::new();
    let mut files: Vec<PathBuf> = std::fs::read_dir(root().join(SCRIPTS)).unwrap().map(|f| f.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|e| e == "py"));
    files.sort();
    files.extend(["requirements-peers.txt", "requirements-gptqmodel.txt"].map(|pins| root().join("python-compat").join(pins)));
    files.extend(["config.json", "model.safetensors"].map(|part| subject.dir.join(part)));
    files.iter().for_each(|file| hash.update(std::fs::read(file).unwrap()));
    hash.update(settings);
    ids.iter().flatten().for_each(|id| hash.update(id.to_le_bytes()));
    hash.finalize().iter().take(12).map(|byte| format!("{byte:02x}")).collect()
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
