//! Hugging Face weights: `model.safetensors`, or shards named by
//! `model.safetensors.index.json`.
//!
//! Format: the safetensors crate's own description (u64 header length, JSON
//! header, data). The crate refuses overlapping, truncated and gapped entries.

use super::{Bytes, Checkpoint, DenseTensor, FloatType};
use crate::error::{Error, Result};
use safetensors::SafeTensors;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

/// Name of the file of a model that is not sharded.
pub const SINGLE: &str = "model.safetensors";
/// Name of the list of shards.
pub const INDEX: &str = "model.safetensors.index.json";

/// Opens the weights of a Hugging Face directory.
pub fn open(dir: &Path) -> Result<Checkpoint> {
    let mut checkpoint = Checkpoint::new(dir);
    let index = dir.join(INDEX);
    if dir.join(SINGLE).exists() || !index.exists() {
        add_file(&mut checkpoint, &dir.join(SINGLE))?;
        return Ok(checkpoint);
    }
    let places = read_index(&index)?;
    for shard in places.values().collect::<BTreeSet<_>>() {
        if shard.contains(['/', '\\']) || shard.starts_with('.') {
            return Err(Error::format(&index, format!("shard name {shard:?} leaves the folder")));
        }
        add_file(&mut checkpoint, &dir.join(shard))?;
    }
    for (name, shard) in &places {
        if !checkpoint.tensors.contains_key(name) {
            return Err(Error::MissingTensor { name: name.clone(), path: dir.join(shard) });
        }
    }
    Ok(checkpoint)
}

/// Tensor name -> shard file name.
fn read_index(path: &Path) -> Result<BTreeMap<String, String>> {
    #[derive(serde::Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let text = std::fs::read(path).map_err(Error::io("read", path))?;
    let index: Index = serde_json::from_slice(&text).map_err(|e| Error::format(path, format!("not an index of shards: {e}")))?;
    Ok(index.weight_map)
}

fn add_file(checkpoint: &mut Checkpoint, path: &Path) -> Result<()> {
    let bytes = Bytes::map(path)?;
    let (start, header) = read_header(&bytes, path)?;
    let path = Arc::new(path.to_owned());
    for (name, info) in header.tensors() {
        // Integer buffers such as position ids are no weights.
        let Some(float_type) = FloatType::from_safetensors(info.dtype) else { continue };
        let (from, to) = info.data_offsets;
        checkpoint.insert(DenseTensor {
            name,
            path: path.clone(),
            float_type,
            shape: info.shape.clone(),
            bytes: bytes.slice(start + from..start + to),
        })?;
    }
    Ok(())
}

/// Reads and checks a header: where the data begins, and the entries.
pub fn read_header(bytes: &Bytes, path: &Path) -> Result<(usize, safetensors::tensor::Metadata)> {
    let (header_len, header) = SafeTensors::read_metadata(bytes).map_err(|e| {
        let reason = match e {
            safetensors::SafeTensorError::HeaderTooSmall
            | safetensors::SafeTensorError::InvalidHeaderLength
            | safetensors::SafeTensorError::MetadataIncompleteBuffer => format!("truncated or not a safetensors file ({e})"),
            safetensors::SafeTensorError::InvalidOffset(name) => {
                format!("tensor {name} overlaps its neighbour or leaves a gap (its data_offsets do not follow on)")
            }
            e => format!("not a valid safetensors file: {e}"),
        };
        Error::format(path, reason)
    })?;
    Ok((header_len + 8, header))
}
