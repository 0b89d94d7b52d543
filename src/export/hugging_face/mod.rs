//! An ordinary Hugging Face directory: `config.json`, `model.safetensors` and the
//! source's tokenizer, for models whose weights are all in full precision.
//!
//! The tensors are named and laid out as the source's are ([`FileLayout`]), and the
//! configuration is the source's with the new widths in it (`config.rs`).

mod beside;
mod config;
mod in_type;
mod rules;

use super::Format;
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
use in_type::InType;
use serde_json::{Map, json};
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

/// Such directories, for what is made of one source.
pub struct HuggingFace {
    configuration: Configuration,
    layout: FileLayout,
    /// Number format of the source.
    float_type: FloatType,
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
        let float_type = dense(source.store.stored(EMBEDDINGS)?).float_type;
        Ok(Self { configuration, layout, float_type, beside: Beside::of(source)? })
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

    /// In the source's number format, or in f32 where that is f16 and too small.
    fn shipped(&self, solved: Arc<dyn WeightStore>) -> Result<Arc<dyn WeightStore>> {
        let shipped = InType { store: solved.clone(), float_type: self.float_type };
        if self.float_type == FloatType::F16 && !shipped.is_finite()? {
            tracing::warn!("weights have grown beyond f16, which the source is in: they are written in f32");
            return Ok(Arc::new(InType { store: solved, float_type: FloatType::F32 }));
        }
        Ok(Arc::new(shipped))
    }

    fn write(&self, shipped: &dyn WeightStore, notes: &Notes, dir: &Path) -> Result<Vec<String>> {
        let mut files = self.beside.write(dir)?;
        let parameter = |name: &str| shipped.weight(name).map(dense);
        let entry = |tensor: FileTensor| {
            let filled = tensor.filled(tensor.parameters().map(parameter).collect::<Result<_>>()?);
            Ok(Entry { dtype: filled.float_type.safetensors(), name: filled.name, shape: filled.shape, bytes: filled.bytes })
        };
        let entries = self.layout.tensors(shipped.spec()).into_iter().map(entry).collect::<Result<Vec<_>>>()?;
        let float_type = dense(shipped.stored(EMBEDDINGS)?).float_type;
        // Without it transformers does not know whose layout it is.
        let mut metadata = Map::from_iter([("format".to_owned(), json!("pt"))]);
        metadata.extend(notes.metadata());
        write_tensors(&dir.join(SINGLE), entries, metadata)?;
        let mut config = self.configuration.of_spec(shipped.spec())?;
        set_type(&mut config, float_type);
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

/// Whether weights say that an earlier run has written them.
fn is_ours(weights: &Path) -> bool {
    Notes::read(weights).is_ok_and(|notes| !notes.provenance.is_null())
}
