//! Hugging Face weights: `model.safetensors`, or shards named by
//! `model.safetensors.index.json`.
//!
//! Format: the safetensors crate's own description (u64 header length, JSON
//! header, data). Overlapping, truncated and gapped entries are refused here, as
//! the crate does, so that the message names the tensor and the numbers.

use super::{Bytes, Checkpoint, DenseTensor, FloatType, Unread, double};
use crate::error::{Error, FormatError, Result};
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

/// A broken rule of the format. Sizes and places are in bytes.
#[derive(Debug, thiserror::Error)]
enum HeaderError {
    #[error("a web page, not a safetensors file: the download has failed, or needs a login")]
    WebPage,
    #[error("truncated or not a safetensors file: it has {found} bytes")]
    NoLength { found: usize },
    #[error("not a safetensors file: its header would have {length} bytes, {MAX_HEADER_BYTES} at most are allowed")]
    TooLong { length: u64 },
    #[error("truncated or not a safetensors file: its header ends at byte {end}, the file has {found} bytes")]
    CutHeader { end: usize, found: usize },
    #[error("not a safetensors file: its header: {0}")]
    NotJson(#[from] serde_json::Error),
    #[error("tensor {name} overlaps the tensor before it: expected data_offsets from {expected}, found {} to {}", found.0, found.1)]
    Overlap { name: String, expected: usize, found: (usize, usize) },
    #[error("tensor {name} leaves a gap before it: expected data_offsets from {expected}, found {} to {}", found.0, found.1)]
    Gap { name: String, expected: usize, found: (usize, usize) },
    /// `expected` is `None` where the shape has more bytes than can be counted.
    #[error("tensor {name}: {dtype} {shape:?} takes {} bytes, its data_offsets hold {found}", countable(*expected))]
    WrongSize { name: String, dtype: Dtype, shape: Vec<usize>, expected: Option<usize>, found: usize },
    #[error("{} extra bytes follow the last tensor: cut the file to {expected} bytes (head -c {expected})", found - expected)]
    ExtraBytes { expected: usize, found: usize },
    #[error("truncated: its tensors take {data} bytes behind byte {start}, the file has {found} bytes in all")]
    CutData { data: usize, start: usize, found: usize },
    #[error("not a valid safetensors file: {0}")]
    Metadata(#[from] safetensors::SafeTensorError),
}

impl FormatError for HeaderError {
    fn is_truncated(&self) -> bool {
        matches!(self, Self::NoLength { .. } | Self::CutHeader { .. } | Self::CutData { .. })
    }
}

/// A number of bytes, for messages.
fn countable(bytes: Option<usize>) -> String {
    bytes.map_or("more than there can be".to_owned(), |bytes| bytes.to_string())
}

/// Reads and checks a header: where the data begins, and the entries, whose bytes
/// follow each other without gaps to the end of the file.
pub fn read_header(bytes: &Bytes, path: &Path) -> Result<(usize, Metadata)> {
    parse_header(bytes).map_err(|error| Error::broken(path, error))
}

fn parse_header(bytes: &[u8]) -> std::result::Result<(usize, Metadata), HeaderError> {
    #[derive(serde::Deserialize)]
    struct Header {
        #[serde(rename = "__metadata__")]
        metadata: Option<HashMap<String, String>>,
        #[serde(flatten)]
        tensors: HashMap<String, TensorInfo>,
    }
    let found = bytes.len();
    if is_web_page(bytes) {
        return Err(HeaderError::WebPage);
    }
    let length = bytes.first_chunk().map(|length| u64::from_le_bytes(*length)).ok_or(HeaderError::NoLength { found })?;
    if length > MAX_HEADER_BYTES {
        return Err(HeaderError::TooLong { length });
    }
    let start = length as usize + 8;
    let header = bytes.get(8..start).ok_or(HeaderError::CutHeader { end: start, found })?;
    let header: Header = serde_json::from_slice(header)?;
    let mut tensors: Vec<_> = header.tensors.into_iter().collect();
    tensors.sort_by_key(|(_, info)| info.data_offsets);
    let end = check_entries(&tensors)?;
    match start.checked_add(end) {
        Some(expected) if expected == found => {}
        Some(expected) if expected < found => return Err(HeaderError::ExtraBytes { expected, found }),
        _ => return Err(HeaderError::CutData { data: end, start, found }),
    }
    Ok((start, Metadata::new(header.metadata, tensors)?))
}

/// True for HTML, which servers send in place of a file that they refuse.
fn is_web_page(bytes: &[u8]) -> bool {
    let start = bytes[..bytes.len().min(256)].trim_ascii_start();
    [&b"<!doctype html"[..], b"<html"].iter().any(|page| start.get(..page.len()).is_some_and(|start| start.eq_ignore_ascii_case(page)))
}

/// Where the last entry ends. `tensors` are in the order of their places.
fn check_entries(tensors: &[(String, TensorInfo)]) -> std::result::Result<usize, HeaderError> {
    let mut end = 0;
    for (name, info) in tensors {
        let (from, to) = info.data_offsets;
        let (name, found) = (|| name.clone(), (from, to));
        if from < end {
            return Err(HeaderError::Overlap { name: name(), expected: end, found });
        }
        if from > end || to < from {
            return Err(HeaderError::Gap { name: name(), expected: end, found });
        }
        let elements = info.shape.iter().try_fold(1usize, |product, &n| product.checked_mul(n));
        let bits = elements.and_then(|n| n.checked_mul(info.dtype.bitsize()));
        if bits != (to - from).checked_mul(8) {
            let expected = bits.map(|bits| bits.div_ceil(8));
            return Err(HeaderError::WrongSize { name: name(), dtype: info.dtype, shape: info.shape.clone(), expected, found: to - from });
        }
        end = to;
    }
    Ok(end)
}
