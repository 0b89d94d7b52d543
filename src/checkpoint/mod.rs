//! Checkpoints on disk: names, shapes and lazy mapped views over one or many
//! files. Nothing is read until a tensor is asked for.
//!
//! A new container = one file or folder here that fills a [`Checkpoint`], and for
//! Hugging Face directories a row in `directory.rs`.

pub mod adapter;
mod atomic;
pub mod bitnet;
mod directory;
mod double;
pub mod hub;
pub mod llama2c;
mod lock;
mod mapped;
pub mod pytorch;
pub mod safetensors;
mod shards;
mod storage;
mod tensor;
pub mod wrappers;
mod write;

pub use atomic::{part_of, without_sync, write_atomically};
pub use directory::open_directory;
pub use lock::{FolderLock, open_exclusive};
pub use mapped::{check_unchanged, exit_on_truncated_maps};
pub use storage::Bytes;
pub use tensor::{DenseTensor, FloatType};
pub use write::{Entry, header_bytes, write_tensors};

use crate::error::{Error, Result};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Tensors by name, over one or many mapped files.
pub struct Checkpoint {
    origin: PathBuf,
    tensors: BTreeMap<String, DenseTensor>,
    /// Tensors that cannot be weights as they are.
    unread: BTreeMap<String, Unread>,
    /// Tensors that stand for other numbers than they hold.
    scaled: BTreeMap<String, bitnet::Scaled>,
}

/// A tensor of another format than weights have.
struct Unread {
    /// Name of the format.
    dtype: String,
    shape: Vec<usize>,
    /// Its bytes, where they lie together.
    bytes: Option<Bytes>,
}

impl Checkpoint {
    /// A checkpoint over tensors that a container's reader has found.
    fn new(origin: &Path) -> Self {
        Self { origin: origin.to_owned(), tensors: BTreeMap::new(), unread: BTreeMap::new(), scaled: BTreeMap::new() }
    }

    /// Adds a tensor; two of one name are an error.
    fn insert(&mut self, tensor: DenseTensor) -> Result<()> {
        if let Some(other) = self.tensors.get(&tensor.name) {
            let reason = format!("tensor {} is also in {}", tensor.name, other.path.display());
            return Err(Error::format(&tensor.path, reason));
        }
        self.tensors.insert(tensor.name.clone(), tensor);
        Ok(())
    }

    /// Adds all tensors of another; two of one name are an error.
    fn append(&mut self, other: Checkpoint) -> Result<()> {
        other.tensors.into_values().try_for_each(|tensor| self.insert(tensor))?;
        self.unread.extend(other.unread);
        Ok(())
    }

    /// Takes all tensors out but one.
    fn keep(&mut self, name: &str) {
        self.tensors.retain(|other, _| other == name);
        self.unread.retain(|other, _| other == name);
    }

    /// Takes a tensor out, whatever its format.
    fn remove(&mut self, name: &str) {
        self.tensors.remove(name);
        self.unread.remove(name);
    }

    /// Gives tensors other names; those for which `to` has none keep theirs. Called before
    /// any tensor is read as what it stands for.
    fn rename(&mut self, to: impl Fn(&str) -> Option<String>) {
        let new = |name: String| to(&name).unwrap_or(name);
        let tensors = std::mem::take(&mut self.tensors).into_values().map(|tensor| DenseTensor { name: new(tensor.name), ..tensor });
        self.tensors = tensors.map(|tensor| (tensor.name.clone(), tensor)).collect();
        self.unread = std::mem::take(&mut self.unread).into_iter().map(|(name, unread)| (new(name), unread)).collect();
    }

    /// Has a tensor found by another name, which none has, and not by its own.
    pub fn move_to(&mut self, from: &str, to: &str) {
        if let Some(tensor) = self.tensors.remove(from) {
            self.tensors.insert(to.to_owned(), tensor);
        }
        if let Some(scaled) = self.scaled.remove(from) {
            self.scaled.insert(to.to_owned(), scaled);
        }
    }

    /// Has a tensor read as what it stands for.
    fn stand_for(&mut self, scaled: bitnet::Scaled) {
        self.tensors.insert(scaled.name().to_owned(), scaled.tensor());
        self.scaled.insert(scaled.name().to_owned(), scaled);
    }

    /// The file or folder it was opened from.
    pub fn origin(&self) -> &Path {
        &self.origin
    }

    /// All names, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Names of all tensors, also of those in number formats that weights are not read in.
    pub fn all_names(&self) -> impl Iterator<Item = &str> {
        self.names().chain(self.unread.keys().map(String::as_str))
    }

    /// Number of tensors without elements, and number of all tensors.
    pub fn count_empty(&self) -> (usize, usize) {
        let empty = self.tensors.values().filter(|tensor| tensor.is_empty()).count();
        let unread = self.unread.values().filter(|unread| unread.shape.contains(&0)).count();
        (empty + unread, self.tensors.len() + self.unread.len())
    }

    /// Names that come near to one that is not there, for messages: those that share most of
    /// its first or of its last parts, or the first of all.
    pub fn similar(&self, name: &str) -> Vec<&str> {
        const SHOWN: usize = 3;
        let shared = |other: &str| {
            let alike = |a: &mut dyn Iterator<Item = &str>, b: &mut dyn Iterator<Item = &str>| a.zip(b).take_while(|(a, b)| a == b).count();
            alike(&mut name.split('.'), &mut other.split('.')).max(alike(&mut name.rsplit('.'), &mut other.rsplit('.')))
        };
        let best = self.all_names().map(shared).max().unwrap_or(0);
        // That both end in `weight` says nothing.
        self.all_names().filter(|other| best < 2 || shared(other) == best).take(SHOWN).collect()
    }

    /// The name that a tensor has here: this one, or, as in checkpoints of models
    /// without their head, what is behind its first part (`transformer.`, `model.`).
    pub fn find<'a>(&self, name: &'a str) -> Option<&'a str> {
        let rest = name.split_once('.').map(|(_, rest)| rest);
        [Some(name), rest].into_iter().flatten().find(|name| self.tensors.contains_key(*name))
    }

    /// A view of a tensor.
    pub fn tensor(&self, name: &str) -> Result<DenseTensor> {
        if let Some(scaled) = self.scaled.get(name) {
            return Ok(scaled.tensor());
        }
        let (name, path) = (name.to_owned(), self.origin.clone());
        match (self.tensors.get(&name), self.unread.get(&name)) {
            (Some(tensor), _) => Ok(tensor.clone()),
            (None, Some(Unread { dtype, .. })) => Err(Error::UnreadFormat { name, path, found: dtype.clone() }),
            (None, None) => Err(Error::MissingTensor { name, path }),
        }
    }

    /// The files under it, in order.
    pub fn files(&self) -> Vec<Arc<PathBuf>> {
        let mut files: Vec<_> = self.tensors.values().map(|t| t.path.clone()).collect();
        files.sort();
        files.dedup();
        files
    }
}
