//! How a compressed model is written: one file or folder a format, and a row in
//! [`format()`]. Whatever is written, the pipeline opens it again, compares it with
//! what the stages have left, measures it, and puts it in its place.

mod hugging_face;
mod in_type;
mod narrow;
mod native;

pub use hugging_face::HuggingFace;
pub use narrow::kept;
pub use native::Native;

use crate::error::{Error, Result};
use crate::model::ModelSpec;
use crate::quant::WeightStore;
use crate::quant::native::Notes;
use crate::recipe::OutputFormat;
use crate::runtime::Model;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A format that models are written in.
pub trait Format {
    /// Fails where no model of this spec can be written, and says why.
    fn check(&self, spec: &ModelSpec) -> Result<()>;

    /// The numbers that are written, of those that the stages have left.
    fn shipped(&self, solved: Arc<dyn WeightStore>) -> Result<Arc<dyn WeightStore>>;

    /// Writes them into a folder, in place of what it wrote there before; the notes are in the
    /// files. Gives the names of the files in the order in
    /// which they are to be put in their place: what makes a folder a model comes last.
    fn write(&self, shipped: &dyn WeightStore, notes: &Notes, dir: &Path) -> Result<Vec<String>>;

    /// True if [`Format::write`] makes a file of this name.
    fn writes(&self, name: &str) -> bool;

    /// Fails where a folder holds what the model must not be put beside.
    fn check_folder(&self, out: &Path) -> Result<()>;
}

/// The format that a recipe asks for, of what is made of `source`. No weight is read.
pub fn format(output: OutputFormat, source: &Model) -> Result<Box<dyn Format>> {
    Ok(match output {
        OutputFormat::Native => Box::new(Native::of(source)),
        OutputFormat::HuggingFace => Box::new(HuggingFace::of(source)?),
    })
}

/// Moves written files into a folder, in their order. Where there are many and the
/// last one replaces another, that goes first: a folder of new and old files is no
/// model.
pub fn put_in_place(files: &[String], from: &Path, out: &Path) -> Result<Vec<PathBuf>> {
    if let [_, .., last] = files {
        let last = out.join(last);
        if last.exists() {
            std::fs::remove_file(&last).map_err(Error::io("replace", &last))?;
        }
    }
    let put = |name: &String| {
        let to = out.join(name);
        std::fs::rename(from.join(name), &to).map_err(Error::io("write", &to))?;
        Ok(to)
    };
    files.iter().map(put).collect()
}
