//! An ordinary Hugging Face directory: `config.json`, `model.safetensors` and the
//! source's tokenizer, for models whose weights are all in full precision.
//!
//! The tensors are named and laid out as the source's are ([`FileLayout`]), and the
//! configuration is the source's with the new widths in it (`config.rs`). Each tensor has the number
//! format that it has in the source (`export/in_type.rs`).

mod beside;
mod config;
mod rules;

use super::Format;
use super::in_type::{FloatTypes, InType};
use crate::checkpoint::safetensors::SINGLE;
use crate::checkpoint::{DenseTensor, Entry, FloatType, write_atomically, write_tensors};
use crate::error::{Error, Result};
use crate::model::families::CONFIG;
use crate::model::parameters::EMBEDDINGS;
use crate::model::{FileLayout, FileTensor, ModelSpec};
use crate::quant::native::{self, Notes};
use crate::quant::{Weight, WeightStore};
use crate::runtime::Model;
use beside::Beside;
use config::{Configuration, set_type};
use serde_json::{Map, Value, json};
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

/// Such directories, for what is made of one source.
pub struct HuggingFace {
    configuration: Configuration,
    layout: FileLayout,
    /// Number formats of the source.
    types: FloatTypes,
    beside: Beside,
}

impl HuggingFace {
    /// For what is made of a model.
    pub fn of(source: &Model) -> Result<Self> {
        if source.is_packed()? {
            let reason = "this model's weights are quantised already, and a Hugging Face directory holds full-precision ones: set [output] format = \"native\"";
            return Err(Error::Usage(reason.into()));
        }
        let (configuration, layout) = match &source.layout {
            Some(layout) => (Configuration::of_directory(&source.path)?, layout.clone()),
            // A llama2.c file has no configuration.
            None => {
                let configuration = Configuration::of_llama(&source.path, source.spec())?;
                let layout = FileLayout::new(configuration.family.names);
                (configuration, layout)
            }
        };
        let types = FloatTypes::of(&*source.store)?;
        Ok(Self { configuration, layout, types, beside: Beside::of(source)? })
    }
}

/// What is written here is checked to hold no codes when the recipe is.
fn dense(weight: Weight) -> DenseTensor {
    match weight {
        Weight::Dense(tensor) => tensor,
        Weight::Packed(_) => panic!("a quantised weight in a model of full precision"),
    }
}

impl Format for HuggingFace {
    fn check(&self, spec: &ModelSpec) -> Result<()> {
        self.configuration.of_spec(spec).map(drop)
    }

    /// Each in the source's number format, or in f32 where that is f16 and too small.
    fn shipped(&self, solved: Arc<dyn WeightStore>) -> Result<Arc<dyn WeightStore>> {
        let (shipped, beyond) = InType::new(solved, &self.types).widened()?;
        if let Some(first) = beyond.first() {
            let more = if beyond.len() > 1 { format!(" and {} more", beyond.len() - 1) } else { String::new() };
            tracing::warn!("{first}{more}: weights have grown beyond f16, the source's number format, and are written in f32");
        }
        Ok(Arc::new(shipped))
    }

    fn write(&self, shipped: &dyn WeightStore, notes: &Notes, dir: &Path) -> Result<Vec<String>> {
        let mut files = self.beside.write(dir)?;
        let parameter = |name: &str| shipped.weight(name).map(dense);
        let entry = |tensor: FileTensor| {
            let filled = tensor.filled(alike(tensor.parameters().map(parameter).collect::<Result<_>>()?));
            Ok(Entry { dtype: filled.float_type.safetensors(), name: filled.name, shape: filled.shape, bytes: filled.bytes })
        };
        let entries = self.layout.tensors(shipped.spec()).into_iter().map(entry).collect::<Result<Vec<_>>>()?;
        // Without it transformers does not know whose layout it is.
        let mut metadata = Map::from_iter([("format".to_owned(), json!("pt"))]);
        metadata.extend(notes.metadata());
        write_tensors(&dir.join(SINGLE), entries, metadata)?;
        let mut config = self.configuration.of_spec(shipped.spec())?;
        self.set_type(&mut config, shipped)?;
        let text = serde_json::to_string_pretty(&config).expect("a configuration is JSON");
        write_atomically(&dir.join(CONFIG), |out| writeln!(out, "{text}"))?;
        files.extend([SINGLE, CONFIG].map(str::to_owned));
        Ok(files)
    }

    fn writes(&self, name: &str) -> bool {
        [SINGLE, CONFIG].contains(&name) || self.beside.writes(name)
    }

    fn check_folder(&self, out: &Path) -> Result<()> {
        let refuse = |name: &str, why: &str| {
            let reason = format!("[output] format = \"hf\": {} {why}: choose another --out", out.join(name).display());
            Err(Error::Usage(reason))
        };
        match () {
            () if out.join(native::FILE_NAME).exists() => refuse(native::FILE_NAME, "would be opened in place of what is written"),
            () if is_ours(&out.join(SINGLE)) => Ok(()),
            () => match [SINGLE, CONFIG].into_iter().find(|name| out.join(name).exists()) {
                Some(name) => refuse(name, "is of a model that is not from here, which would be written over"),
                None => Ok(()),
            },
        }
    }
}

impl HuggingFace {
    /// Says in the configuration what number format the weights are in: what the source's says, and
    /// that of the embedding where it says nothing. transformers converts all tensors to it, so
    /// that it is f32 where some have grown beyond f16.
    fn set_type(&self, config: &mut Value, shipped: &dyn WeightStore) -> Result<()> {
        let float_type = |name: &str| Ok::<_, Error>(dense(shipped.stored(name)?).float_type);
        let (spec, keys) = (shipped.spec(), ["dtype", "torch_dtype"]);
        let mut is_wider = false;
        for parameter in spec.parameters() {
            let was = self.types.wanted(&parameter, spec.blocks.len());
            is_wider |= was == Some(FloatType::F16) && float_type(&parameter.name)? == FloatType::F32;
        }
        match () {
            () if is_wider => set_type(config, FloatType::F32),
            () if keys.iter().any(|key| config.get(key).is_some()) => (),
            () => set_type(config, float_type(EMBEDDINGS)?),
        }
        Ok(())
    }
}

/// Parameters of one tensor in one number format: their own, and f32 where theirs differ.
fn alike(parameters: Vec<DenseTensor>) -> Vec<DenseTensor> {
    match parameters.windows(2).all(|pair| pair[0].float_type == pair[1].float_type) {
        true => parameters,
        false => parameters.into_iter().map(|parameter| parameter.to_type(FloatType::F32)).collect(),
    }
}

/// Whether weights say that an earlier run has written them.
fn is_ours(weights: &Path) -> bool {
    Notes::read(weights).is_ok_and(|notes| !notes.provenance.is_null())
}
