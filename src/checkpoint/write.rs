//! Writing safetensors files: header, then the tensors' bytes in the order given.

use super::write_atomically;
use crate::error::Result;
use safetensors::Dtype;
use serde_json::{Map, Value, json};
use std::io::Write;
use std::ops::Deref;
use std::path::Path;

/// Data begins at a multiple of it, whence the first tensor is aligned, and each that
/// follows tensors of such a length.
const DATA_ALIGNMENT: usize = 64;

/// A tensor to be written.
pub struct Entry<B> {
    /// Name in the file.
    pub name: String,
    /// Number format.
    pub dtype: Dtype,
    /// Sizes.
    pub shape: Vec<usize>,
    /// As many as number format and sizes say; looked at when their turn comes.
    pub bytes: B,
}

fn len_bytes(dtype: Dtype, shape: &[usize]) -> usize {
    shape.iter().product::<usize>() * dtype.bitsize() / 8
}

/// Writes a file atomically; `metadata` are texts.
pub fn write_tensors<B: Deref<Target = [u8]>>(path: &Path, entries: Vec<Entry<B>>, metadata: Map<String, Value>) -> Result<()> {
    let list: Vec<_> = entries.iter().map(|e| (e.name.as_str(), e.dtype, e.shape.clone())).collect();
    let header = header_bytes(&list, metadata);
    write_atomically(path, |out| {
        out.write_all(&(header.len() as u64).to_le_bytes())?;
        out.write_all(&header)?;
        entries.into_iter().try_for_each(|entry| {
            assert_eq!(entry.bytes.len(), len_bytes(entry.dtype, &entry.shape), "bytes of {}", entry.name);
            out.write_all(&entry.bytes)
        })
    })
}

/// The header of tensors, by name, number format and sizes, in the order of their bytes.
pub fn header_bytes(tensors: &[(&str, Dtype, Vec<usize>)], metadata: Map<String, Value>) -> Vec<u8> {
    let mut header = Map::new();
    header.insert("__metadata__".into(), Value::Object(metadata));
    let mut offset = 0;
    for (name, dtype, shape) in tensors {
        let end = offset + len_bytes(*dtype, shape);
        header.insert((*name).to_owned(), json!({ "dtype": dtype.to_string(), "shape": shape, "data_offsets": [offset, end] }));
        offset = end;
    }
    let mut bytes = Value::Object(header).to_string().into_bytes();
    bytes.resize((bytes.len() + 8).next_multiple_of(DATA_ALIGNMENT) - 8, b' ');
    bytes
}
