//! Inputs of layers that calibration did not meet.

use super::LayerReport;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Inputs of a layer that calibration did not meet, or met on too few tokens to learn from. A method
/// treats their columns as it would without calibration: it rounds them to nearest, judges
/// them by magnitude alone, or leaves them as they were.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct UnseenInputs {
    /// Inputs that are zero for every token.
    pub never: usize,
    /// Inputs that only a handful of tokens met.
    pub rarely: usize,
    /// Share of both in the layer's inputs.
    pub share: f64,
}

impl fmt::Display for UnseenInputs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "calibration missed {:.1} % of its inputs: {} are zero for every token, {} are met by a handful of tokens",
            100.0 * self.share,
            self.never,
            self.rarely
        )
    }
}

/// Says of some layers what calibration missed; `None` where it missed nothing.
pub fn warning(layers: &[LayerReport]) -> Option<String> {
    let missed: Vec<_> = layers.iter().filter_map(|layer| Some((&layer.name, layer.unseen_inputs?))).collect();
    let (name, worst) = missed.iter().max_by(|a, b| a.1.share.total_cmp(&b.1.share))?;
    let others = match missed.len() {
        1 => String::new(),
        n => format!("; {n} of {} layers miss some (unseen_inputs in the report)", layers.len()),
    };
    Some(format!(
        "{name}: {worst}{others}. Columns of such inputs are treated as without calibration; more calibration text, or other text, may \
         meet them"
    ))
}
