//! Hugging Face weights: `model.safetensors`, or shards named by
//! `model.safetensors.index.json`.
//!
//! Format: the safetensors crate's own description (u64 header length, JSON
//! header, data). Overlapping, truncated and gapped entries are refused here, as
//! the crate does, so that the message names the tensor and the numbers.

use super::{Bytes, Checkpoint, DenseTensor, FloatType, Unread, double};
use crate::error::{Error, Result};
use safetensors::tensor::{Dtype, Metadata, TensorInfo};
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

/// Name of the file of a model that is not sharded.
pub const SINGLE: &str = "model.safetensors";
/// Name of the list of shards.
pub const INDEX: &str = "model.safetensors.index.json";

/// The names of all tensors in the file.
pub(super) fn add_file(checkpoint: &mut Checkpoint, path: &Path) -> Result<Vec<String>> {
    let bytes = Bytes::map(path)?;
    let (start, header) = read_header(&bytes, path)?;
    let path = Arc::new(path.to_owned());
    for (name, info) in header.tensors() {
        // Integer buffers such as position ids are no weights.
        let (from, to) = info.data_offsets;
        let bytes = bytes.slice(start + from..start + to);
        let (float_type, bytes) = match info.dtype {
            Dtype::F64 => (Some(FloatType::F32), double::narrowed(bytes)),
            dtype => (FloatType::from_safetensors(dtype), bytes),
        };
        let Some(float_type) = float_type else {
            let unread = Unread { dtype: info.dtype.to_string(), shape: info.shape.clone(), bytes: Some(bytes) };
            checkpoint.unread.insert(name, unread);
            continue;
        };
        checkpoint.insert(DenseTensor { name, path: path.clone(), float_type, shape: info.shape.clone(), bytes })?;
    }
    Ok(header.offset_keys())
}

/// Longer headers are refused, as the format's own reader does.
const MAX_HEADER_BYTES: u64 = 100_000_000;

/// Reads and checks a header: where the data begins, and the entries, whose bytes
/// follow each other without gaps to the end of the file.
pub fn read_header(bytes: &Bytes, path: &Path) -> Result<(usize, Metadata)> {
    #[derive(serde::Deserialize)]
    struct Header {
        #[serde(rename = "__metadata__")]
        metadata: Option<HashMap<String, String>>,
        #[serde(flatten)]
        tensors: HashMap<String, TensorInfo>,
    }
    let fail = |reason: String| Error::format(path, reason);
    let found = bytes.len();
    if is_web_page(bytes) {
        return Err(fail("a web page, not a safetensors file: the download has failed, or needs a login".into()));
    }
    let length = bytes.get(..8).map(|b| u64::from_le_bytes(b.try_into().expect("eight bytes")));
    let length = length.ok_or_else(|| fail(format!("truncated or not a safetensors file: it has {found} bytes")))?;
    if length > MAX_HEADER_BYTES {
        return Err(fail(format!("not a safetensors file: its header would have {length} bytes, {MAX_HEADER_BYTES} at most are allowed")));
    }
    let start = length as usize + 8;
    let header = bytes
        .get(8..start)
        .ok_or_else(|| fail(format!("truncated or not a safetensors file: its header ends at byte {start}, the file has {found} bytes")))?;
    let header: Header = serde_json::from_slice(header).map_err(|e| fail(format!("not a safetensors file: its header: {e}")))?;
    let mut tensors: Vec<_> = header.tensors.into_iter().collect();
    tensors.sort_by_key(|(_, info)| info.data_offsets);
    let end = check_entries(&tensors).map_err(fail)?;
    match start.checked_add(end) {
        Some(expected) if expected == found => {}
        Some(expected) if expected < found => {
            let more = found - expected;
            return Err(fail(format!("{more} extra bytes follow the last tensor: cut the file to {expected} bytes (head -c {expected})")));
        }
        _ => {
            return Err(fail(format!("truncated: its tensors take {end} bytes behind byte {start}, the file has {found} bytes in all")));
        }
    }
    let metadata = Metadata::new(header.metadata, tensors).map_err(|e| fail(format!("not a valid safetensors file: {e}")))?;
    Ok((start, metadata))
}

/// True for HTML, which servers send in place of a file that they refuse.
fn is_web_page(bytes: &[u8]) -> bool {
    let start = bytes[..bytes.len().min(256)].trim_ascii_start();
    [&b"<!doctype html"[..], b"<html"].iter().any(|page| start.get(..page.len()).is_some_and(|start| start.eq_ignore_ascii_case(page)))
}

/// Where the last entry ends. `tensors` are in the order of their places.
fn check_entries(tensors: &[(String, TensorInfo)]) -> std::result::Result<usize, String> {
    let mut end = 0;
    for (name, info) in tensors {
        let (from, to) = info.data_offsets;
        if from != end || to < from {
            let what = if from < end { "overlaps the tensor before it" } else { "leaves a gap before it" };
            return Err(format!("tensor {name} {what}: expected data_offsets from {end}, found {from} to {to}"));
        }
        let elements = info.shape.iter().try_fold(1usize, |product, &n| product.checked_mul(n));
        let bits = elements.and_then(|n| n.checked_mul(info.dtype.bitsize()));
        if bits != (to - from).checked_mul(8) {
            let expected = bits.map_or("more than there can be".to_owned(), |bits| bits.div_ceil(8).to_string());
            return Err(format!(
                "tensor {name}: {} {:?} takes {expected} bytes, its data_offsets hold {}",
                info.dtype,
                info.shape,
                to - from
            ));
        }
        end = to;
    }
    Ok(end)
}
