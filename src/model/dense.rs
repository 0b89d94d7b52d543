//! A full-precision model: a checkpoint, the spec a family has read from it,
//! and where each canonical parameter lies.

use super::families::{self, BitNet, Config, Family, Names, Quantization, llama2c as llama2c_family};
use super::{FileLayout, ModelSpec, Parameter, ParameterKind, Part, Rows, Source, leftover, tying, uneven, unused};
use crate::checkpoint::wrappers::{self, Needed};
use crate::checkpoint::{self, Checkpoint, DenseTensor, bitnet, llama2c};
use crate::error::{Error, Result};
use crate::notice::warn_once;
use crate::spec::SpecialTokens;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

/// A checkpoint seen through canonical names.
pub struct DenseModel {
    spec: ModelSpec,
    checkpoint: Checkpoint,
    parameters: BTreeMap<String, StoredParameter>,
    layout: FileLayout,
    /// Parameters whose numbers have been looked at.
    checked: Mutex<BTreeSet<String>>,
}

struct StoredParameter {
    source: Source,
    shape: Vec<usize>,
    held: Held,
}

/// What the numbers of a parameter are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    /// Those that are computed with.
    Plainly,
    /// The same, each −1, 0 or 1 times a scale: BitNet's packed weights.
    Ternary,
    /// What BitNet rounds by their mean magnitude in each product.
    AsTrained,
}

/// A BitNet configuration that its weights do not allow.
#[derive(Debug, thiserror::Error)]
enum BitNetError {
    #[error("no weight has a \"weight_scale\" beside it")]
    NoScales,
    #[error("the head is rounded, and the embedding that it is tied to is not")]
    TiedHead,
    #[error("{0} is rounded as a whole, but it is several layers")]
    SeveralLayers(String),
}

impl DenseModel {
    /// Opens a Hugging Face directory: `config.json` beside safetensors or `pytorch_model.bin`.
    pub fn open_hugging_face(dir: &Path) -> Result<Self> {
        let config = dir.join(families::CONFIG);
        let says = Config::read(&config)?;
        let ((mut spec, family), quantized) = (families::read(&says)?, families::quantized(&says)?);
        families::warn(&says, &spec);
        let mut checkpoint = checkpoint::open_directory(dir)?;
        let needed = needed(&spec, family);
        if let Some((old, new)) = wrappers::take_off(&mut checkpoint, &needed) {
            warn_once(dir, format!("tensors are named as in a wrapper around the model: {old} is read as {new}"));
        }
        let bitnet = match quantized {
            Some(Quantization::BitNet(bitnet)) => Some(bitnet),
            Some(Quantization::Other(method)) => leftover::check(&method, &says, &checkpoint, &needed).map(|()| None)?,
            None => leftover::refuse_scales(&checkpoint, &needed).map(|()| None)?,
        };
        let ternary = bitnet.as_ref().map_or_else(|| Ok(BTreeSet::new()), |q| bitnet::unpack(&mut checkpoint, q.divides))?;
        if let Some(settle) = family.settle {
            spec = settle(spec, &checkpoint)?;
        }
        tying::settle(&mut spec, &mut checkpoint, family.names)?;
        uneven::settle(&mut spec, &checkpoint, family.names);
        spec.check().map_err(|error| Error::format(&config, error.to_string()))?;
        let mut model = Self::new(spec, checkpoint, family.names)?;
        if let Some(bitnet) = bitnet {
            model.hold(&bitnet, &ternary).map_err(|reason| says.error(format!("\"quantization_config\": {reason}")))?;
        }
        Ok(model)
    }

    /// Notes which parameters are BitNet's; `ternary` are the tensors that have a scale.
    fn hold(&mut self, bitnet: &BitNet, ternary: &BTreeSet<String>) -> std::result::Result<(), BitNetError> {
        if !bitnet.online && ternary.is_empty() {
            return Err(BitNetError::NoScales);
        }
        if bitnet.online && self.spec.tied && !bitnet.keeps_head() && !bitnet.keeps("lm_head") {
            return Err(BitNetError::TiedHead);
        }
        for Parameter { name, kind, .. } in self.spec.parameters() {
            let place = self.parameters.get_mut(&name).expect("every parameter has a place");
            let tensors = &place.source.tensors;
            let linear = place.shape.len() == 2 && (kind == ParameterKind::Linear || kind == ParameterKind::Head && !bitnet.keeps_head());
            place.held = match () {
                () if place.shape.len() == 2 && tensors.iter().any(|tensor| ternary.contains(tensor)) => Held::Ternary,
                // transformers rounds what it calls linear, and a transposed matrix is not.
                () if !bitnet.online || !linear || place.source.transposed => continue,
                () if tensors.iter().any(|tensor| bitnet.keeps(tensor)) => continue,
                // Its mean would be that of all that lies there.
                () if matches!(place.source.rows, Rows::Runs { .. }) || tensors.len() > 1 => {
                    return Err(BitNetError::SeveralLayers(tensors[0].clone()));
                }
                () => Held::AsTrained,
            };
        }
        Ok(())
    }

    /// Opens a llama2.c `.bin`.
    pub fn open_llama2c(path: &Path) -> Result<Self> {
        let (header, checkpoint) = llama2c::open(path)?;
        let spec = llama2c_family::spec(&header);
        spec.check().map_err(|error| Error::format(path, error.to_string()))?;
        Self::new(spec, checkpoint, &llama2c_family::NAMES)
    }

    /// Every parameter is looked for here: a tensor that is absent or of another
    /// shape in the last block must not be found after hours of work.
    fn new(spec: ModelSpec, checkpoint: Checkpoint, names: &'static Names) -> Result<Self> {
        let (mut parameters, mut layout) = (BTreeMap::new(), FileLayout::new(names));
        for parameter in spec.parameters() {
            let mut sources = names.sources(&spec, &parameter);
            let there = sources.iter().position(|source| source.tensors.iter().all(|name| checkpoint.find(name).is_some()));
            let candidate = there.unwrap_or(0);
            let mut source = sources.swap_remove(candidate);
            source.tensors.iter_mut().for_each(|name| as_stored(name, &checkpoint));
            refuse_empty(&source, &checkpoint)?;
            source.open(&checkpoint, &parameter.shape).map_err(|error| explained(error, &checkpoint, &parameter))?;
            let dimensions = checkpoint.tensor(&source.tensors[0])?.shape.len();
            layout.learn(&parameter, candidate, dimensions);
            parameters.insert(parameter.name, StoredParameter { source, shape: parameter.shape, held: Held::Plainly });
        }
        let model = Self { parameters, layout, spec, checkpoint, checked: Mutex::default() };
        model.warn_of_strangers(names);
        Ok(model)
    }

    /// A tensor that no parameter reads may mean that the configuration lies
    /// (a bias it does not mention), so it is said.
    fn warn_of_strangers(&self, names: &Names) {
        let mut used: BTreeSet<String> = self.parameters.values().flat_map(|p| p.source.tensors.iter().cloned()).collect();
        // Some files hold what blocks share once a block, and a tied head beside the embedding.
        let head = self.spec.tied.then(|| tying::head_names(&self.spec, names));
        used.extend(names.copies(&self.spec).into_iter().chain(head.into_iter().flatten()).map(|mut name| {
            as_stored(&mut name, &self.checkpoint);
            name
        }));
        let strangers: Vec<&str> = self.checkpoint.names().filter(|name| !used.contains(*name) && !families::is_ignored(name)).collect();
        if !strangers.is_empty() {
            let (count, family) = (strangers.len(), &self.spec.family);
            let tensors = if count == 1 { "1 tensor".to_owned() } else { format!("{count} tensors") };
            warn_once(self.checkpoint.origin(), format!("the {family} family does not use {tensors}: {}", unused::grouped(&strangers)));
        }
    }

    /// What the model is.
    pub fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    /// What the numbers of a parameter are. Panics on a name the spec does not have.
    pub fn held(&self, name: &str) -> Held {
        self.parameters[name].held
    }

    /// Whether some parameters are not [`Held::Plainly`].
    pub fn is_quantized(&self) -> bool {
        self.parameters.values().any(|place| place.held != Held::Plainly)
    }

    /// How its files hold parameters.
    pub fn layout(&self) -> &FileLayout {
        &self.layout
    }

    /// The tokens that begin and end a text, which files beside the configuration tell too.
    pub fn special_mut(&mut self) -> &mut SpecialTokens {
        &mut self.spec.special
    }

    /// The files of its weights.
    pub fn files(&self) -> Vec<Arc<PathBuf>> {
        self.checkpoint.files()
    }

    /// A parameter by its canonical name: finite (looked at the first time), in the
    /// canonical layout. Panics on a name the spec does not have.
    pub fn tensor(&self, name: &str) -> Result<DenseTensor> {
        let mut tensor = self.stored(name)?;
        let checked = self.checked.lock().expect("no panic while it is held").contains(name);
        if !checked {
            tensor = tensor.expect_finite()?;
            self.checked.lock().expect("no panic while it is held").insert(name.to_owned());
        }
        Ok(tensor)
    }

    /// The same without a look at its numbers.
    pub fn stored(&self, name: &str) -> Result<DenseTensor> {
        let StoredParameter { source, shape, .. } = &self.parameters[name];
        Ok(source.read(source.open(&self.checkpoint, shape)?, shape))
    }
}

fn as_stored(name: &mut String, checkpoint: &Checkpoint) {
    if let Some(found) = checkpoint.find(name) {
        *name = found.to_owned();
    }
}

/// Where each parameter may lie, by its names in the file. Of a family that settles its spec
/// by the weights, the first block alone is sure to have all of its own.
fn needed(spec: &ModelSpec, family: &Family) -> Needed {
    let is_sure = |parameter: &Parameter| family.settle.is_none() || !matches!(parameter.part, Part::Block(1..));
    let tensors = |parameter: Parameter| -> Vec<Vec<String>> {
        let mut places: Vec<_> = family.names.sources(spec, &parameter).into_iter().map(|source| source.tensors).collect();
        if spec.tied && parameter.kind == ParameterKind::Embedding {
            places.extend(tying::head_names(spec, family.names).into_iter().map(|name| vec![name]));
        }
        places
    };
    spec.parameters().into_iter().filter(is_sure).map(tensors).collect()
}

/// Fails where a tensor has no elements: what ZeRO-3 leaves of one.
fn refuse_empty(source: &Source, checkpoint: &Checkpoint) -> Result<()> {
    let empty = source.tensors.iter().filter_map(|name| checkpoint.tensor(name).ok()).find(DenseTensor::is_empty);
    empty.map_or(Ok(()), |DenseTensor { name, shape, .. }| {
        let (count, total) = checkpoint.count_empty();
        Err(Error::EmptyTensors { name, path: checkpoint.origin().to_owned(), shape, count, total })
    })
}

/// The error for a tensor that is not there, with what is there instead, or for an embedding or a
/// head with another number of rows than `vocab_size`.
fn explained(error: Error, checkpoint: &Checkpoint, parameter: &Parameter) -> Error {
    let (name, path) = match error {
        Error::MissingTensor { name, path } => (name, path),
        Error::TensorMismatch { name, path, .. } if is_resized(&name, checkpoint, parameter) => {
            let (rows, expected) = (checkpoint.tensor(&name).map_or(0, |tensor| tensor.shape[0]), parameter.shape[0]);
            let reason = format!(
                "tensor {name} has {rows} rows, but \"vocab_size\" in {CONFIG} is {expected}: where tokens were added and the configuration \
                 was not saved with them, set it to {rows}",
                CONFIG = families::CONFIG
            );
            return Error::format(&path, reason);
        }
        other => return other,
    };
    let instead = match (parameter.kind, checkpoint.similar(&name)) {
        (ParameterKind::Head, _) => {
            "the configuration says that the head is not tied to the embedding: set \"tie_word_embeddings\" to true \
                                     if it is"
                .to_owned()
        }
        (_, names) if names.is_empty() => "the file has no tensors".to_owned(),
        (_, names) => {
            let quantised = names.iter().any(|name| leftover::is_quantised(name));
            let note = if quantised { ": it is quantised already, and only full-precision checkpoints are read" } else { "" };
            format!("the file has {}{note}", names.join(", "))
        }
    };
    Error::MissingWeight { name, path, instead }
}

/// True for an embedding or a head that differs from the expected shape in its rows alone.
fn is_resized(name: &str, checkpoint: &Checkpoint, parameter: &Parameter) -> bool {
    let is_vocabulary = matches!(parameter.kind, ParameterKind::Embedding | ParameterKind::Head);
    let found = checkpoint.tensor(name).map(|tensor| tensor.shape).unwrap_or_default();
    is_vocabulary && found.len() == 2 && found[0] != parameter.shape[0] && found[1..] == parameter.shape[1..]
}
