//! Which inputs of a block's linear layers can be scaled at no cost, derived from
//! the spec's roles: where what makes an input is linear in something that is
//! stored, that can be divided channel by channel, and the columns that read the
//! input multiplied by the same.

use super::parameters::{inputs, roles};
use super::spec::{Activation, Attention, Block, FeedForward, Gate, Mixer, ModelSpec, Norm, NormWeight, Residual, Wkv};

/// Inputs that are made by one thing, and so are divided alike.
#[derive(Clone, Debug, PartialEq)]
pub struct Fold {
    /// Names of the inputs (see [`inputs`]), all of one width.
    pub inputs: Vec<&'static str>,
    /// What makes them.
    pub fed_by: FedBy,
    /// The channel of the source that makes each channel of the inputs, `[in]`: heads
    /// that share their values have them from the same rows.
    pub channels: Vec<usize>,
}

/// What makes an input.
#[derive(Clone, Debug, PartialEq)]
pub enum FedBy {
    /// A norm, whose weight and bias are divided.
    Norm {
        /// Name inside the block.
        role: &'static str,
        /// How its weight is stored: never [`NormWeight::None`].
        weight: NormWeight,
        /// Whether it has a bias.
        bias: bool,
    },
    /// A linear layer, whose rows and bias are divided.
    Rows {
        /// Name inside the block.
        role: &'static str,
        /// The input grows as this power of what the rows make: they are divided by
        /// the scales to the power of its inverse.
        power: f64,
        /// Whether it has a bias.
        bias: bool,
    },
    /// Nothing that could be divided, and why.
    Nothing(&'static str),
}

impl ModelSpec {
    /// How the inputs of a block can be scaled; each is in one fold.
    pub fn folds(&self, block: usize) -> Vec<Fold> {
        let spec = &self.blocks[block];
        let mut folds = spec.folds(self.hidden_size);
        for fold in &mut folds {
            let source = match fold.fed_by {
                FedBy::Norm { role, .. } | FedBy::Rows { role, .. } => role,
                FedBy::Nothing(_) => continue,
            };
            let groups = spec.input_groups(self.hidden_size);
            let readers = groups.iter().filter(|group| fold.inputs.contains(&group.input)).flat_map(|group| &group.linears);
            if readers.into_iter().any(|reader| self.users(block, reader.role) != self.users(block, source)) {
                fold.fed_by = FedBy::Nothing("other blocks share its weights, but not what makes its input");
            }
        }
        folds
    }

    /// The blocks that use the weights that a block has at a role.
    fn users(&self, block: usize, role: &str) -> Vec<usize> {
        let owner = self.owner(block, role);
        (0..self.blocks.len()).filter(|&other| self.owner(other, role) == owner).collect()
    }
}

impl Block {
    fn folds(&self, hidden_size: usize) -> Vec<Fold> {
        let through =
            |norm: &Option<Norm>, role, inputs| Fold { inputs, fed_by: by_norm(norm, role), channels: (0..hidden_size).collect() };
        let (mut mixer_inputs, mixed) = match &self.mixer {
            Mixer::Attention(attention) => (vec![inputs::ATTENTION], attention.context_fold()),
            // Mixtures of two tokens, channel by channel.
            Mixer::Wkv(wkv) => (roles::WKV_MIX.map(|(_, mix)| mix).to_vec(), wkv.output_fold()),
        };
        let ffn_inputs = match self.ffn.gate {
            Gate::Hidden | Gate::None => vec![inputs::FFN],
            Gate::Receptance => roles::FFN_MIX.map(|(_, mix)| mix).to_vec(),
        };
        let ffn = match self.residual {
            Residual::Sequential | Residual::Parallel => Some(through(&self.ffn_norm, roles::FFN_NORM, ffn_inputs)),
            Residual::ParallelOneNorm => {
                mixer_inputs.extend(ffn_inputs);
                None
            }
        };
        let mixer = through(&self.mixer_norm, roles::MIXER_NORM, mixer_inputs);
        [mixer, mixed].into_iter().chain(ffn).chain([self.ffn.hidden_fold()]).collect()
    }
}

fn by_norm(norm: &Option<Norm>, role: &'static str) -> FedBy {
    match norm {
        None => FedBy::Nothing("it reads the residual stream itself"),
        Some(Norm { weight: NormWeight::None, .. }) => FedBy::Nothing("the norm before it has no weights"),
        Some(norm) => FedBy::Norm { role, weight: norm.weight, bias: norm.bias },
    }
}

impl Attention {
    /// Contexts are means of values, head by head.
    fn context_fold(&self) -> Fold {
        let inputs = vec![inputs::CONTEXT];
        if self.context_norm.is_some() {
            let channels = (0..self.q_width()).collect();
            return Fold { inputs, fed_by: by_norm(&self.context_norm, roles::CONTEXT_NORM), channels };
        }
        let fed_by = match self.qkv_clip {
            None => FedBy::Rows { role: "attn.v", power: 1.0, bias: self.qkv_bias },
            Some(_) => FedBy::Nothing("the values that make its input are cut off"),
        };
        let shared_by = self.n_heads / self.n_kv_heads;
        let channel = |i: usize| i / self.head_dim / shared_by * self.head_dim + i % self.head_dim;
        Fold { inputs, fed_by, channels: (0..self.q_width()).map(channel).collect() }
    }
}

impl Wkv {
    /// Means of the values over time, each times its receptance.
    fn output_fold(&self) -> Fold {
        Fold {
            inputs: vec![inputs::WKV],
            fed_by: FedBy::Rows { role: "wkv.value", power: 1.0, bias: false },
            channels: (0..self.width).collect(),
        }
    }
}

impl FeedForward {
    fn hidden_fold(&self) -> Fold {
        let rows = |power| FedBy::Rows { role: "ffn.up", power, bias: self.bias };
        let fed_by = match (&self.hidden_norm, self.gate, self.activation) {
            (Some(_), ..) => by_norm(&self.hidden_norm, roles::HIDDEN_NORM),
            (None, Gate::Hidden, _) => rows(1.0),
            (None, Gate::None | Gate::Receptance, Activation::Relu) => rows(1.0),
            (None, Gate::None | Gate::Receptance, Activation::ReluSquared) => rows(2.0),
            (None, Gate::None | Gate::Receptance, Activation::Silu | Activation::Gelu | Activation::GeluTanh) => {
                FedBy::Nothing("a nonlinearity lies between it and the layer before")
            }
        };
        Fold { inputs: vec![inputs::FFN_HIDDEN], fed_by, channels: (0..self.width).collect() }
    }
}
