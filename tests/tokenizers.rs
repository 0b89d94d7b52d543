//! Tokenizers of every kind against the Python libraries that they are meant for:
//! what those made of texts is in `tests/data/tokenizations.json`, written by
//! `python-compat/write_tokenizations.py`.

#[path = "common/damage.rs"]
mod damage;
#[path = "common/data.rs"]
mod data;

use damage::file;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use thimble::random::Random;
use thimble::text::Tokenizer;

/// Most that reading a whole text may take.
const PATIENCE: Duration = Duration::from_secs(20);

fn committed(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
}

fn expected() -> Value {
    serde_json::from_slice(&std::fs::read(committed("tokenizations.json")).unwrap()).unwrap()
}

/// Those whose files are committed, and the others where the data is there.
fn each(test: &str, mut check: impl FnMut(&str, &Tokenizer, &Value)) {
    let shared = data::shared(test);
    for (name, entry) in expected()["tokenizers"].as_object().unwrap() {
        let file = entry["file"].as_str().unwrap();
        let path = [Some(committed(file)), shared.as_ref().map(|dir| dir.join(file))].into_iter().flatten().find(|p| p.exists());
        if let Some(path) = path {
            check(name, &Tokenizer::open(&path).unwrap(), entry);
        }
    }
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

fn digest(bytes: impl AsRef<[u8]>) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn digest_of_ids(ids: &[u32]) -> String {
    digest(ids.iter().flat_map(|id| id.to_le_bytes()).collect::<Vec<u8>>())
}

/// A file of text, or the `text` of every line of a .jsonl.
fn whole_text(path: &Path) -> String {
    let text = std::fs::read_to_string(path).unwrap();
    if path.extension().is_none_or(|e| e != "jsonl") {
        return text;
    }
    let texts = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["text"].as_str().unwrap().to_owned());
    texts.collect::<Vec<_>>().join("\n")
}

#[test]
fn tricky_texts_as_in_python() {
    let mut wrong = Vec::new();
    let mut count = 0;
    each("tricky_texts_as_in_python", |name, tokenizer, entry| {
        for case in entry["strings"].as_array().unwrap() {
            let text = case["text"].as_str().unwrap();
            let (found, expected) = (tokenizer.encode(text).unwrap(), ids(&case["ids"]));
            count += 1;
            if found != expected {
                wrong.push(format!("{name}: {text:?}: found {found:?}, expected {expected:?}"));
            }
            let decoded = tokenizer.decode(&expected).unwrap();
            if case["decoded"].as_str().is_some_and(|expected| expected != decoded) {
                wrong.push(format!("{name}: decoded {decoded:?}, expected {}", case["decoded"]));
            }
        }
    });
    assert!(wrong.is_empty(), "{} of {count}:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn runs_of_one_thing_as_in_python() {
    let runs = expected()["runs"].clone();
    let mut wrong = Vec::new();
    each("runs_of_one_thing_as_in_python", |name, tokenizer, entry| {
        let mut all = Vec::new();
        for run in runs["of"].as_array().unwrap() {
            for n in 1..=runs["up_to"].as_u64().unwrap() as usize {
                all.extend(tokenizer.encode(&run.as_str().unwrap().repeat(n)).unwrap());
            }
        }
        if entry["runs"] != json!({ "count": all.len(), "sha256": digest_of_ids(&all) }) {
            wrong.push(format!("{name}: {} ids, expected {}", all.len(), entry["runs"]["count"]));
        }
    });
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn whole_texts_as_in_python() {
    let Some(shared) = data::shared("whole_texts_as_in_python") else { return };
    let mut wrong = Vec::new();
    each("whole_texts_as_in_python", |name, tokenizer, entry| {
        for (file, expected) in entry["whole"].as_object().unwrap() {
            let text = whole_text(&shared.join(file));
            let start = Instant::now();
            let found = tokenizer.encode(&text).unwrap();
            let encoding = start.elapsed();
            let decoded = tokenizer.decode(&found).unwrap();
            println!("{name}: {file}: {} ids, encoded in {encoding:.2?}, decoded in {:.2?}", found.len(), start.elapsed() - encoding);
            assert!(start.elapsed() < PATIENCE, "{name}: {file}: {:?}", start.elapsed());
            let first = ids(&expected["first"]);
            if !found.starts_with(&first) || expected["count"] != found.len() || expected["sha256"] != digest_of_ids(&found) {
                wrong.push(format!("{name}: {file}: {} ids, expected {}", found.len(), expected["count"]));
            }
            if !expected["decoded_sha256"].is_null() && expected["decoded_sha256"] != digest(&decoded) {
                wrong.push(format!("{name}: {file}: decoded to another text"));
            }
            if expected["gives_back"] == true && decoded != text {
                wrong.push(format!("{name}: {file}: does not give the text back"));
            }
        }
    });
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
