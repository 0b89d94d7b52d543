//! A full-precision model: a checkpoint, the spec a family has read from it,
//! and where each canonical parameter lies.

use super::ModelSpec;
use super::families::{self, Source, Transform};
use crate::checkpoint::{self, Checkpoint, DenseTensor, llama2c};
use crate::error::{Error, Result};
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

/// A checkpoint seen through canonical names.
pub struct DenseModel {
    spec: ModelSpec,
    checkpoint: Checkpoint,
    sources: BTreeMap<String, Source>,
    /// Parameters whose numbers have been looked at.
    checked: Mutex<BTreeSet<String>>,
}

impl DenseModel {
    /// Opens a Hugging Face directory: `config.json` beside safetensors or `pytorch_model.bin`.
    pub fn open_hugging_face(dir: &Path) -> Result<Self> {
        let (spec, sources) = families::read_config(&dir.join(families::CONFIG))?;
        Self::new(spec, checkpoint::open_directory(dir)?, sources)
    }

    /// Opens a llama2.c `.bin`.
    pub fn open_llama2c(path: &Path) -> Result<Self> {
        let (header, checkpoint) = llama2c::open(path)?;
        let (spec, sources) = families::llama2c::read_header(&header);
        spec.check().map_err(|reason| Error::format(path, reason))?;
        Self::new(spec, checkpoint, sources)
    }

    /// Every parameter is looked for here: a tensor that is absent or of another
    /// shape in the last block must not be found after hours of work.
    fn new(spec: ModelSpec, checkpoint: Checkpoint, sources: Vec<(String, Source)>) -> Result<Self> {
        let shapes: BTreeMap<String, Vec<usize>> = spec.parameters().into_iter().map(|p| (p.name, p.shape)).collect();
        for (name, source) in &sources {
            source.transform.expect_shape(checkpoint.tensor(&source.tensor)?, &shapes[name])?;
        }
        let model = Self { spec, checkpoint, sources: sources.into_iter().collect(), checked: Mutex::default() };
        model.warn_of_strangers();
        Ok(model)
    }

    /// A tensor that no parameter reads may mean that the configuration lies
    /// (a bias it does not mention), so it is said.
    fn warn_of_strangers(&self) {
        let used: BTreeSet<&str> = self.sources.values().map(|s| s.tensor.as_str()).collect();
        let known = |name: &str| used.contains(name) || families::is_ignored(name);
        for name in self.checkpoint.names().filter(|n| !known(n)) {
            tracing::warn!(
                "{}: tensor {name} is no part of the {} family and is not used",
                self.checkpoint.origin().display(),
                self.spec.family
            );
        }
    }

    /// What the model is.
    pub fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    /// Sets the token that begins a text, where the tokenizer knows better.
    pub fn set_bos(&mut self, id: u32) {
        self.spec.special.bos = Some(id);
    }

    /// Sets what begins and what ends a text, where the configuration does not say.
    pub fn default_special(&mut self, bos: Option<u32>, eos: Option<u32>) {
        let special = &mut self.spec.special;
        special.bos = special.bos.or(bos);
        if special.eos.is_empty() {
            special.eos.extend(eos);
        }
    }

    /// The files of its weights.
    pub fn files(&self) -> Vec<Arc<PathBuf>> {
        self.checkpoint.files()
    }

    /// A parameter by its canonical name: finite (looked at the first time), in the
    /// canonical layout. Panics on a name the spec does not have.
    pub fn tensor(&self, name: &str) -> Result<DenseTensor> {
        let source = &self.sources[name];
        let mut tensor = self.checkpoint.tensor(&source.tensor)?;
        let checked = self.checked.lock().expect("no panic while it is held").contains(name);
        if !checked {
            tensor = tensor.expect_finite()?;
            self.checked.lock().expect("no panic while it is held").insert(name.to_owned());
        }
        Ok(source.transform.apply(tensor))
    }

    /// The tensor that a parameter is made of, as it lies in its file; its numbers
    /// are not read.
    pub fn stored(&self, name: &str) -> Result<DenseTensor> {
        self.checkpoint.tensor(&self.sources[name].tensor)
    }
}

impl Transform {
    /// Fails where the transformed tensor would not have the parameter's shape.
    fn expect_shape(self, tensor: DenseTensor, shape: &[usize]) -> Result<DenseTensor> {
        match self {
            Transform::None | Transform::SplitRotaryPairs { .. } => tensor.expect_shape(shape),
        }
    }

    fn apply(self, tensor: DenseTensor) -> DenseTensor {
        match self {
            Transform::None => tensor,
            Transform::SplitRotaryPairs { n_heads } => split_rotary_pairs(tensor, n_heads),
        }
    }
}

/// Rows of each head from (x0 y0 x1 y1 …) to (x0 x1 … y0 y1 …).
fn split_rotary_pairs(tensor: DenseTensor, n_heads: usize) -> DenseTensor {
    let (rows, columns) = (tensor.shape[0], tensor.shape[1]);
    let head_dim = rows / n_heads;
    let values: Cow<[f32]> = tensor.to_f32();
    let mut split = Vec::with_capacity(values.len());
    for head in 0..n_heads {
        for part in 0..2 {
            for pair in 0..head_dim / 2 {
                let row = head * head_dim + 2 * pair + part;
                split.extend_from_slice(&values[row * columns..(row + 1) * columns]);
            }
        }
    }
    DenseTensor::from_f32(&tensor.name, &tensor.path, tensor.shape.clone(), &split)
}
