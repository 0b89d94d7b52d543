//! What the dimensions of a parameter run over, derived from the spec's roles. What
//! is taken out of an axis is taken out of every dimension that runs over it: the
//! rows of the layers that write a width, the columns of those that read it, and the
//! vectors in between.

use super::parameters::{
    EMBEDDING_NORM, EMBEDDING_PROJECTION, EMBEDDINGS, FINAL_NORM, HEAD, HEAD_PROJECTION, POSITIONS, Parameter, Part, roles,
};
use super::spec::{Attention, Block, Mixer, ModelSpec, QkSpan, Wkv};
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

/// What is counted inside a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Inner {
    /// Query heads. Those of one key-value head follow each other, so many for each, and
    /// can go only with it or in equal numbers from all.
    QueryHeads,
    /// Key-value heads.
    KvHeads,
    /// Numbers of a head, of queries and keys as of values.
    HeadDim,
    /// Hidden numbers of the feed-forward.
    FeedForward,
    /// Channels of a recurrent state.
    State,
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

impl std::fmt::Display for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Inner::QueryHeads => "query heads",
            Inner::KvHeads => "key-value heads",
            Inner::HeadDim => "head size",
            Inner::FeedForward => "feed-forward",
            Inner::State => "recurrent state",
        })
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
    /// Panics on what another kind of mixer has.
    fn size(&self, inner: Inner) -> usize {
        match (inner, &self.mixer) {
            (Inner::FeedForward, _) => self.ffn.width,
            (Inner::QueryHeads, Mixer::Attention(Attention { n_heads, .. })) => *n_heads,
            (Inner::KvHeads, Mixer::Attention(Attention { n_kv_heads, .. })) => *n_kv_heads,
            (Inner::HeadDim, Mixer::Attention(Attention { head_dim, .. })) => *head_dim,
            (Inner::State, Mixer::Wkv(Wkv { width })) => *width,
            (Inner::QueryHeads | Inner::KvHeads | Inner::HeadDim, Mixer::Wkv(_)) | (Inner::State, Mixer::Attention(_)) => {
                panic!("{inner:?}: the block's mixer has none")
            }
        }
    }
}

impl ModelSpec {
    /// What each dimension of a parameter runs over. More than one axis, outermost first,
    /// where it runs over the numbers of one for each of another, such as the rows of
    /// `attn.q`: the product of their sizes is the dimension's.
    pub fn axes(&self, parameter: &Parameter) -> Vec<Vec<Axis>> {
        let layer = parameter.layer();
        let mut axes = match parameter.part {
            Part::Block(block) => self.axes_in_block(block, layer),
            Part::Start | Part::End => self.axes_outside(layer),
        };
        // A linear layer's bias runs over its outputs alone.
        axes.truncate(parameter.shape.len());
        axes
    }

    fn axes_outside(&self, name: &str) -> Vec<Vec<Axis>> {
        let width = if self.embedding.width.is_some() { Axis::EmbeddingWidth } else { Axis::Hidden };
        let axes = match name {
            EMBEDDINGS | HEAD => vec![Axis::Vocabulary, width],
            EMBEDDING_PROJECTION => vec![Axis::Hidden, width],
            HEAD_PROJECTION => vec![width, Axis::Hidden],
            POSITIONS => vec![Axis::Positions, Axis::Hidden],
            EMBEDDING_NORM | FINAL_NORM => vec![Axis::Hidden],
            _ => panic!("{name}: it is not known what its dimensions run over"),
        };
        axes.into_iter().map(|axis| vec![axis]).collect()
    }

    fn axes_in_block(&self, block: usize, role: &str) -> Vec<Vec<Axis>> {
        let owner = self.owner(block, role);
        let own = |inner: &[Inner]| inner.iter().map(|&inner| Axis::Block(owner, inner)).collect::<Vec<_>>();
        let hidden = vec![Axis::Hidden];
        let (queries, keys) = (own(&[Inner::QueryHeads, Inner::HeadDim]), own(&[Inner::KvHeads, Inner::HeadDim]));
        let (width, state) = (own(&[Inner::FeedForward]), own(&[Inner::State]));
        match role {
            "attn.q" => vec![queries, hidden],
            "attn.k" | "attn.v" => vec![keys, hidden],
            "attn.o" => vec![hidden, queries],
            roles::Q_NORM => self.blocks[owner].spanned(queries),
            roles::K_NORM => self.blocks[owner].spanned(keys),
            roles::CONTEXT_NORM => vec![queries],
            "ffn.gate" | "ffn.up" => vec![width, hidden],
            "ffn.receptance" => vec![hidden.clone(), hidden],
            "ffn.down" => vec![hidden, width],
            roles::HIDDEN_NORM => vec![width],
            "wkv.key" | "wkv.value" | "wkv.receptance" => vec![state, hidden],
            "wkv.output" => vec![hidden, state],
            roles::WKV_DECAY | roles::WKV_FIRST => vec![state],
            roles::MIXER_NORM | roles::MIXER_OUTPUT_NORM | roles::MIXER_SUM_NORM => vec![hidden],
            roles::FFN_NORM | roles::FFN_OUTPUT_NORM | roles::FFN_SUM_NORM => vec![hidden],
            _ if roles::WKV_MIX.iter().chain(&roles::FFN_MIX).any(|(_, mix)| *mix == role) => vec![hidden],
            _ => panic!("{role}: it is not known what its dimensions run over"),
        }
    }
}

impl Block {
    /// What a norm of heads runs over, where all heads are `heads`.
    fn spanned(&self, heads: Vec<Axis>) -> Vec<Vec<Axis>> {
        let span = match &self.mixer {
            Mixer::Attention(attention) => attention.qk_norm.as_ref().map(|norm| norm.span),
            Mixer::Wkv(_) => None,
        };
        match span.expect("there is a norm of heads") {
            QkSpan::Head => vec![heads[1..].to_vec()],
            QkSpan::EachHead => heads.into_iter().map(|axis| vec![axis]).collect(),
            QkSpan::All => vec![heads],
        }
    }
}
