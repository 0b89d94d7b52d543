//! Where tests find fixtures and real data.
#![allow(dead_code)] // each test file uses some of it

use std::path::{Path, PathBuf};

/// A fixture written by python-compat.
pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/fixtures").join(name)
}

/// All of them, by name.
pub fn fixtures() -> Vec<(String, PathBuf)> {
    let mut all: Vec<_> = std::fs::read_dir(fixture(""))
        .expect("tests/data/fixtures")
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.file_name().unwrap().to_string_lossy().into_owned(), path))
        .collect();
    all.sort();
    all
}

/// Real models and texts. Where they are absent the test says so and ends; with
/// `CI=true` that is a failure.
pub fn shared(test: &str) -> Option<PathBuf> {
    let dir = std::env::var_os("THIMBLE_DATA").map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data"), PathBuf::from);
    if dir.join("models").is_dir() {
        return Some(dir);
    }
    assert!(std::env::var("CI").as_deref() != Ok("true"), "{test}: no data at {} and CI=true", dir.display());
    eprintln!("skipped: {test}: no data at {} (THIMBLE_DATA names another place)", dir.display());
    None
}
