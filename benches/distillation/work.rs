//! What timed runs read: a random model of some shape, and ids of real text.

use crate::ids;
use crate::random_llama::{self, Shape};
use crate::subject::Subject;
use std::path::PathBuf;
use tempfile::TempDir;

pub const BATCH: usize = 8;
pub const LENGTH: usize = 256;

/// A folder of both.
pub struct Work {
    dir: TempDir,
    steps: usize,
}

impl Work {
    /// For so many steps; ids as the subject's tokenizer makes them.
    pub fn new(subject: &Subject, shape: &Shape, steps: usize) -> Self {
        let work = Self { dir: tempfile::tempdir().unwrap(), steps };
        std::fs::create_dir(work.model()).unwrap();
        random_llama::write(&work.model(), shape);
        let text = std::fs::read_to_string(subject.text("tinystories/calib.txt")).unwrap();
        let text_ids = subject.original.tokenizer().unwrap().encode(&text).unwrap();
        let sequences = steps * BATCH;
        let shape = [sequences, LENGTH + 1];
        ids::write(&work.ids(), text_ids.iter().cycle().take(shape[0] * shape[1]), shape);
        work
    }

    fn model(&self) -> PathBuf {
        self.dir.path().join("model")
    }

    fn ids(&self) -> PathBuf {
        self.dir.path().join("ids.safetensors")
    }

    /// What both sides' steps are asked for with.
    pub fn arguments(&self) -> Vec<String> {
        let numbers = [("--batch", BATCH), ("--length", LENGTH), ("--steps", self.steps)];
        let files = [self.model(), self.ids()].map(|path| path.display().to_string());
        files.into_iter().chain(numbers.into_iter().flat_map(|(name, number)| [name.to_owned(), number.to_string()])).collect()
    }
}
