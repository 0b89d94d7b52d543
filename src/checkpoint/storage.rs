//! Bytes that tensors are views of: a memory map of a file, or a buffer where
//! there is no file system (WebAssembly, tests).

use super::mapped::Map;
use crate::error::{Error, Result};
use crate::input;
use std::ops::{Deref, Range};
use std::path::Path;
use std::sync::{Arc, LazyLock};

/// Owner of a file's bytes.
type Owner = dyn AsRef<[u8]> + Send + Sync;

/// A shared, cheap to clone view of bytes; keeps their owner (the map) alive.
#[derive(Clone)]
pub struct Bytes {
    owner: Arc<Owner>,
    range: Range<usize>,
}

impl Bytes {
    /// Maps a file. Pages are read when they are touched, and not before.
    pub fn map(path: &Path) -> Result<Self> {
        // Asked before it is opened: opening a pipe would wait for its other end.
        if !std::fs::metadata(path).map_err(|e| input::not_read(path, e))?.is_file() {
            return Err(Error::format(path, "not a regular file"));
        }
        let map = Map::new(path)?;
        input::check(map.as_ref(), path)?;
        Ok(Self { range: 0..map.as_ref().len(), owner: Arc::new(map) })
    }

    /// Takes over a buffer.
    pub fn from_vec(bytes: Vec<u8>) -> Self {
        Self { range: 0..bytes.len(), owner: Arc::new(bytes) }
    }

    /// `len` bytes that `fill` makes when they are first touched.
    pub fn made_late(len: usize, fill: impl FnOnce() -> Vec<u8> + Send + 'static) -> Self {
        Self { range: 0..len, owner: Arc::new(Late(LazyLock::new(Box::new(fill)))) }
    }

    /// How many bytes there are; touches none.
    pub fn len(&self) -> usize {
        self.range.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.range.is_empty()
    }

    /// A view of a part of this view. Panics where `range` is outside.
    pub fn slice(&self, range: Range<usize>) -> Self {
        assert!(range.start <= range.end && range.end <= self.range.len(), "slice outside its bytes");
        let start = self.range.start;
        Self { owner: self.owner.clone(), range: start + range.start..start + range.end }
    }
}

impl PartialEq for Bytes {
    /// Whether they are the same bytes, wherever they lie.
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Deref for Bytes {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &(*self.owner).as_ref()[self.range.clone()]
    }
}

/// Bytes that are made when they are first touched.
struct Late(LazyLock<Vec<u8>, Box<dyn FnOnce() -> Vec<u8> + Send>>);

impl AsRef<[u8]> for Late {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}
