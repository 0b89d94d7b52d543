//! A block traced on names and shapes alone: which linear layers share an input, and what
//! produces each input.

use super::{Along, Backend, Binary, BlockLayers, Declare, Declared, Dim, Linear, NormLayer, Unary, Vector};
use crate::spec::{Activation, Attention, Block, LayerName, NormWeight, QueryGrowth, Rotary};
use std::convert::Infallible;

/// Linear layers that read the same activations, and so share calibration statistics and one
/// act-order permutation.
#[derive(Clone, Debug, PartialEq)]
pub struct InputGroup {
    /// Names the activations, such as `attn.input`.
    pub input: LayerName,
    /// The layers that read them, all of one input width.
    pub linears: Vec<Linear>,
}

/// Producer of an input: the stored parameters that it is linear in.
#[derive(Clone, Debug, PartialEq)]
pub enum Producer {
    /// A norm: its weight and bias can be divided.
    Norm {
        /// Name inside the block.
        name: LayerName,
        /// Form of its stored weight: never [`NormWeight::None`].
        weight: NormWeight,
        /// True where it has a bias.
        bias: bool,
    },
    /// A linear layer: its rows and bias can be divided.
    Rows {
        /// Name inside the block.
        name: LayerName,
        /// The input grows as this power of the layer's output: rows are divided by the
        /// scales to the power of its inverse.
        power: f64,
        /// True where it has a bias.
        bias: bool,
    },
    /// Nothing that could be divided, and why.
    Nothing(&'static str),
}

/// Inputs of linear layers that one producer makes, and how their channels are its own.
#[derive(Clone, Debug, PartialEq)]
pub struct ScaleMigration {
    /// Names of the inputs, all of one width.
    pub inputs: Vec<LayerName>,
    /// Their producer.
    pub producer: Producer,
    /// The producer's channel that makes each channel of the inputs, `[in]`: query heads that
    /// share values have them from the same rows.
    pub channels: Vec<usize>,
}

/// Input groups and producers of a block, found by running its forward.
#[derive(Default)]
pub struct Trace {
    /// Groups in the order of evaluation.
    pub groups: Vec<InputGroup>,
    /// Producers in the order of evaluation; each input is of one.
    pub migrations: Vec<ScaleMigration>,
}

impl Trace {
    /// Runs a block on shapes.
    pub fn of(block: &Block, hidden_size: usize) -> Self {
        let Ok(layers) = BlockLayers::new(block, hidden_size, &mut Declare);
        let mut tracer = Tracer::default();
        let dim = Dim::of(Along::Hidden, hidden_size);
        let x = tracer.flow(dim, Producer::Nothing(RESIDUAL));
        let Ok(x) = layers.forward(&mut tracer, x);
        tracer.used.push(x.id);
        tracer.finish()
    }
}

impl Block {
    /// Linear layers that share an input, in the order of evaluation.
    pub fn input_groups(&self, hidden_size: usize) -> Vec<InputGroup> {
        Trace::of(self, hidden_size).groups
    }
}

/// Activations: where they come from.
#[derive(Clone)]
struct Flow {
    /// Equal for activations that are scaled alike, channel by channel.
    id: usize,
    dim: Dim,
    producer: Producer,
    /// The producer's channel of each channel.
    channels: Vec<usize>,
}

/// Why an input that the residual connection reads too cannot be divided.
const RESIDUAL: &str = "it reads the residual stream itself";

#[derive(Default)]
struct Tracer {
    trace: Trace,
    /// ScaleMigration of each flow's `id` that linear layers have read.
    read: Vec<(usize, usize)>,
    flows: usize,
    /// `id` of each flow that something else than a linear layer has read.
    used: Vec<usize>,
    /// Name of the activations observed last.
    observed: Option<LayerName>,
}

impl Tracer {
    fn flow(&mut self, dim: Dim, producer: Producer) -> Flow {
        self.flows += 1;
        Flow { id: self.flows, channels: (0..dim.size()).collect(), dim, producer }
    }

    /// The trace. An input that is read by more than linear layers has no producer that could be
    /// divided.
    fn finish(mut self) -> Trace {
        for &(_, migration) in self.read.iter().filter(|(id, _)| self.used.contains(id)) {
            self.trace.migrations[migration].producer = Producer::Nothing(RESIDUAL);
        }
        self.trace
    }

    /// A new flow with the channels of x and another producer.
    fn changed(&mut self, x: Flow, producer: Producer) -> Flow {
        self.used.push(x.id);
        self.flows += 1;
        Flow { id: self.flows, producer, ..x }
    }
}

impl Backend for Tracer {
    type Layers = Declared;
    type X = Flow;
    type Stop = Infallible;

    fn tokens(&mut self, table: &Vector) -> Flow {
        self.flow(table.shape[1].clone(), Producer::Nothing("it reads the embedding"))
    }

    fn positions(&mut self, table: &Vector) -> Flow {
        self.tokens(table)
    }

    fn sinusoids(&mut self, _: usize, width: usize) -> Flow {
        self.flow(Dim::of(Along::Hidden, width), Producer::Nothing("it reads the embedding"))
    }

    fn keep(&mut self, x: &Flow) -> Flow {
        x.clone()
    }

    fn each(&mut self, x: Flow, mut f: impl FnMut(&mut Self, Flow) -> Result<Flow, Infallible>) -> Result<Flow, Infallible> {
        f(self, x)
    }

    fn observe(&mut self, name: LayerName, _: &Flow) -> Result<(), Infallible> {
        self.observed = Some(name);
        Ok(())
    }

    fn norm(&mut self, norm: &NormLayer, x: Flow) -> Flow {
        self.used.push(x.id);
        let producer = match norm.norm.weight {
            NormWeight::None => Producer::Nothing("the norm before it has no weights"),
            weight => Producer::Norm { name: norm.name, weight, bias: norm.norm.bias },
        };
        self.flow(x.dim, producer)
    }

    fn linear<const N: usize>(&mut self, layers: [&Linear; N], x: &Flow) -> [Flow; N] {
        assert!(layers.iter().all(|linear| linear.inputs == x.dim), "columns are the channels of the input");
        let input = self.observed.expect("inputs of linear layers are observed");
        self.trace.groups.push(InputGroup { input, linears: layers.map(Clone::clone).to_vec() });
        match self.read.iter().find(|(id, _)| *id == x.id) {
            Some(&(_, migration)) => self.trace.migrations[migration].inputs.push(input),
            None => {
                self.read.push((x.id, self.trace.migrations.len()));
                let migration = ScaleMigration { inputs: vec![input], producer: x.producer.clone(), channels: x.channels.clone() };
                self.trace.migrations.push(migration);
            }
        }
        layers
            .map(|linear| self.flow(linear.outputs.clone(), Producer::Rows { name: linear.name, power: 1.0, bias: linear.bias.is_some() }))
    }

    fn unary(&mut self, operation: Unary, x: Flow) -> Flow {
        let producer = match (operation, x.producer.clone()) {
            (Unary::Scale(_) | Unary::Activation(Activation::Relu), producer) => producer,
            (Unary::Activation(Activation::ReluSquared), Producer::Rows { name, power, bias }) => {
                Producer::Rows { name, power: 2.0 * power, bias }
            }
            (Unary::Clip(_), _) => Producer::Nothing("the values that make its input are cut off"),
            (Unary::Activation(_) | Unary::Softcap(_), _) => Producer::Nothing("a nonlinearity lies between it and the layer before"),
        };
        self.changed(x, producer)
    }

    fn binary(&mut self, operation: Binary, x: Flow, y: Flow) -> Flow {
        assert_eq!(x.dim, y.dim, "{operation:?}");
        self.used.extend([x.id, y.id]);
        match operation {
            Binary::Add => self.flow(x.dim, Producer::Nothing(RESIDUAL)),
            Binary::Multiply => {
                let producer = y.producer.clone();
                self.changed(y, producer)
            }
            Binary::MultiplySigmoid => {
                let producer = x.producer.clone();
                self.changed(x, producer)
            }
        }
    }

    fn split_heads(&mut self, x: Flow, _: usize) -> Flow {
        x
    }

    fn rotate(&mut self, _: &(Rotary, usize), heads: Flow) -> Flow {
        self.changed(heads, Producer::Nothing("rotary positions lie between it and the layer before"))
    }

    fn grow(&mut self, _: &QueryGrowth, heads: Flow) -> Flow {
        self.used.push(heads.id);
        heads
    }

    fn attend(&mut self, attention: &Attention, _: usize, q: Flow, _: Flow, v: Flow) -> Flow {
        let Attention { n_heads, n_kv_heads, head_dim, .. } = *attention;
        let shared_by = n_heads / n_kv_heads;
        let of_values = |i: usize| i / head_dim / shared_by * head_dim + i % head_dim;
        let channels = (0..n_heads * head_dim).map(|i| v.channels[of_values(i)]).collect();
        self.used.extend([q.id, v.id]);
        self.flows += 1;
        Flow { id: self.flows, dim: q.dim, producer: v.producer, channels }
    }

    fn token_before(&mut self, _: usize, x: &Flow) -> Flow {
        x.clone()
    }

    fn lerp(&mut self, share: &Vector, x: &Flow, _: &Flow) -> Flow {
        assert!(share.shape.iter().eq([&x.dim]), "a share a channel");
        x.clone()
    }

    fn wkv(&mut self, _: usize, _: &Vector, _: &Vector, _: Flow, values: Flow) -> Flow {
        let producer = values.producer.clone();
        self.changed(values, producer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::forward::names::{self, attn};
    use crate::spec::{FeedForward, Norm, Op, QkNorm, QkSpan, SubLayer, SubLayerInput};

    fn names(migration: &ScaleMigration) -> Vec<String> {
        migration.inputs.iter().map(LayerName::to_string).collect()
    }

    #[test]
    fn a_llama_block_has_four_groups() {
        let attention = Attention::new(4, 2, 3);
        let block = Block::pre_norm(Norm::rms(1e-5), Op::Attention(attention), FeedForward::gated(7, Activation::Silu));
        let Trace { groups, migrations } = Trace::of(&block, 5);
        let groups: Vec<String> = groups
            .iter()
            .map(|group| {
                let linears: Vec<String> =
                    group.linears.iter().map(|l| format!("{} {}×{}", l.name, l.outputs.size(), l.inputs.size())).collect();
                format!("{}: {}", group.input, linears.join(", "))
            })
            .collect();
        assert_eq!(
            groups,
            [
                "attn.input: attn.q 12×5, attn.k 6×5, attn.v 6×5",
                "attn.context: attn.o 5×12",
                "ffn.input: ffn.gate 7×5, ffn.up 7×5",
                "ffn.hidden: ffn.down 5×7"
            ]
        );
        let norm = |norms: [LayerName; 3]| Producer::Norm { name: norms[0], weight: NormWeight::Plain, bias: false };
        assert_eq!(migrations[0].producer, norm(names::MIXER_NORMS));
        assert_eq!(migrations[1].producer, Producer::Rows { name: attn::V, power: 1.0, bias: false });
        // Two query heads read each head of values.
        assert_eq!(migrations[1].channels, [0, 1, 2, 0, 1, 2, 3, 4, 5, 3, 4, 5]);
        assert_eq!(migrations[2].producer, norm(names::FFN_NORMS));
        assert_eq!(migrations[3].producer, Producer::Rows { name: names::ffn::UP, power: 1.0, bias: false });
    }

    #[test]
    fn a_shared_norm_produces_the_inputs_of_both_sub_layers() {
        let attention = Attention { qk_norm: Some(QkNorm { norm: Norm::rms(1e-5), span: QkSpan::Head }), ..Attention::new(2, 2, 3) };
        let mut block = Block::pre_norm(Norm::layer(1e-5), Op::Attention(attention), FeedForward::plain(7, Activation::Gelu));
        block.sub_layers[1].input = SubLayerInput::SharedNorm;
        block.sub_layers[1].norm = None;
        let migrations = Trace::of(&block, 5).migrations;
        assert_eq!(names(&migrations[0]), ["attn.input", "ffn.input"]);
        assert!(matches!(migrations[2].producer, Producer::Nothing(why) if why.contains("nonlinearity")));
    }

    #[test]
    fn what_the_residual_connection_reads_too_is_not_divided() {
        let mut block = Block::pre_norm(Norm::layer(1e-5), Op::Attention(Attention::new(2, 2, 3)), FeedForward::plain(7, Activation::Relu));
        block.sub_layers.iter_mut().for_each(|sub_layer| sub_layer.sum_norm = sub_layer.norm.take());
        let migrations = Trace::of(&block, 5).migrations;
        let nothing = |i: usize| migrations[i].producer == Producer::Nothing(RESIDUAL);
        assert!(nothing(0) && !nothing(1) && nothing(2) && !nothing(3), "{migrations:?}");
    }

    #[test]
    fn a_second_feed_forward_has_a_number() {
        let ffn = FeedForward::gated(7, Activation::Silu);
        let mut block = Block::pre_norm(Norm::rms(1e-5), Op::Attention(Attention::new(2, 2, 3)), ffn.clone());
        block.sub_layers.push(SubLayer { norm: Some(Norm::rms(1e-5)), ..SubLayer::plain(Op::FeedForward(ffn)) });
        let migrations = Trace::of(&block, 5).migrations;
        assert_eq!(names(&migrations[4]), ["ffn2.input"]);
        assert!(matches!(migrations[4].producer, Producer::Norm { name, .. } if name.to_string() == "ffn2_norm"));
    }
}
