//! An ordinary Hugging Face directory: `config.json`, `model.safetensors` and the
//! source's tokenizer, for models whose weights are all in full precision.
//!
//! The tensors are named and laid out as the source's are ([`FileLayout`]), and the
//! configuration is the source's with the new widths in it (`config.rs`).

mod beside;
mod config;
mod in_type;

use super::Format;
use crate::checkpoint::safetensors::SINGLE;
use crate::checkpoint::{DenseTensor, Entry, FloatType, write_atomically, write_tensors};
use crate::error::{Error, Result};
use crate::model::families::CONFIG;
use crate::model::parameters::EMBEDDINGS;
use crate::model::{DenseModel, FileLayout, FileTensor, ModelSpec};
use crate::quant::native::{self, Notes};
use crate::quant::{Weight, WeightStore};
use crate::runtime::Model;
use beside::Beside;
use config::Configuration;
use in_type::InType;
use serde_json::{Map, json};
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

/// By which a folder that a run has written is known.
const REPORT: &str = "report.json";

/// Such a directory, for one source and one spec.
pub struct HuggingFace {
    configuration: Configuration,
    layout: FileLayout,
    /// Number format of the source.
    float_type: FloatType,
    beside: Beside,
}

impl HuggingFace {
    /// For a model of `spec` that is made of `source`. Fails where the configuration of
    /// its family cannot say that spec.
    pub fn plan(source: &Model, spec: &ModelSpec) -> Result<Self> {
        let configuration = match source.path.is_dir() {
            true => Configuration::of_directory(&source.path, spec)?,
            // A llama2.c file has none.
            false => Configuration::of_llama(&source.path, spec)?,
        };
        let layout = match source.path.is_dir() {
            true => DenseModel::open_hugging_face(&source.path)?.layout().clone(),
            false => FileLayout::new(configuration.family.names),
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
    /// In the source's number format, or in f32 where that is f16 and too small.
    fn shipped(&self, solved: Arc<dyn WeightStore>) -> Result<Arc<dyn WeightStore>> {
        let shipped = InType { store: solved.clone(), float_type: self.float_type };
        if self.float_type == FloatType::F16 && !shipped.is_finite()? {
            tracing::warn!("weights have grown beyond f16, which the source is in: they are written in f32");
            return Ok(Arc::new(InType { store: solved, float_type: FloatType::F32 }));
        }
        Ok(Arc::new(shipped))
    }

    fn write(&self, shipped: &dyn WeightStore, _notes: &Notes, dir: &Path) -> Result<Vec<String>> {
        let mut files = self.beside.write(dir)?;
        let parameter = |name: &str| shipped.weight(name).map(dense);
        let entry = |tensor: FileTensor| {
            let filled = tensor.filled(tensor.parameters().map(parameter).collect::<Result<_>>()?);
            Ok(Entry { dtype: filled.float_type.safetensors(), name: filled.name, shape: filled.shape, bytes: filled.bytes })
        };
        let entries = self.layout.tensors(shipped.spec()).into_iter().map(entry).collect::<Result<Vec<_>>>()?;
        let float_type = dense(shipped.stored(EMBEDDINGS)?).float_type;
        // Without it transformers does not know whose layout it is.
        let metadata = Map::from_iter([("format".to_owned(), json!("pt"))]);
        write_tensors(&dir.join(SINGLE), entries, metadata)?;
        let text = serde_json::to_vec_pretty(&self.configuration.in_type(float_type)).expect("a configuration is JSON");
        write_atomically(&dir.join(CONFIG), |out| out.write_all(&text))?;
        files.extend([SINGLE, CONFIG].map(str::to_owned));
        Ok(files)
    }

    /// The model card and report.json beside it say what was measured.
    fn holds_notes(&self) -> bool {
        false
    }

    fn check_folder(&self, out: &Path) -> Result<()> {
        let refuse = |name: &str, why: &str| {
            let reason = format!("[output] format = \"hf\": {} {why}: choose another --out", out.join(name).display());
            Err(Error::Usage(reason))
        };
        match () {
            () if out.join(native::FILE_NAME).exists() => refuse(native::FILE_NAME, "would be opened in place of what is written"),
            () if out.join(CONFIG).exists() && !out.join(REPORT).exists() => {
                refuse(CONFIG, "is of a model that is not from here, which would be written over")
            }
            () => Ok(()),
        }
    }
}
