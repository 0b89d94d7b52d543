//! Models to damage, and the tools to do it with.
#![allow(dead_code)] // each test file uses some of it

use super::data::fixture;
use serde_json::{Map, Value, json};
use std::ops::Range;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// Vocabulary of most fixtures.
pub const VOCABULARY: usize = 96;

/// A fixture in a folder of its own.
pub fn copy_of(name: &str) -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let model = dir.path().join("model");
    std::fs::create_dir(&model).unwrap();
    for entry in std::fs::read_dir(fixture(name)).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, model.join(path.file_name().unwrap())).unwrap();
    }
    (dir, model)
}

/// The same with a tokenizer, for commands that read text.
pub fn copy_with_tokenizer(name: &str) -> (TempDir, PathBuf) {
    let (dir, model) = copy_of(name);
    std::fs::write(model.join("tokenizer.json"), tokenizer(VOCABULARY).to_string()).unwrap();
    (dir, model)
}

/// A tokenizer.json of a token a word: `w3`, `w4`, … and three special ones.
pub fn tokenizer(tokens: usize) -> Value {
    let special = ["<unk>", "<s>", "</s>"];
    let word = |id: usize| special.get(id).map_or_else(|| format!("w{id}"), |s| s.to_string());
    let vocabulary: Map<String, Value> = (0..tokens).map(|id| (word(id), id.into())).collect();
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": { "type": "WhitespaceSplit" }, "post_processor": null, "decoder": null,
        "model": { "type": "WordLevel", "vocab": vocabulary, "unk_token": "<unk>" },
    })
}

/// A text of so many of its words, the same at every call.
pub fn text(words: usize) -> String {
    (0..words).map(|i| format!("w{}", 3 + (i * i * 7 + i * 13 + i / 11) % (VOCABULARY - 3))).collect::<Vec<_>>().join(" ")
}

/// Writes a file and gives its path back.
pub fn file(path: PathBuf, content: impl AsRef<[u8]>) -> PathBuf {
    std::fs::write(&path, content).unwrap();
    path
}

/// Rewrites a JSON file.
pub fn edit_json(path: &Path, edit: impl FnOnce(&mut Value)) {
    let mut value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    edit(&mut value);
    std::fs::write(path, value.to_string()).unwrap();
}

/// Rewrites a safetensors file. A native file has no hashes afterwards, as one that another
/// program has written: what is looked at is the check of its content.
pub fn edit_tensors(path: &Path, edit: impl FnOnce(&mut Tensors)) {
    let mut tensors = Tensors::read(path);
    if let Some(metadata) = tensors.header.get_mut("__metadata__").and_then(Value::as_object_mut) {
        metadata.remove("thimble.hashes");
    }
    edit(&mut tensors);
    tensors.write(path);
}

/// Rewrites the bytes of a file.
pub fn edit_bytes(path: &Path, edit: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = std::fs::read(path).unwrap();
    edit(&mut bytes);
    std::fs::write(path, bytes).unwrap();
}

/// A safetensors file taken apart, with nothing checked when it is put together.
pub struct Tensors {
    /// Tensor -> dtype, shape, data_offsets.
    pub header: Value,
    /// What the offsets count in.
    pub data: Vec<u8>,
}

impl Tensors {
    /// Takes a sound file apart.
    pub fn read(path: &Path) -> Self {
        let bytes = std::fs::read(path).unwrap();
        let start = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        Self { header: serde_json::from_slice(&bytes[8..start]).unwrap(), data: bytes[start..].to_vec() }
    }

    /// Puts it together.
    pub fn write(&self, path: &Path) {
        let header = self.header.to_string();
        std::fs::write(path, [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &self.data].concat()).unwrap();
    }

    /// Bytes of a tensor.
    pub fn bytes(&mut self, name: &str) -> &mut [u8] {
        let place = self.place(name);
        &mut self.data[place]
    }

    /// Writes over the bytes of a tensor from one element of that many bytes on.
    pub fn put(&mut self, name: &str, element: usize, bytes: &[u8]) {
        let from = element * bytes.len();
        self.bytes(name)[from..from + bytes.len()].copy_from_slice(bytes);
    }

    /// Takes a tensor out, with its bytes.
    pub fn remove(&mut self, name: &str) {
        self.resize(name, 0);
        self.header.as_object_mut().unwrap().remove(name);
    }

    /// Cuts or fills the bytes of a tensor, and gives it that many bytes (u8).
    pub fn resize(&mut self, name: &str, len: usize) {
        let place = self.place(name);
        self.data.splice(place.clone(), std::iter::repeat_n(0, len));
        let moved = |offset: &Value| offset.as_u64().unwrap() as usize + len - place.len();
        for (_, info) in self.header.as_object_mut().unwrap().iter_mut().filter(|(key, _)| *key != "__metadata__") {
            if info["data_offsets"][0].as_u64().unwrap() as usize >= place.end {
                info["data_offsets"] = json!([moved(&info["data_offsets"][0]), moved(&info["data_offsets"][1])]);
            }
        }
        self.header[name]["data_offsets"][1] = (place.start + len).into();
        self.header[name]["shape"] = json!([len]);
    }

    /// Edits JSON that is kept as a text in the metadata.
    pub fn edit_metadata(&mut self, key: &str, edit: impl FnOnce(&mut Value)) {
        let text = &mut self.header["__metadata__"][key];
        let mut value = serde_json::from_str(text.as_str().unwrap()).unwrap();
        edit(&mut value);
        *text = value.to_string().into();
    }

    fn place(&self, name: &str) -> Range<usize> {
        let offset = |i: usize| self.header[name]["data_offsets"][i].as_u64().unwrap_or_else(|| panic!("no tensor {name}")) as usize;
        offset(0)..offset(1)
    }
}
