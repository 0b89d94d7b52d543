//! `thimble.hashes`: BLAKE3 of each tensor's bytes, in hexadecimal, by its name, and under
//! `__metadata__` (which no tensor may be called) of what the header says of them.
//!
//! The latter is over the other entries of the metadata and then the tensors, each sorted by
//! name, as compact JSON: `[[key, text], …, [name, dtype, shape], …]`. Where in the file a tensor
//! lies is not in it: its bytes say whether that is right.

use crate::checkpoint::safetensors::read_header;
use crate::checkpoint::{Bytes, Entry};
use crate::error::Result;
use safetensors::Dtype;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Key of the metadata.
pub const KEY: &str = "thimble.hashes";
/// Name of the hash over the header.
pub const HEADER: &str = "__metadata__";

/// Number format and shape of a tensor, as they are hashed.
type Stated<'a> = BTreeMap<&'a str, (Dtype, &'a [usize])>;

/// The hashes of a file that is about to be written, as text for its metadata: those of its
/// tensors, and that of its header.
pub fn of_entries(entries: &[Entry<Bytes>], tensors: &BTreeMap<String, String>, metadata: &Map<String, Value>) -> String {
    let texts = metadata.iter().map(|(key, text)| (key.as_str(), text.as_str().expect("metadata are texts"))).collect();
    let stated: Stated = entries.iter().map(|entry| (entry.name.as_str(), (entry.dtype, &entry.shape[..]))).collect();
    let mut hashes = Map::from_iter([(HEADER.to_owned(), of_header(&texts, &stated).into())]);
    hashes.extend(entries.iter().map(|entry| (entry.name.clone(), tensors[&entry.name].clone().into())));
    Value::Object(hashes).to_string()
}

/// Names in a file whose content is not what its hashes say, [`HEADER`] where it is the
/// header's; `None` where the file has no hashes. Reads the whole file.
pub fn differing(bytes: &Bytes, path: &Path) -> Result<Option<Vec<String>>> {
    let (start, header) = read_header(bytes, path)?;
    let empty = Default::default();
    let mut texts: BTreeMap<&str, &str> =
        header.metadata().as_ref().unwrap_or(&empty).iter().map(|(key, text)| (key.as_str(), text.as_str())).collect();
    let Some(hashes) = texts.remove(KEY) else { return Ok(None) };
    // One that cannot be read is damaged itself.
    let hashes: BTreeMap<String, String> = serde_json::from_str(hashes).unwrap_or_default();
    let tensors = header.tensors();
    let stated = tensors.iter().map(|(name, info)| (name.as_str(), (info.dtype, &info.shape[..]))).collect();
    let names: BTreeSet<&str> = tensors.keys().chain(hashes.keys()).map(String::as_str).chain([HEADER]).collect();
    let found = |name: &str| match name {
        HEADER => Some(of_header(&texts, &stated)),
        name => tensors.get(name).map(|info| of_bytes(&bytes[start + info.data_offsets.0..start + info.data_offsets.1])),
    };
    Ok(Some(names.into_iter().filter(|name| found(name).as_ref() != hashes.get(*name)).map(str::to_owned).collect()))
}

/// BLAKE3 of a tensor's bytes, in hexadecimal.
pub fn of_bytes(bytes: &[u8]) -> String {
    blake3::Hasher::new().update_rayon(bytes).finalize().to_hex().to_string()
}

fn of_header(texts: &BTreeMap<&str, &str>, stated: &Stated) -> String {
    let texts = texts.iter().map(|(key, text)| json!([key, text]));
    let stated = stated.iter().map(|(name, (dtype, shape))| json!([name, dtype.to_string(), shape]));
    of_bytes(Value::Array(texts.chain(stated).collect()).to_string().as_bytes())
}
