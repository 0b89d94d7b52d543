//! Students: smaller models of a teacher's kind, to be trained by it. A
//! [`StudentShape`] says how much smaller; it makes the student's spec from the
//! teacher's, and the weights that training starts from.

mod drawn;
mod layers;
mod reshape;
mod select;

pub use layers::{LayerRule, Layers, LayersError};

use super::{ModelSpec, Parameter};
use crate::error::Result;
use serde::{Deserialize, Serialize};

/// How a student differs from its teacher. A width that is not given is the
/// teacher's, and so is the width of a head.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct StudentShape {
    /// The teacher's layer that each layer starts from, first to last.
    pub layers: Vec<usize>,
    /// Width of the residual stream.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hidden_size: Option<usize>,
    /// Width of all feed-forwards.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub intermediate_size: Option<usize>,
    /// Query heads of all layers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub n_heads: Option<usize>,
    /// Key-value heads of all layers. Without it, the fewest that serve no more query
    /// heads each than the teacher's do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub n_kv_heads: Option<usize>,
    /// How often each layer is run in a row with the same weights (MobileLLM-LS: Liu et
    /// al. 2024, section 3.3).
    pub repeat: usize,
    /// Whether all layers use the first one's feed-forward (MobiLlama: Thawakar et al.
    /// 2024, section 3).
    pub shared_ffn: bool,
    /// What weights are before training.
    pub initialise: Initialise,
    /// Of random weights.
    pub seed: u64,
}

/// Where a student's first weights come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Initialise {
    /// Selected from the teacher's: indices at even distances along each axis, the same
    /// wherever it comes ("Initializing Models with Larger Ones", Xu et al. 2024,
    /// section 3), and whole heads.
    #[default]
    Teacher,
    /// Drawn.
    Random,
}

impl StudentShape {
    /// Some of the teacher's layers, as they are.
    pub fn of_layers(layers: Vec<usize>) -> Self {
        Self {
            layers,
            hidden_size: None,
            intermediate_size: None,
            n_heads: None,
            n_kv_heads: None,
            repeat: 1,
            shared_ffn: false,
            initialise: Initialise::Teacher,
            seed: 0,
        }
    }

    /// The numbers that a parameter of `student`, which this shape has made of
    /// `teacher`, has before training. `read` tells the teacher's by canonical name;
    /// it is asked for one parameter at most.
    pub fn starting_weight(
        &self,
        parameter: &Parameter,
        teacher: &ModelSpec,
        student: &ModelSpec,
        read: impl FnOnce(&str) -> Result<Vec<f32>>,
    ) -> Result<Vec<f32>> {
        let drawn = match self.initialise {
            Initialise::Teacher => None,
            Initialise::Random => drawn::numbers(parameter, student, self.seed),
        };
        drawn.map_or_else(|| self.selected(parameter, teacher, student, read), Ok)
    }

    /// The teacher's layer that a block of the student starts from.
    fn layer_of(&self, block: usize) -> usize {
        self.layers[block / self.repeat]
    }
}
