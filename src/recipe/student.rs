//! `[stage.student]`: a smaller model, started from the one it is made of.

use super::error::{Checked, RecipeError};
use crate::model::student::{Initialise, Layers};
use crate::model::{ModelSpec, StudentShape};
use serde::Deserialize;

/// As it is written.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawStudent {
    layers: Layers,
    n_layers: Option<usize>,
    hidden_size: Option<usize>,
    intermediate_size: Option<usize>,
    n_heads: Option<usize>,
    n_kv_heads: Option<usize>,
    repeat: usize,
    shared_ffn: bool,
    initialise: Initialise,
    seed: u64,
}

impl Default for RawStudent {
    fn default() -> Self {
        Self {
            layers: Layers::default(),
            n_layers: None,
            hidden_size: None,
            intermediate_size: None,
            n_heads: None,
            n_kv_heads: None,
            repeat: 1,
            shared_ffn: false,
            initialise: Initialise::default(),
            seed: 0,
        }
    }
}

impl RawStudent {
    /// For a teacher.
    pub fn checked(&self, teacher: &ModelSpec) -> Checked<StudentShape> {
        let of = RecipeError::at("student");
        let shape = StudentShape {
            layers: self.layers.choose(self.n_layers, teacher.blocks.len()).map_err(|error| of(error.into()))?,
            hidden_size: self.hidden_size,
            intermediate_size: self.intermediate_size,
            n_heads: self.n_heads,
            n_kv_heads: self.n_kv_heads,
            repeat: self.repeat,
            shared_ffn: self.shared_ffn,
            initialise: self.initialise,
            seed: self.seed,
        };
        match shape.apply(teacher).map_err(|error| of(error.into()))? {
            student if student == *teacher && shape.initialise == Initialise::Teacher => {
                let reason = "it would be its teacher: say how much smaller it is, such as n_layers = 4";
                Err(of(RecipeError::Missing { key: "layers", reason }))
            }
            _ => Ok(shape),
        }
    }
}
