//! What a stage has taken out.

use serde::{Deserialize, Serialize};

/// What was taken out, and what is left.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PruningReport {
    /// Layers that are gone, as they were counted before.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub layers_out: Vec<usize>,
    /// What each layer was found to be worth, where layers were judged; by angles, the run
    /// that begins with it.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub layer_scores: Vec<f64>,
    /// What is left of each width that was cut, in words.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub widths: Vec<String>,
    /// Parameters before the stage.
    pub parameters_before: u64,
    /// And behind it.
    pub parameters_after: u64,
}

impl std::fmt::Display for PruningReport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (before, after) = (self.parameters_before, self.parameters_after);
        write!(f, "{after} of {before} parameters are left ({:.1} %)", 100.0 * after as f64 / before as f64)?;
        if !self.layers_out.is_empty() {
            write!(f, "; out are layers {:?}", self.layers_out)?;
        }
        if !self.widths.is_empty() {
            write!(f, "; {}", self.widths.join("; "))?;
        }
        Ok(())
    }
}
