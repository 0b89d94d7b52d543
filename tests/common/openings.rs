//! Opening edited copies of fixtures: logits against those of transformers, and what the
//! command line says of them.
#![allow(dead_code)] // each test file uses some of it

use super::damage::Tensors;
use serde_json::{Value, json};
use std::path::Path;
use std::process::Output;
use thimble::model::LogitSource;
use thimble::runtime::{self, Activations, Decoder, NativeLogits};

/// Name of the weights in most fixtures.
pub const WEIGHTS: &str = "model.safetensors";
/// Greatest difference of a logit.
pub const TOLERANCE: f32 = 1e-4;

/// Ids of a fixture, and the logits that transformers computed for them.
pub fn expected(dir: &Path) -> (Vec<u32>, Vec<f32>) {
    let bytes = std::fs::read(dir.join("expected.safetensors")).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let numbers = |name: &str| -> Vec<u32> {
        file.tensor(name).unwrap().data().chunks_exact(4).map(|b| u32::from_le_bytes(b.try_into().unwrap())).collect()
    };
    (numbers("ids"), numbers("logits").into_iter().map(f32::from_bits).collect())
}

/// The device's logits of all positions.
pub fn logits(model: &runtime::Model, ids: &[u32]) -> Vec<f32> {
    let mut source = NativeLogits::new(Decoder::new(&*model.store, Activations::F32, 1).unwrap());
    source.run_window(ids).unwrap();
    source.logits(0..ids.len()).unwrap()
}

/// Fails where two lists of logits differ by more than [`TOLERANCE`].
pub fn assert_close(what: &str, found: &[f32], expected: &[f32]) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let difference = found.iter().zip(expected).fold(0.0f32, |m, (a, b)| m.max((a - b).abs()));
    assert!(difference <= TOLERANCE, "{what}: logits differ by {difference}");
}

/// Opens a copy of a fixture, which gives the logits that transformers computed for it.
pub fn opens_as_transformers(what: &str, dir: &Path) -> runtime::Model {
    let model = runtime::open(dir, None).unwrap_or_else(|e| panic!("{what}: {e}"));
    let (ids, expected) = expected(dir);
    assert_close(what, &logits(&model, &ids), &expected);
    model
}

/// `thimble inspect`.
pub fn inspect(dir: &Path) -> Output {
    assert_cmd::Command::new(env!("CARGO_BIN_EXE_thimble")).arg("inspect").arg(dir).output().unwrap()
}

/// What a command wrote to stderr, which must have all of some words in it.
pub fn says(what: &str, output: &Output, words: &[&str]) -> String {
    let stderr = String::from_utf8(output.stderr.clone()).unwrap();
    words.iter().for_each(|word| assert!(stderr.contains(word), "{what}: no {word:?} in {stderr}"));
    stderr
}

/// A folder that opens with a warning that has all of some words in it.
pub fn warns(what: &str, dir: &Path, words: &[&str]) -> String {
    let output = inspect(dir);
    let stderr = says(what, &output, words);
    assert!(output.status.success() && stderr.contains("WARN"), "{what}: {stderr}");
    stderr
}

/// A folder that is refused as bad input, with all of some words.
pub fn is_refused(what: &str, dir: &Path, words: &[&str]) -> String {
    let output = inspect(dir);
    let stderr = says(what, &output, words);
    assert_eq!(output.status.code(), Some(3), "{what}: {stderr}");
    stderr
}

impl Tensors {
    /// Names of all tensors.
    pub fn names(&self) -> Vec<String> {
        self.header.as_object().unwrap().keys().filter(|name| *name != "__metadata__").cloned().collect()
    }

    /// Gives tensors other names.
    pub fn rename(&mut self, to: impl Fn(&str) -> String) {
        for name in self.names() {
            let info = self.header.as_object_mut().unwrap().remove(&name).unwrap();
            self.header[to(&name)] = info;
        }
    }

    /// Adds a tensor.
    pub fn insert(&mut self, name: &str, dtype: &str, shape: &[usize], bytes: &[u8]) {
        let start = self.data.len();
        self.data.extend_from_slice(bytes);
        self.header[name] = json!({ "dtype": dtype, "shape": shape, "data_offsets": [start, self.data.len()] });
    }

    /// Shape of a tensor.
    pub fn shape(&self, name: &str) -> Vec<usize> {
        self.header[name]["shape"].as_array().unwrap().iter().map(|n| n.as_u64().unwrap() as usize).collect()
    }

    /// Number format of a tensor.
    pub fn dtype(&self, name: &str) -> String {
        self.header[name]["dtype"].as_str().unwrap().to_owned()
    }
}

/// Writes a JSON file.
pub fn write_json(path: &Path, value: &Value) {
    std::fs::write(path, value.to_string()).unwrap();
}
