//! Scale migration: which inputs of a block's linear layers can be scaled at no cost, derived from
//! the spec's roles: where what makes an input is linear in something that is
//! stored, that can be divided channel by channel, and the columns that read the
//! input multiplied by the same.

use super::parameters::{inputs, roles};
use super::spec::{Activation, Attention, Block, FeedForward, Gate, Mixer, ModelSpec, Norm, NormWeight, Residual, Wkv};

/// Inputs with one producer, which are divided by the same scales.
#[derive(Clone, Debug, PartialEq)]
pub struct ScaleMigration {
    /// Names of the inputs (see [`inputs`]), all of one width.
    pub inputs: Vec<&'static str>,
    /// What computes them.
    pub producer: Producer,
    /// The channel of the source that makes each channel of the inputs, `[in]`: heads
    /// that share their values have them from the same rows.
    pub channels: Vec<usize>,
}

/// Producer of an input: the stored weights that are divided when the columns of its readers are multiplied.
#[derive(Clone, Debug, PartialEq)]
pub enum Producer {
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
    /// How the inputs of a block can be scaled; each is in one scale migration.
    pub fn scale_migrations(&self, block: usize) -> Vec<ScaleMigration> {
        let spec = &self.blocks[block];
        let mut migrations = spec.scale_migrations(self.hidden_size);
        for migration in &mut migrations {
            let source = match migration.producer {
                Producer::Norm { role, .. } | Producer::Rows { role, .. } => role,
                Producer::Nothing(_) => continue,
            };
            let groups = spec.input_groups(self.hidden_size);
            let readers = groups.iter().filter(|group| migration.inputs.contains(&group.input)).flat_map(|group| &group.linears);
            if readers.into_iter().any(|reader| self.users(block, reader.role) != self.users(block, source)) {
                migration.producer = Producer::Nothing("other blocks share its weights, but not what makes its input");
            }
        }
        migrations
    }

    /// The blocks that use the weights that a block has at a role.
    fn users(&self, block: usize, role: &str) -> Vec<usize> {
        let owner = self.owner(block, role);
        (0..self.blocks.len()).filter(|&other| self.owner(other, role) == owner).collect()
    }
}

impl Block {
    fn scale_migrations(&self, hidden_size: usize) -> Vec<ScaleMigration> {
        let through = |norm: &Option<Norm>, role, inputs| ScaleMigration {
            inputs,
            producer: by_norm(norm, role),
            channels: (0..hidden_size).collect(),
        };
        let (mut mixer_inputs, mixed) = match &self.mixer {
            Mixer::Attention(attention) => (vec![inputs::ATTENTION], attention.context_migration()),
            // Mixtures of two tokens, channel by channel.
            Mixer::Wkv(wkv) => (roles::WKV_MIX.map(|(_, mix)| mix).to_vec(), wkv.output_migration()),
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
        [mixer, mixed].into_iter().chain(ffn).chain([self.ffn.hidden_migration()]).collect()
    }
}

fn by_norm(norm: &Option<Norm>, role: &'static str) -> Producer {
    match norm {
        None => Producer::Nothing("it reads the residual stream itself"),
        Some(Norm { weight: NormWeight::None, .. }) => Producer::Nothing("the norm before it has no weights"),
        Some(norm) => Producer::Norm { role, weight: norm.weight, bias: norm.bias },
    }
}

impl Attention {
    /// Contexts are means of values, head by head.
    fn context_migration(&self) -> ScaleMigration {
        let inputs = vec![inputs::CONTEXT];
        if self.context_norm.is_some() {
            let channels = (0..self.q_width()).collect();
            return ScaleMigration { inputs, producer: by_norm(&self.context_norm, roles::CONTEXT_NORM), channels };
        }
        let producer = match self.qkv_clip {
            None => Producer::Rows { role: "attn.v", power: 1.0, bias: self.qkv_bias },
            Some(_) => Producer::Nothing("the values that make its input are cut off"),
        };
        let shared_by = self.n_heads / self.n_kv_heads;
        let channel = |i: usize| i / self.head_dim / shared_by * self.head_dim + i % self.head_dim;
        ScaleMigration { inputs, producer, channels: (0..self.q_width()).map(channel).collect() }
    }
}

impl Wkv {
    /// Means of the values over time, each times its receptance.
    fn output_migration(&self) -> ScaleMigration {
        ScaleMigration {
            inputs: vec![inputs::WKV],
            producer: Producer::Rows { role: "wkv.value", power: 1.0, bias: false },
            channels: (0..self.width).collect(),
        }
    }
}

impl FeedForward {
    fn hidden_migration(&self) -> ScaleMigration {
        let rows = |power| Producer::Rows { role: "ffn.up", power, bias: self.bias };
        let producer = match (&self.hidden_norm, self.gate, self.activation) {
            (Some(_), ..) => by_norm(&self.hidden_norm, roles::HIDDEN_NORM),
            (None, Gate::Hidden, _) => rows(1.0),
            (None, Gate::None | Gate::Receptance, Activation::Relu) => rows(1.0),
            (None, Gate::None | Gate::Receptance, Activation::ReluSquared) => rows(2.0),
            (None, Gate::None | Gate::Receptance, Activation::Silu | Activation::Gelu | Activation::GeluTanh) => {
                Producer::Nothing("a nonlinearity lies between it and the layer before")
            }
        };
        ScaleMigration { inputs: vec![inputs::FFN_HIDDEN], producer, channels: (0..self.width).collect() }
    }
}
