//! What the dimensions of a parameter run over, as its forward declares it. What
//! is taken out of an axis is taken out of every dimension that runs over it: the
//! rows of the layers that write a width, the columns of those that read it, and the
//! vectors in between.

use super::{Parameter, Part};
use crate::forward::{Along, Dim, Inner};
use crate::spec::{Attention, Block, ModelSpec};
use serde::{Deserialize, Serialize};

/// Something that is counted along a dimension.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Axis {
    /// Tokens.
    Vocabulary,
    /// Rows of the table of positions.
    Positions,
    /// Channels of embedding and head, where those are not the residual stream's.
    EmbeddingWidth,
    /// Channels of the residual stream.
    Hidden,
    /// What only one block has: the one that owns the weights, where others use them too.
    Block(usize, Inner),
}

impl std::fmt::Display for Axis {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Axis::Vocabulary => f.write_str("the vocabulary"),
            Axis::Positions => f.write_str("the table of positions"),
            Axis::EmbeddingWidth => f.write_str("the embedding's width"),
            Axis::Hidden => f.write_str("the residual stream"),
            Axis::Block(block, inner) => write!(f, "the {inner} of block {block}"),
        }
    }
}

impl Axis {
    /// How many there are.
    pub fn size(self, spec: &ModelSpec) -> usize {
        match self {
            Axis::Vocabulary => spec.vocab_size,
            Axis::Positions => spec.context,
            Axis::EmbeddingWidth => spec.embedding_width(),
            Axis::Hidden => spec.hidden_size,
            Axis::Block(block, inner) => spec.blocks[block].size(inner),
        }
    }
}

impl Block {
    /// Panics on a unit that the block has none of.
    fn size(&self, inner: Inner) -> usize {
        let attention = |size: fn(&Attention) -> usize| self.attention().map(size);
        let size = match inner {
            Inner::FeedForward => self.feed_forward().map(|ffn| ffn.width),
            Inner::QueryHeads => attention(|a| a.n_heads),
            Inner::KvHeads => attention(|a| a.n_kv_heads),
            Inner::HeadDim => attention(|a| a.head_dim),
            Inner::State => self.wkv().map(|wkv| wkv.width),
        };
        size.unwrap_or_else(|| panic!("{inner:?}: the block has none"))
    }
}

impl ModelSpec {
    /// What each dimension of a parameter runs over. More than one axis, outermost first,
    /// where it runs over the numbers of one for each of another, such as the rows of
    /// `attn.q`: the product of their sizes is the dimension's.
    pub fn axes(&self, parameter: &Parameter) -> Vec<Vec<Axis>> {
        let axis = |along: Along| match (along, parameter.part) {
            (Along::Vocabulary, _) => Axis::Vocabulary,
            (Along::Positions, _) => Axis::Positions,
            (Along::EmbeddingWidth, _) => Axis::EmbeddingWidth,
            (Along::Hidden, _) => Axis::Hidden,
            (Along::Inner(inner), Part::Block(block)) => Axis::Block(self.owner(block, parameter.layer()), inner),
            (Along::Inner(inner), part) => panic!("{inner:?}: {part} has none"),
        };
        let shape = self.declaration(parameter).shape;
        shape.into_iter().map(|Dim(units)| units.into_iter().map(|(along, _)| axis(along)).collect()).collect()
    }
}
