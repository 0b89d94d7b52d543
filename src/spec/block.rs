//! A block: sub-layers that each add to the hidden states.

use super::{Attention, FeedForward, Norm, Wkv, is_default, stored_block::StoredBlock};
use serde::{Deserialize, Serialize};

/// One block of a model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "StoredBlock", into = "StoredBlock")]
pub struct Block {
    /// First to last.
    pub sub_layers: Vec<SubLayer>,
    /// An earlier block whose parameters this one uses, all of them.
    pub weights_of: Option<usize>,
}

/// `x = sum_norm(x + output_norm(op(norm(input))))`, where x are the hidden states and each
/// norm may be absent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SubLayer {
    /// Activations that it reads.
    #[serde(default, skip_serializing_if = "is_default")]
    pub input: SubLayerInput,
    /// Norm of the input (pre-norm).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub norm: Option<Norm>,
    /// The operation.
    pub op: Op,
    /// Norm of the operation's output, before it is added.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output_norm: Option<Norm>,
    /// Norm of the sum (post-norm).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sum_norm: Option<Norm>,
}

/// Input of a sub-layer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SubLayerInput {
    /// The hidden states behind the sub-layer before it.
    #[default]
    HiddenStates,
    /// The hidden states that enter the block (parallel residual).
    BlockInput,
    /// The normed input of the sub-layer before it.
    SharedNorm,
}

/// Operation of a sub-layer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(clippy::large_enum_variant, reason = "a model has some dozens of these")]
pub enum Op {
    /// Softmax attention.
    Attention(Attention),
    /// RWKV's time mixing.
    Wkv(Wkv),
    /// A feed-forward network.
    FeedForward(FeedForward),
}

impl Block {
    /// Attention or time mixing, then a feed-forward, each behind a norm of its input.
    pub fn pre_norm(norm: Norm, mixer: Op, ffn: FeedForward) -> Self {
        let sub_layer = |op| SubLayer { norm: Some(norm.clone()), ..SubLayer::plain(op) };
        Self { sub_layers: vec![sub_layer(mixer), sub_layer(Op::FeedForward(ffn))], weights_of: None }
    }

    /// The same block with its sub-layers side by side (parallel residual): all read the
    /// block's input, through norms of their own, or through the first one's.
    pub fn parallel(mut self, one_norm: bool) -> Self {
        for sub_layer in self.sub_layers.iter_mut().skip(1) {
            sub_layer.input = if one_norm { SubLayerInput::SharedNorm } else { SubLayerInput::BlockInput };
            sub_layer.norm = sub_layer.norm.take().filter(|_| !one_norm);
        }
        self
    }

    /// Its attention, where it has one.
    pub fn attention(&self) -> Option<&Attention> {
        self.sub_layers.iter().find_map(|sub_layer| match &sub_layer.op {
            Op::Attention(attention) => Some(attention),
            Op::Wkv(_) | Op::FeedForward(_) => None,
        })
    }

    /// Its attention, where it has one.
    pub fn attention_mut(&mut self) -> Option<&mut Attention> {
        self.sub_layers.iter_mut().find_map(|sub_layer| match &mut sub_layer.op {
            Op::Attention(attention) => Some(attention),
            Op::Wkv(_) | Op::FeedForward(_) => None,
        })
    }

    /// Its time mixing, where it has one.
    pub fn wkv(&self) -> Option<&Wkv> {
        self.sub_layers.iter().find_map(|sub_layer| match &sub_layer.op {
            Op::Wkv(wkv) => Some(wkv),
            Op::Attention(_) | Op::FeedForward(_) => None,
        })
    }

    /// Its feed-forward, where it has one.
    pub fn feed_forward(&self) -> Option<&FeedForward> {
        self.sub_layers.iter().find_map(|sub_layer| match &sub_layer.op {
            Op::FeedForward(ffn) => Some(ffn),
            Op::Attention(_) | Op::Wkv(_) => None,
        })
    }

    /// Its feed-forward, where it has one.
    pub fn feed_forward_mut(&mut self) -> Option<&mut FeedForward> {
        self.sub_layers.iter_mut().find_map(|sub_layer| match &mut sub_layer.op {
            Op::FeedForward(ffn) => Some(ffn),
            Op::Attention(_) | Op::Wkv(_) => None,
        })
    }

    /// True where several sub-layers are of one kind. Models and files may have such blocks; no
    /// method that changes widths or inserts norms takes them yet.
    pub fn repeats_a_kind(&self) -> bool {
        self.numbered().any(|(number, _)| number > 0)
    }

    /// Each sub-layer with its number among those of its kind, from 0: attention and time mixing
    /// are one kind, feed-forwards the other.
    pub fn numbered(&self) -> impl Iterator<Item = (usize, &SubLayer)> {
        let kind = |sub_layer: &SubLayer| matches!(sub_layer.op, Op::FeedForward(_));
        let number = move |i: usize| self.sub_layers[..i].iter().filter(|other| kind(other) == kind(&self.sub_layers[i])).count();
        self.sub_layers.iter().enumerate().map(move |(i, sub_layer)| (number(i), sub_layer))
    }
}

impl SubLayer {
    /// Of the hidden states, without norms.
    pub fn plain(op: Op) -> Self {
        Self { input: SubLayerInput::HiddenStates, norm: None, op, output_norm: None, sum_norm: None }
    }

    /// Its norms around the operation, where they are there.
    pub fn norms_mut(&mut self) -> impl Iterator<Item = &mut Norm> {
        [&mut self.norm, &mut self.output_norm, &mut self.sum_norm].into_iter().flatten()
    }
}
