//! Inputs of layers that calibration did not meet.

use super::LayerReport;
use serde::{Deserialize, Serialize};

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

/// Says of some layers what calibration missed; `None` where it missed nothing.
pub fn warning(layers: &[LayerReport]) -> Option<String> {
    let missed: Vec<_> = layers.iter().filter_map(|layer| Some((&layer.name, layer.unseen_inputs?))).collect();
    let (name, worst) = missed.iter().max_by(|a, b| a.1.share.total_cmp(&b.1.share))?;
    let others = match missed.len() {
        1 => String::new(),
        n => format!("; in all {n} of {} layers miss some (see unseen_inputs in the report)", layers.len()),
    };
    Some(format!(
        "calibration missed {:.1} % of the inputs of {name}: {} are zero for every token, {} are met by a handful of tokens{others}. Their columns \
         are treated as without calibration; more or other calibration text may meet them",
        100.0 * worst.share,
        worst.never,
        worst.rarely,
    ))
}
