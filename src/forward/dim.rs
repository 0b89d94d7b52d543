//! Dimensions of parameters.

use serde::{Deserialize, Serialize};

/// Units along a dimension.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Along {
    /// Tokens of the vocabulary.
    Vocabulary,
    /// Positions of the context.
    Positions,
    /// Channels of embedding and head, where those are not as wide as the hidden states.
    EmbeddingWidth,
    /// Channels of the hidden states.
    Hidden,
    /// Units inside a block.
    Inner(Inner),
}

/// Units inside a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Inner {
    /// Query heads. Those of one key-value head follow each other, so many for each, and
    /// can go only with it or in equal numbers from all.
    QueryHeads,
    /// Key-value heads.
    KvHeads,
    /// Channels of a head, of queries and keys as of values.
    HeadDim,
    /// Hidden channels of the feed-forward.
    FeedForward,
    /// Channels of a recurrent state.
    State,
}

/// A dimension: more than one count, outermost first, where it runs over the units of one
/// for each of another, as the rows of `attn.q` do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dim(pub Vec<(Along, usize)>);

impl Dim {
    /// Over one kind of unit.
    pub fn of(along: Along, size: usize) -> Self {
        Self(vec![(along, size)])
    }

    /// Over units inside a block.
    pub fn inner(units: &[(Inner, usize)]) -> Self {
        Self(units.iter().map(|&(inner, size)| (Along::Inner(inner), size)).collect())
    }

    /// Length of the dimension.
    pub fn size(&self) -> usize {
        self.0.iter().map(|(_, size)| size).product()
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
