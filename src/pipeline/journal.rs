//! What a run has done so far, in a folder of its output that goes when the run
//! ends: a key, token streams, and one part a finished block.

use crate::checkpoint::write_atomically;
use crate::error::{Error, Result};
use crate::model::ModelSpec;
use crate::quant::Weight;
use crate::quant::native::{self, NativeFile, Notes};
use crate::report::LayerReport;
use std::cell::Cell;
use std::io::Write;
use std::path::{Path, PathBuf};

/// What to do where an unfinished run in the output folder is another's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnChange {
    /// Resume what fits; where it does not, say so and start afresh.
    StartAfresh,
    /// It is an error not to be able to resume.
    Refuse,
    /// Always start afresh.
    Ignore,
}

/// The folder.
pub struct Journal {
    dir: PathBuf,
    resumed: Cell<usize>,
}

const FOLDER: &str = ".unfinished";
const KEY: &str = "key";

impl Journal {
    /// Opens or makes the folder under `out`.
    pub fn open(out: &Path, key: &str, on_change: OnChange) -> Result<Self> {
        let dir = out.join(FOLDER);
        let found = std::fs::read_to_string(dir.join(KEY)).ok();
        let fits = found.as_deref() == Some(key);
        match on_change {
            OnChange::Refuse if found.is_none() => {
                return Err(Error::Usage(format!("--resume: there is no unfinished run in {}", out.display())));
            }
            OnChange::Refuse if !fits => {
                let reason = format!("--resume: the unfinished run in {} is of another recipe, text or model", out.display());
                return Err(Error::Usage(format!("{reason}; use --fresh to start again")));
            }
            OnChange::StartAfresh if found.is_some() && !fits => {
                tracing::warn!("the unfinished run in {} is of another recipe, text or model: starting afresh", out.display());
            }
            _ => (),
        }
        if dir.exists() && (!fits || on_change == OnChange::Ignore) {
            std::fs::remove_dir_all(&dir).map_err(Error::io("remove", &dir))?;
        }
        std::fs::create_dir_all(&dir).map_err(Error::io("create", &dir))?;
        write_atomically(&dir.join(KEY), |out| out.write_all(key.as_bytes()))?;
        Ok(Self { dir, resumed: Cell::new(0) })
    }

    /// A file of the run.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Token streams that are made once.
    pub fn tokens(&self, name: &str, make: impl FnOnce() -> Result<Vec<Vec<u32>>>) -> Result<Vec<Vec<u32>>> {
        let path = self.path(&format!("{name}.json"));
        if let Some(found) = std::fs::read(&path).ok().and_then(|text| serde_json::from_slice(&text).ok()) {
            return Ok(found);
        }
        let made = make()?;
        let text = serde_json::to_vec(&made).expect("numbers are JSON");
        write_atomically(&path, |out| out.write_all(&text))?;
        Ok(made)
    }

    /// A part of the model (`embeddings`, `blocks.3`, …): from the folder where it
    /// is finished, otherwise made and written. Either way what comes back was read
    /// from disk.
    pub fn part(
        &self,
        spec: &ModelSpec,
        name: &str,
        make: impl FnOnce() -> Result<(Vec<(String, Weight)>, Vec<LayerReport>)>,
    ) -> Result<Part> {
        let path = self.path(&format!("{name}.part.thimble"));
        if path.exists() {
            match Part::open(&path, name) {
                Ok(part) => {
                    self.resumed.set(self.resumed.get() + usize::from(name.starts_with("blocks.")));
                    return Ok(part);
                }
                Err(damage) => tracing::warn!("{name} of the unfinished run is damaged and made again: {damage}"),
            }
        }
        let (weights, layers) = make()?;
        let notes = Notes { quality: serde_json::to_value(&layers).expect("a report is JSON"), ..Notes::default() };
        native::write(&path, spec, &weights, None, &notes)?;
        let part = Part::open(&path, name)?;
        part.must_equal(&weights, &path)?;
        Ok(part)
    }

    /// Blocks that an earlier run had finished.
    pub fn resumed(&self) -> usize {
        self.resumed.get()
    }

    /// All weights of all parts, as views of their files.
    pub fn assemble(&self, spec: &ModelSpec) -> Result<Vec<(String, Weight)>> {
        let blocks = (0..spec.blocks.len()).map(|i| format!("blocks.{i}"));
        let names = std::iter::once("embeddings".to_owned()).chain(blocks).chain(["end".to_owned()]);
        let parts = names.map(|name| Part::open(&self.path(&format!("{name}.part.thimble")), &name)).collect::<Result<Vec<_>>>()?;
        Ok(parts.into_iter().flat_map(|p| p.weights).collect())
    }

    /// Ends the run.
    pub fn remove(self) -> Result<()> {
        std::fs::remove_dir_all(&self.dir).map_err(Error::io("remove", &self.dir))
    }
}

/// A finished part of the model.
pub struct Part {
    /// By canonical name.
    pub weights: Vec<(String, Weight)>,
    /// What compressing it cost.
    pub layers: Vec<LayerReport>,
}

impl Part {
    /// `end` holds what is neither embeddings nor in a block.
    fn open(path: &Path, name: &str) -> Result<Self> {
        let prefix = format!("{name}.");
        let file = NativeFile::open_part(path, |parameter| match name {
            "end" => !parameter.starts_with("blocks.") && parameter != "embeddings",
            _ => parameter == name || parameter.starts_with(&prefix),
        })?;
        let layers = serde_json::from_value(file.notes().quality.clone()).map_err(|e| Error::format(path, format!("its report: {e}")))?;
        Ok(Self { weights: file.into_weights().collect(), layers })
    }

    /// Packing lost nothing: what was read back is, code for code, what was solved.
    fn must_equal(&self, made: &[(String, Weight)], path: &Path) -> Result<()> {
        for (name, weight) in made {
            let read = self.weights.iter().find(|(n, _)| n == name).map(|(_, w)| w);
            let same = match (weight, read) {
                (Weight::Packed(a), Some(Weight::Packed(b))) => a.unpack() == b.unpack(),
                (Weight::Dense(a), Some(Weight::Dense(b))) => a.shape == b.shape && a.float_type == b.float_type && *a.bytes == *b.bytes,
                _ => false,
            };
            if !same {
                return Err(Error::format(path, format!("{name} is not what was written: the disk or this program is faulty")));
            }
        }
        Ok(())
    }
}
