//! A full-precision model: a checkpoint, the spec a family has read from it,
//! and where each canonical parameter lies.

use super::families::{self, BitNet, Config, Names, llama2c as llama2c_family};
use super::{FileLayout, ModelSpec, Parameter, ParameterKind, Rows, Source};
use crate::checkpoint::{self, Checkpoint, DenseTensor, bitnet, llama2c};
use crate::error::{Error, Result};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

/// A checkpoint seen through canonical names.
pub struct DenseModel {
    spec: ModelSpec,
    checkpoint: Checkpoint,
    parameters: BTreeMap<String, Place>,
    layout: FileLayout,
    /// Parameters whose numbers have been looked at.
    checked: Mutex<BTreeSet<String>>,
}

struct Place {
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

impl DenseModel {
    /// Opens a Hugging Face directory: `config.json` beside safetensors or `pytorch_model.bin`.
    pub fn open_hugging_face(dir: &Path) -> Result<Self> {
        let config = dir.join(families::CONFIG);
        let says = Config::read(&config)?;
        let ((spec, family), quantized) = (families::read(&says)?, families::quantized(&says)?);
        families::warn(&says, &spec);
        let mut checkpoint = checkpoint::open_directory(dir)?;
        let ternary = quantized.as_ref().map_or_else(|| Ok(BTreeSet::new()), |q| bitnet::unpack(&mut checkpoint, q.divides))?;
        let spec = match family.settle {
            None => spec,
            Some(settle) => {
                let settled = settle(spec, &checkpoint)?;
                settled.check().map_err(|reason| Error::format(&config, reason))?;
                settled
            }
        };
        let mut model = Self::new(spec, checkpoint, family.names)?;
        if let Some(bitnet) = quantized {
            model.hold(&bitnet, &ternary).map_err(|reason| says.error(format!("\"quantization_config\": {reason}")))?;
        }
        Ok(model)
    }

    /// Notes which parameters are BitNet's; `ternary` are the tensors that have a scale.
    fn hold(&mut self, bitnet: &BitNet, ternary: &BTreeSet<String>) -> std::result::Result<(), String> {
        if !bitnet.online && ternary.is_empty() {
            return Err("no weight has a \"weight_scale\" beside it".into());
        }
        if bitnet.online && self.spec.tied && !bitnet.keeps_head() && !bitnet.keeps("lm_head") {
            return Err("the head is rounded, and the embedding that it is tied to is not".into());
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
                    return Err(format!("{} is rounded as a whole, but it is several layers", tensors[0]));
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
        spec.check().map_err(|reason| Error::format(path, reason))?;
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
            source.open(&checkpoint, &parameter.shape)?;
            let dimensions = checkpoint.tensor(&source.tensors[0])?.shape.len();
            layout.learn(&parameter, candidate, dimensions);
            parameters.insert(parameter.name, Place { source, shape: parameter.shape, held: Held::Plainly });
        }
        let model = Self { parameters, layout, spec, checkpoint, checked: Mutex::default() };
        model.warn_of_strangers(names);
        Ok(model)
    }

    /// A tensor that no parameter reads may mean that the configuration lies
    /// (a bias it does not mention), so it is said.
    fn warn_of_strangers(&self, names: &Names) {
        let mut used: BTreeSet<String> = self.parameters.values().flat_map(|p| p.source.tensors.iter().cloned()).collect();
        // Some files hold what blocks share once a block.
        used.extend(names.copies(&self.spec).into_iter().map(|mut name| {
            as_stored(&mut name, &self.checkpoint);
            name
        }));
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
        let Place { source, shape, .. } = &self.parameters[name];
        Ok(source.read(source.open(&self.checkpoint, shape)?, shape))
    }
}

fn as_stored(name: &mut String, checkpoint: &Checkpoint) {
    if let Some(found) = checkpoint.find(name) {
        *name = found.to_owned();
    }
}
