//! What a subject is calibrated on.

use crate::subject::Subject;
use std::path::PathBuf;
use thimble::pipeline::calibration_sequences;
use thimble::progress::Silent;
use thimble::recipe::{Calibration, TextSource, TokenImportance};
use thimble::text::Text;

pub const SEQUENCES: usize = 128;

impl Subject {
    pub fn calibration_text(&self) -> PathBuf {
        self.text("tinystories/calib.txt")
    }

    /// What our pipeline calibrates on with this seed.
    pub fn calibration(&self, sequences: usize, seed: u64) -> Vec<Vec<u32>> {
        let text = Text::open(&self.calibration_text()).unwrap();
        let drawn =
            Calibration { text: TextSource::Model, sequences, length: self.window(), seed, token_importance: TokenImportance::Equal };
        calibration_sequences(&self.original, Some(&text), &drawn, 0, &Silent).unwrap()
    }
}
