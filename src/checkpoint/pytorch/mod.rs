//! PyTorch's own checkpoints: `pytorch_model.bin`, or shards named by
//! `pytorch_model.bin.index.json`. A zip archive holds a pickle, which says what
//! there is, and a file of numbers for every storage.
//!
//! A pickle is a program. This one is read by a machine that runs nothing: it
//! knows the few names that tensors are made of, and refuses a file that says any
//! other. Tensors are views of the mapped file; those whose numbers do not follow
//! each other there are gathered when they are first touched.
//!
//! Source: `torch/serialization.py` (`_save`, `_load`) and
//! `caffe2/serialize/inline_container.h`, which describes the archive.

mod error;
mod globals;
mod pickle;
mod rebuild;
mod state_dict;
mod strided;
mod value;
mod zip;

use super::{Bytes, Checkpoint, DenseTensor, Unread, double};
use crate::error::{Error, Result};
use error::{ArchiveError, FileError, ViewError};
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use value::Tensor;

/// Name of the file of a model that is not sharded.
pub const SINGLE: &str = "pytorch_model.bin";
/// Name of the list of shards.
pub const INDEX: &str = "pytorch_model.bin.index.json";

/// Whether this begins as a checkpoint does.
pub fn recognises(bytes: &[u8]) -> bool {
    zip::recognises(bytes)
}

/// The names of all tensors in the file.
pub(super) fn add_file(checkpoint: &mut Checkpoint, path: &Path) -> Result<Vec<String>> {
    let fail = |error: FileError| Error::broken(path, error);
    let bytes = Bytes::map(path)?;
    let archive = Archive::open(&bytes).map_err(|error| fail(error.into()))?;
    let (values, root) = pickle::read(&bytes[archive.pickle.clone()]).map_err(fail)?;
    let tensors = state_dict::tensors(&values, root).map_err(fail)?;
    // Gathered tensors take memory: together no more than the file has bytes, for
    // a few bytes may claim to be any number of numbers.
    let mut budget = bytes.len();
    let path = Arc::new(path.to_owned());
    for (name, tensor) in &tensors {
        let Some(float_type) = tensor.dtype.float_type.filter(|_| !tensor.is_altered) else {
            let what = if tensor.is_altered { " in a lazy view (negated or conjugated)" } else { "" };
            let dtype = format!("{}{what}", tensor.dtype.name);
            checkpoint.unread.insert((*name).to_owned(), Unread { dtype, shape: tensor.shape.clone(), bytes: None });
            continue;
        };
        let size = tensor.dtype.size_bytes;
        let seen = archive.view(&bytes, tensor, size, &mut budget);
        let mut bytes = seen.map_err(|error| fail(FileError::View { name: shown(name), error }))?;
        if size > float_type.size_bytes() {
            bytes = double::narrowed(bytes);
        }
        checkpoint.insert(DenseTensor { name: (*name).to_owned(), path: path.clone(), float_type, shape: tensor.shape.clone(), bytes })?;
    }
    Ok(tensors.into_iter().map(|(name, _)| name.to_owned()).collect())
}

/// What is where in the file.
struct Archive {
    pickle: Range<usize>,
    /// The files of storages, by their key.
    storages: BTreeMap<String, Range<usize>>,
}

impl Archive {
    fn open(bytes: &[u8]) -> std::result::Result<Self, ArchiveError> {
        if is_legacy(bytes) {
            return Err(ArchiveError::Legacy);
        }
        if !zip::recognises(bytes) {
            return Err(ArchiveError::NotACheckpoint { bytes: bytes.len() });
        }
        let files = zip::read(bytes)?;
        // All lie in one folder, named as the file once was.
        let mut folders = files.keys().filter_map(|name| name.strip_suffix("/data.pkl")).filter(|folder| !folder.contains('/'));
        let (folder, other) = (folders.next().ok_or(ArchiveError::NoPickle)?, folders.next());
        if other.is_some() {
            return Err(ArchiveError::TwoPickles);
        }
        let file = |name: &str| files.get(format!("{folder}/{name}").as_str()).cloned();
        if file("constants.pkl").is_some() {
            return Err(ArchiveError::TorchScript);
        }
        // Files older than the mark are of the machine that wrote them, and few were big-endian.
        match file("byteorder").map(|place| &bytes[place]) {
            None | Some(b"little") => {}
            Some(other) => return Err(ArchiveError::ByteOrder(shown(&String::from_utf8_lossy(other)))),
        }
        let prefix = format!("{folder}/data/");
        let storage = |(name, place): (&&str, &Range<usize>)| Some((name.strip_prefix(&prefix)?.to_owned(), place.clone()));
        Ok(Self { pickle: file("data.pkl").expect("found above"), storages: files.iter().filter_map(storage).collect() })
    }

    /// The numbers of a tensor, of `size` bytes each, row by row; `budget` bytes at most may be gathered.
    fn view(&self, bytes: &Bytes, tensor: &Tensor, size: usize, budget: &mut usize) -> std::result::Result<Bytes, ViewError> {
        let Tensor { storage, offset, shape, strides, .. } = tensor;
        let key = || shown(storage.key);
        let place = self.storages.get(storage.key).ok_or_else(|| ViewError::NoStorage { key: key() })?.clone();
        let expected = storage.len.checked_mul(storage.dtype.map_or(1, |_| size));
        if expected != Some(place.len()) {
            return Err(ViewError::StorageSize { key: key(), expected, found: place.len() });
        }
        let held = place.len() / size;
        let fits = strided::reach(*offset, shape, strides).is_some_and(|reach| reach <= held);
        let len = strided::len(shape).and_then(|len| len.checked_mul(size)).filter(|_| fits).ok_or_else(|| {
            let (shape, strides) = (shape.clone(), strides.clone());
            ViewError::Outside { key: key(), shape, strides, offset: *offset, held }
        })?;
        if strided::is_contiguous(shape, strides) {
            let start = if len == 0 { place.start } else { place.start + offset * size };
            return Ok(bytes.slice(start..start + len));
        }
        let over_budget = || ViewError::TooLarge { shape: shape.clone(), strides: strides.clone() };
        *budget = budget.checked_sub(len).ok_or_else(over_budget)?;
        let (source, offset, shape, strides) = (bytes.slice(place), *offset, shape.clone(), strides.clone());
        Ok(Bytes::made_late(len, move || strided::gather(&source, size, offset, &shape, &strides)))
    }
}

/// Before 1.6 a file was a row of pickles, the first of which is this number
/// (`MAGIC_NUMBER` in `torch/serialization.py`).
fn is_legacy(bytes: &[u8]) -> bool {
    const MAGIC: [u8; 16] = 0x1950_a86a_20f9_469c_fc6c_u128.to_le_bytes();
    // Behind the pickle's protocol and, from 4 on, the length of its frame.
    bytes[..bytes.len().min(32)].windows(10).any(|window| window == &MAGIC[..10])
}

/// A little-endian number of `width` bytes, at most eight.
fn number(bytes: &[u8], at: usize, width: usize) -> Option<u64> {
    let bytes = bytes.get(at..at.checked_add(width)?)?;
    Some(bytes.iter().rev().fold(0, |n, &b| n << 8 | u64::from(b)))
}

/// A text of the file, fit for a message: on one line, and not too long.
fn shown(text: &str) -> String {
    const MAX: usize = 100;
    let mut shown: String = text.chars().take(MAX).flat_map(char::escape_debug).collect();
    if text.chars().nth(MAX).is_some() {
        shown.push('…');
    }
    shown
}
