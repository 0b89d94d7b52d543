//! What was found of a row that takes long, kept in `benches/found/` and committed with the
//! page: such rows are made once, in as many sittings and on as many machines as it takes.
//!
//! A row is told by a hash of what it is made by: of ours, its recipe, the model and our
//! version ([`crate::made::key`]); of a library's, its pins, scripts, the model, ids and
//! settings. How it is measured is not in it, nor what our code is between two versions: who
//! changes those takes out the rows that they change. `from` names the page whose figures a
//! row has, where what it was made of is gone.

use crate::subject::Subject;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};

/// From the file of `benchmark`, otherwise found now and written there.
pub fn found<T: Serialize + DeserializeOwned>(benchmark: &str, key: String, subject: &Subject, name: &str, find: impl FnOnce() -> T) -> T {
    let file = file(benchmark);
    if let Some(row) = read(&file).get(&key) {
        return serde_json::from_value(row["found"].clone()).unwrap_or_else(|e| panic!("{}: {key}: {e}", file.display()));
    }
    let found = find();
    // Read again: another row may have been found meanwhile.
    let mut all = read(&file);
    all.insert(key, json!({ "model": subject.name, "row": name, "found": found }));
    all.sort_keys();
    std::fs::create_dir_all(file.parent().expect("a folder")).unwrap();
    // At once: a run that is stopped here must not lose the others.
    let new = file.with_extension("new");
    std::fs::write(&new, serde_json::to_string_pretty(&all).unwrap() + "\n").unwrap();
    std::fs::rename(&new, &file).unwrap();
    found
}

/// Whether a row is there.
#[allow(dead_code)] // not every benchmark asks
pub fn is_found(benchmark: &str, key: &str) -> bool {
    read(&file(benchmark)).contains_key(key)
}

fn file(benchmark: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("benches/found/{benchmark}.json"))
}

fn read(file: &Path) -> Map<String, Value> {
    std::fs::read(file)
        .map_or_else(|_| Map::new(), |text| serde_json::from_slice(&text).unwrap_or_else(|e| panic!("{}: {e}", file.display())))
}
