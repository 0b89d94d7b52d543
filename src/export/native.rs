//! `model.thimble`: one file that is all a device needs.

use super::{Format, narrow};
use crate::error::Result;
use crate::model::ModelSpec;
use crate::quant::WeightStore;
use crate::quant::native::{self, Notes};
use crate::runtime::Model;
use std::path::Path;
use std::sync::Arc;

/// The native file, with the tokenizer of the source in it.
pub struct Native {
    tokenizer: Option<Vec<u8>>,
}

impl Native {
    /// For what is made of a model.
    pub fn of(source: &Model) -> Self {
        Self { tokenizer: source.tokenizer.as_ref().map(|t| t.file().to_vec()) }
    }
}

impl Format for Native {
    /// Its spec says all that there is.
    fn check(&self, _spec: &ModelSpec) -> Result<()> {
        Ok(())
    }

    fn shipped(&self, solved: Arc<dyn WeightStore>) -> Result<Arc<dyn WeightStore>> {
        Ok(Arc::new(narrow::model(solved)?))
    }

    fn write(&self, shipped: &dyn WeightStore, notes: &Notes, dir: &Path) -> Result<Vec<String>> {
        native::write_model(&dir.join(native::FILE_NAME), shipped, self.tokenizer.as_deref(), notes)?;
        Ok(vec![native::FILE_NAME.to_owned()])
    }

    fn writes(&self, name: &str) -> bool {
        name == native::FILE_NAME
    }

    /// Whatever else a folder holds, the native file is what is opened.
    fn check_folder(&self, _out: &Path) -> Result<()> {
        Ok(())
    }
}
