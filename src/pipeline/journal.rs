//! What a run has done so far, in a folder of its output that goes when the run
//! ends: a key, token streams, and one part a finished block.

use crate::checkpoint::{FolderLock, check_unchanged, without_sync, write_atomically};
use crate::error::{Error, Result};
use crate::model::{ModelSpec, Part};
use crate::quant::native::{self, NativeFile, Notes};
use crate::quant::{Assembled, Weight};
use crate::report::LayerReport;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::cell::Cell;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

/// What to do with an unfinished run in the output folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unfinished {
    /// Resume it; where it does not fit, say so and start afresh.
    Resume,
    /// It is an error not to be able to resume.
    MustResume,
    /// Always start again.
    StartAgain,
}

/// The folder.
pub struct Journal {
    dir: PathBuf,
    resumed: Rc<Cell<usize>>,
    /// One run at a time works in it.
    _lock: FolderLock,
}

/// A part that is made sooner is not waited for until it is on the disk: that takes about as
/// long.
const QUICK: Duration = Duration::from_millis(50);

/// Name of the folder.
pub const FOLDER: &str = ".unfinished";
const KEY: &str = "key";

impl Journal {
    /// Opens or makes the folder under `out`, which is locked.
    pub fn open(out: &Path, lock: FolderLock, key: &str, unfinished: Unfinished) -> Result<Self> {
        let dir = out.join(FOLDER);
        let found = std::fs::read_to_string(dir.join(KEY)).ok();
        let fits = found.as_deref() == Some(key);
        match unfinished {
            Unfinished::MustResume if found.is_none() => {
                return Err(Error::Usage(format!("--resume: there is no unfinished run in {}", out.display())));
            }
            Unfinished::MustResume if !fits => {
                let reason = format!("--resume: the unfinished run in {} is of another recipe, text or model", out.display());
                return Err(Error::Usage(format!("{reason}; use --fresh to start again")));
            }
            Unfinished::Resume if found.is_some() && !fits => {
                tracing::warn!("the unfinished run in {} is of another recipe, text or model: starting afresh", out.display());
            }
            _ => (),
        }
        if dir.exists() && (!fits || unfinished == Unfinished::StartAgain) {
            std::fs::remove_dir_all(&dir).map_err(Error::io("remove", &dir))?;
        }
        std::fs::create_dir_all(&dir).map_err(Error::io("create", &dir))?;
        write_atomically(&dir.join(KEY), |out| out.write_all(key.as_bytes()))?;
        Ok(Self { dir, resumed: Rc::default(), _lock: lock })
    }

    /// A file of the run.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// A folder of the run, without what an earlier one has left in it.
    pub fn empty_folder(&self, name: &str) -> Result<PathBuf> {
        let dir = self.path(name);
        if dir.exists() {
            std::fs::remove_dir_all(&dir).map_err(Error::io("remove", &dir))?;
        }
        std::fs::create_dir_all(&dir).map_err(Error::io("create", &dir))?;
        Ok(dir)
    }

    /// Token streams that are made once.
    pub fn tokens(&self, name: &str, make: impl FnOnce() -> Result<Vec<Vec<u32>>>) -> Result<Vec<Vec<u32>>> {
        once(&self.path(&format!("{name}.json")), make)
    }

    /// A stage's own folder.
    pub fn stage(&self, index: usize) -> Result<StageJournal> {
        let dir = self.path(&format!("stage-{index}"));
        std::fs::create_dir_all(&dir).map_err(Error::io("create", &dir))?;
        Ok(StageJournal { dir, resumed: self.resumed.clone() })
    }

    /// Blocks that an earlier run had finished.
    pub fn resumed(&self) -> usize {
        self.resumed.get()
    }

    /// Ends the run.
    pub fn remove(self) -> Result<()> {
        std::fs::remove_dir_all(&self.dir).map_err(Error::io("remove", &self.dir))
    }
}

/// From a file where it is there, otherwise made and written.
fn once<T: Serialize + DeserializeOwned>(path: &Path, make: impl FnOnce() -> Result<T>) -> Result<T> {
    if let Some(found) = std::fs::read(path).ok().and_then(|text| serde_json::from_slice(&text).ok()) {
        return Ok(found);
    }
    let made = make()?;
    let text = serde_json::to_vec(&made).expect("it is JSON");
    write_atomically(path, |out| out.write_all(&text))?;
    Ok(made)
}

/// What one stage has done so far.
pub struct StageJournal {
    dir: PathBuf,
    resumed: Rc<Cell<usize>>,
}

impl StageJournal {
    /// A file of the stage's own.
    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Something small that is made once.
    pub fn value<T: Serialize + DeserializeOwned>(&self, name: &str, make: impl FnOnce() -> Result<T>) -> Result<T> {
        once(&self.file(&format!("{name}.json")), make)
    }

    /// What a step of the stage has done so far, which walks over the model by itself.
    pub fn step(&self, name: &str) -> Result<Self> {
        let dir = self.file(name);
        std::fs::create_dir_all(&dir).map_err(Error::io("create", &dir))?;
        Ok(Self { dir, resumed: Rc::default() })
    }

    /// A file that stages share.
    pub fn shared(&self, name: &str) -> PathBuf {
        self.dir.with_file_name(name)
    }

    fn path(&self, part: Part) -> PathBuf {
        self.file(&format!("{part}.part.thimble"))
    }

    /// A part of the model: from the folder where it is finished, otherwise made and
    /// written. Either way what comes back was read from disk.
    pub fn part(&self, spec: &ModelSpec, part: Part, make: impl FnOnce() -> Result<PartResult>) -> Result<PartResult> {
        let path = self.path(part);
        if path.exists() {
            match read_undamaged(&path, part) {
                Ok(made) => {
                    self.resumed.set(self.resumed.get() + usize::from(matches!(part, Part::Block(_))));
                    return Ok(made);
                }
                Err(damage) => tracing::warn!("{part} of the unfinished run is damaged and made again: {damage}"),
            }
        }
        let start = Instant::now();
        let made = make()?;
        // Thousands of stages on a small model would wait for nothing but the disk. A file that
        // a power failure leaves damaged is found so, and made again.
        let is_quick = start.elapsed() < QUICK;
        check_unchanged()?;
        for layer in &made.layers {
            Error::expect_finite(&format!("the relative error of {}", layer.name), layer.relative_error)?;
        }
        let notes = Notes { quality: serde_json::to_value(&made.layers).expect("a report is JSON"), ..Notes::default() };
        let write = || native::write(&path, spec, &made.weights, None, &notes);
        if is_quick {
            without_sync(write)?
        } else {
            write()?
        }
        let found = read(&path, part)?;
        found.must_equal(&made, &path)?;
        Ok(found)
    }

    /// A whole model, and what there is to say of how it was made: from the folder where it
    /// is finished, otherwise made and written.
    pub fn phase<T: Serialize + DeserializeOwned>(
        &self,
        name: &str,
        spec: &ModelSpec,
        make: impl FnOnce() -> Result<(Vec<(String, Weight)>, T)>,
    ) -> Result<(Assembled, T)> {
        let path = self.file(&format!("{name}.thimble"));
        let read = || {
            let file = NativeFile::open(&path)?;
            file.expect_undamaged()?;
            let report = serde_json::from_value(file.notes().quality.clone());
            let report = report.map_err(|e| Error::format(&path, format!("its report: {e}")))?;
            Ok((Assembled::new(spec.clone(), file.into_weights()), report))
        };
        if path.exists() {
            match read() {
                Ok(found) => return Ok(found),
                Err(damage) => tracing::warn!("{name} of the unfinished run is damaged and made again: {}", Error::to_string(&damage)),
            }
        }
        let (weights, report) = make()?;
        check_unchanged()?;
        let notes = Notes { quality: serde_json::to_value(&report).expect("a report is JSON"), ..Notes::default() };
        native::write(&path, spec, &weights, None, &notes)?;
        read()
    }

    /// The model that the stage has made: views of its parts' files.
    pub fn model(&self, spec: &ModelSpec) -> Result<Assembled> {
        let parts = spec.parts().map(|part| read(&self.path(part), part)).collect::<Result<Vec<_>>>()?;
        Ok(Assembled::new(spec.clone(), parts.into_iter().flat_map(|made| made.weights)))
    }
}

/// A finished part of the model.
pub struct PartResult {
    /// By canonical name.
    pub weights: Vec<(String, Weight)>,
    /// What compressing it cost.
    pub layers: Vec<LayerReport>,
}

fn open(path: &Path, part: Part) -> Result<NativeFile> {
    NativeFile::open_part(path, |parameter| parameter.part == part)
}

fn read(path: &Path, part: Part) -> Result<PartResult> {
    made(open(path, part)?, path)
}

/// Reads a part that an earlier run has left, and compares its hashes.
fn read_undamaged(path: &Path, part: Part) -> Result<PartResult> {
    let file = open(path, part)?;
    file.expect_undamaged()?;
    made(file, path)
}

fn made(file: NativeFile, path: &Path) -> Result<PartResult> {
    let layers = serde_json::from_value(file.notes().quality.clone()).map_err(|e| Error::format(path, format!("its report: {e}")))?;
    Ok(PartResult { weights: file.into_weights().collect(), layers })
}

impl PartResult {
    /// Packing lost nothing: what was read back is, code for code, what was solved.
    fn must_equal(&self, made: &PartResult, path: &Path) -> Result<()> {
        for (name, weight) in &made.weights {
            let read = self.weights.iter().find(|(n, _)| n == name).map(|(_, w)| w);
            let same = match (weight, read) {
                (Weight::Packed(a), Some(Weight::Packed(b))) => a == b,
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
