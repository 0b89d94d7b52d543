//! Opening the native file: the header, and what it says of each parameter.

use super::hashes;
use super::planes::{Planes, Shared};
use super::verified::Verified;
use super::{Notes, SCHEMES_KEY, SPEC_KEY, StoredScheme, TOKENIZER, VERSION, VERSION_KEY};
use crate::checkpoint::Bytes;
use crate::checkpoint::safetensors::read_header;
use crate::error::{Error, Result};
use crate::model::{ModelSpec, Parameter};
use crate::quant::formats::tiled::Layout;
use crate::quant::{Weight, WeightStore};
use crate::spec::SpecialTokens;
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// An opened file; weights are views of its map.
pub struct NativeFile {
    path: Arc<PathBuf>,
    spec: ModelSpec,
    notes: Notes,
    weights: BTreeMap<String, Weight>,
    schemes: BTreeMap<String, StoredScheme>,
    tokenizer: Option<Bytes>,
    bytes: Bytes,
}

impl NativeFile {
    /// Whether bytes look like such a file (its header, not its version).
    pub fn recognises(bytes: &[u8]) -> bool {
        let Some(length) = bytes.get(..8).map(|b| u64::from_le_bytes(b.try_into().unwrap())) else { return false };
        let header = bytes.get(8..).map(|rest| &rest[..rest.len().min(usize::try_from(length).unwrap_or(usize::MAX))]);
        header.is_some_and(|h| h.first() == Some(&b'{') && h.windows(VERSION_KEY.len()).any(|w| w == VERSION_KEY.as_bytes()))
    }

    /// Maps and checks a file.
    pub fn open(path: &Path) -> Result<Self> {
        Self::from_bytes(Bytes::map(path)?, path)
    }

    /// The same over bytes from anywhere; `path` is for messages.
    pub fn from_bytes(bytes: Bytes, path: &Path) -> Result<Self> {
        Self::read(bytes, path, |_| true)
    }

    /// Reads the parameters that are `wanted`.
    fn read(bytes: Bytes, path: &Path, wanted: impl Fn(&Parameter) -> bool) -> Result<Self> {
        let (start, header) = read_header(&bytes, path)?;
        let empty = Default::default();
        let metadata = header.metadata().as_ref().unwrap_or(&empty);
        let version: u64 = parse(path, metadata, VERSION_KEY)?;
        if version > VERSION {
            let reason = format!("format version {version}: this build reads up to {VERSION}; a newer thimble is needed");
            return Err(Error::format(path, reason));
        }
        let spec: ModelSpec = parse(path, metadata, SPEC_KEY)?;
        spec.check().map_err(|reason| Error::format(path, format!("{SPEC_KEY}: {reason}")))?;
        let schemes: BTreeMap<String, StoredScheme> = parse(path, metadata, SCHEMES_KEY)?;
        let mut file = Self {
            path: Arc::new(path.to_owned()),
            notes: Notes::of(metadata),
            weights: BTreeMap::new(),
            tokenizer: None,
            bytes: bytes.clone(),
            schemes,
            spec,
        };
        let planes = Planes { path: file.path.clone(), bytes: &bytes, start, tensors: header.tensors() };
        file.tokenizer = planes.optional(TOKENIZER).map(|(_, bytes)| bytes);
        let mut shared = Shared::default();
        for parameter in file.spec.parameters().into_iter().filter(|p| wanted(p)) {
            let weight = match file.schemes.get(&parameter.name) {
                None => Weight::Dense(planes.dense(&parameter.name)?.expect_shape(&parameter.shape)?),
                Some(stored) if stored.shape[..] == parameter.shape => {
                    // Products read tiles; rows by themselves are for look-ups alone.
                    if stored.layout == Layout::Rows && !file.spec.is_looked_up(&parameter) {
                        return Err(planes.mismatch(&parameter.name, "layout tiles".into(), "layout rows".into()));
                    }
                    Weight::Packed(planes.packed(&parameter.name, stored, &mut shared)?)
                }
                Some(stored) => {
                    return Err(planes.mismatch(&parameter.name, format!("shape {:?}", parameter.shape), format!("{:?}", stored.shape)));
                }
            };
            file.weights.insert(parameter.name, weight);
        }
        Ok(file)
    }

    /// Opens a file that holds only the parameters that are `wanted`: a part of a
    /// model in the making.
    pub fn open_part(path: &Path, wanted: impl Fn(&Parameter) -> bool) -> Result<Self> {
        Self::read(Bytes::map(path)?, path, wanted)
    }

    /// The weights it holds, by canonical name.
    pub fn into_weights(self) -> impl Iterator<Item = (String, Weight)> {
        self.weights.into_iter()
    }

    /// The tokens that begin and end a text, for a tokenizer that is not the file's own.
    pub fn special_mut(&mut self) -> &mut SpecialTokens {
        &mut self.spec.special
    }

    /// Recipe, quality and provenance.
    pub fn notes(&self) -> &Notes {
        &self.notes
    }

    /// How each quantised weight is stored.
    pub fn schemes(&self) -> &BTreeMap<String, StoredScheme> {
        &self.schemes
    }

    /// The bytes of its tokenizer's file.
    pub fn tokenizer(&self) -> Option<&[u8]> {
        self.tokenizer.as_deref()
    }

    /// Size of the file.
    pub fn size_bytes(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// Names of the tensors whose bytes are not those that were written, as its hashes tell;
    /// `__metadata__` is the header. `None` where it has no hashes. Reads the whole file.
    pub fn damaged(&self) -> Result<Option<Vec<String>>> {
        hashes::differing(&self.bytes, &self.path)
    }

    /// Fails where the file is damaged. Reads the whole file.
    pub fn expect_undamaged(&self) -> Result<()> {
        match self.damaged()?.unwrap_or_default().split_first() {
            None => Ok(()),
            Some((first, others)) => {
                let what = if first == hashes::HEADER { "its metadata" } else { &format!("tensor {first}") };
                let others = if others.is_empty() { String::new() } else { format!(" (and {} others)", others.len()) };
                Err(Error::format(&self.path, format!("damaged: the hash of {what}{others} does not match")))
            }
        }
    }

    /// Compares hashes when the file is opened for the first time: a list in the user's cache folder
    /// has those that were found sound and have not changed since.
    pub fn expect_undamaged_once(&self) -> Result<()> {
        let verified = Verified::of_user();
        if verified.as_ref().is_some_and(|verified| verified.holds(&self.path)) {
            return Ok(());
        }
        self.expect_undamaged()?;
        if let Some(verified) = verified {
            verified.add(&self.path);
        }
        Ok(())
    }
}

impl WeightStore for NativeFile {
    fn spec(&self) -> &ModelSpec {
        &self.spec
    }
    fn weight(&self, name: &str) -> Result<Weight> {
        Ok(self.weights[name].clone())
    }
    fn files(&self) -> Vec<Arc<PathBuf>> {
        vec![self.path.clone()]
    }
}

fn parse<T: serde::de::DeserializeOwned>(path: &Path, metadata: &HashMap<String, String>, key: &str) -> Result<T> {
    let text = metadata.get(key).ok_or_else(|| Error::format(path, format!("no {key} in its metadata: not a thimble file")))?;
    serde_json::from_str(text).map_err(|e| Error::format(path, format!("{key}: {e}")))
}
