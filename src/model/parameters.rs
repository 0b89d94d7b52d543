//! The canonical names and shapes of a model's parameters: those that its forward declares
//! ([`crate::forward`]).
//!
//! Names: `embeddings`, `blocks.3.attn.q`, `blocks.3.ffn.down`, `blocks.3.attn_norm`,
//! `final_norm`, `head`; a bias adds `.bias`. What blocks share has the name of the first of
//! them.

use super::SpecError;
use crate::error::{Error, Result};
use crate::forward::{BlockLayers, Declare, Dim, EmbeddingLayers, HeadLayers, Recorded, Recorder};
use crate::spec::{Block, ModelSpec, Norm, Positions};
use std::fmt::Display;

/// Canonical name of the token embedding.
pub const EMBEDDINGS: &str = "embeddings";
/// Canonical name of the table of learned positions.
pub const POSITIONS: &str = "positions";
/// Canonical name of the head's matrix where it is not tied.
pub const HEAD: &str = "head";

/// The part of a model that a parameter is loaded, compressed and stored with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// What comes before the blocks.
    Start,
    /// A block.
    Block(usize),
    /// What comes behind them.
    End,
}

impl std::fmt::Display for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Part::Start => write!(f, "start"),
            Part::Block(i) => write!(f, "blocks.{i}"),
            Part::End => write!(f, "end"),
        }
    }
}

/// What a parameter is for; decides how it is compressed and stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParameterKind {
    /// Token embedding, `[vocab, width]`.
    Embedding,
    /// Output matrix, `[vocab, width]`.
    Head,
    /// Matrix of a block, `[out, in]`.
    Linear,
    /// Matrix that is never quantised: positions `[context, hidden]`, and what leads
    /// from the embedding's width to the residual stream and back `[out, in]`.
    Kept,
    /// Vector: norm weight or bias.
    Vector,
}

/// One parameter of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameter {
    /// Canonical name.
    pub name: String,
    /// `[out, in]`, or `[n]` for a vector (`[heads, head_dim]` where it is one a head).
    pub shape: Vec<usize>,
    /// What it is for.
    pub kind: ParameterKind,
    /// Where it belongs.
    pub part: Part,
}

impl Parameter {
    /// Name inside its part: behind `blocks.3.`, or the whole of it.
    pub fn role(&self) -> &str {
        match self.part {
            Part::Block(_) => self.name.splitn(3, '.').nth(2).expect("a name in a block"),
            Part::Start | Part::End => &self.name,
        }
    }

    /// The role of the layer or norm that it belongs to: its own, without the end of a bias.
    pub fn layer(&self) -> &str {
        self.role().strip_suffix(".bias").unwrap_or(self.role())
    }
}

impl ModelSpec {
    /// Canonical name of a part of a block, which may be another block's.
    pub fn block_name(&self, block: usize, role: impl Display) -> String {
        let role = role.to_string();
        format!("blocks.{}.{role}", self.owner(block, &role))
    }

    /// The block under whose name a part of a block is stored.
    pub fn owner(&self, block: usize, role: impl Display) -> usize {
        let of = &self.blocks[block];
        let shared_ffn = of.feed_forward().and_then(|ffn| ffn.weights_of).filter(|_| role.to_string().starts_with("ffn."));
        of.weights_of.or(shared_ffn).unwrap_or(block)
    }

    /// True where a block uses weights of another.
    pub fn shares_weights(&self) -> bool {
        self.blocks.iter().any(|block| block.weights_of.is_some() || block.feed_forward().is_some_and(|ffn| ffn.weights_of.is_some()))
    }

    /// Fails where a block has several sub-layers of one kind.
    pub(super) fn check_one_of_a_kind(&self) -> std::result::Result<(), SpecError> {
        match self.blocks.iter().position(Block::repeats_a_kind) {
            Some(block) => Err(SpecError::RepeatedKind(block)),
            None => Ok(()),
        }
    }

    /// Canonical name of the matrix that makes logits.
    pub fn head_name(&self) -> &'static str {
        if self.tied { EMBEDDINGS } else { HEAD }
    }

    /// Width of embedding and head.
    pub fn embedding_width(&self) -> usize {
        self.embedding.width.unwrap_or(self.hidden_size)
    }

    /// True for a parameter that is only ever read row by row: positions, and an embedding
    /// that is not the head too.
    pub fn is_looked_up(&self, parameter: &Parameter) -> bool {
        parameter.name == POSITIONS || parameter.kind == ParameterKind::Embedding && !self.tied
    }

    /// Every parameter once, in the order of the forward.
    pub fn parameters(&self) -> Vec<Parameter> {
        self.parts().flat_map(|part| self.parameters_of(part)).collect()
    }

    /// The parameters of one part; those that another block owns are that one's.
    pub fn parameters_of(&self, part: Part) -> impl Iterator<Item = Parameter> {
        let declared = self.stored(part).filter(move |parameter| match part {
            Part::Block(block) => self.owner(block, &parameter.name) == block,
            Part::Start | Part::End => true,
        });
        declared.map(move |Recorded { name, shape, is_linear, .. }| {
            let (kind, name) = match part {
                Part::Block(_) if is_linear => (ParameterKind::Linear, self.prefixed(part, name)),
                Part::Block(_) => (ParameterKind::Vector, self.prefixed(part, name)),
                Part::Start | Part::End => (outside_kind(&name, &shape), name),
            };
            Parameter { name, shape: shape.iter().map(Dim::size).collect(), kind, part }
        })
    }

    fn prefixed(&self, part: Part, name: String) -> String {
        format!("{part}.{name}")
    }

    /// The parameters that the forward of a part declares and files hold, by name inside the
    /// part.
    fn stored(&self, part: Part) -> impl Iterator<Item = Recorded> {
        self.declared(part).into_iter().filter(|parameter| parameter.is_stored)
    }

    /// The parameters that the forward of a part declares, be they shared or not, by name
    /// inside the part.
    pub(super) fn declared(&self, part: Part) -> Vec<Recorded> {
        self.recorded(part).parameters
    }

    /// Declarations of the forward of a part.
    pub(super) fn recorded(&self, part: Part) -> Recorder {
        let mut recorder = Recorder::default();
        match part {
            Part::Start => {
                let Ok(_) = EmbeddingLayers::new(self, &mut recorder);
            }
            Part::Block(block) => {
                let Ok(_) = BlockLayers::new(&self.blocks[block], self.hidden_size, &mut recorder);
            }
            Part::End => {
                let Ok(embedding) = EmbeddingLayers::new(self, &mut Declare);
                let Ok(_) = HeadLayers::new(self, embedding.tokens(), &mut recorder);
            }
        }
        recorder
    }

    /// Every role of a block, be it shared or not, with its shape and kind.
    pub fn roles(&self, block: usize) -> Vec<(String, Vec<usize>, ParameterKind)> {
        let kind = |is_linear| if is_linear { ParameterKind::Linear } else { ParameterKind::Vector };
        let role = |Recorded { name, shape, is_linear, .. }: Recorded| (name, shape.iter().map(Dim::size).collect(), kind(is_linear));
        self.stored(Part::Block(block)).map(role).collect()
    }

    /// The norm that a parameter is the weight or the bias of.
    pub fn norm_of(&self, parameter: &Parameter) -> Option<Norm> {
        self.declaration(parameter).norm
    }

    /// The forward's declaration of a parameter.
    pub(super) fn declaration(&self, parameter: &Parameter) -> Recorded {
        let mut declared = self.declared(parameter.part).into_iter();
        declared.find(|declared| declared.name == parameter.role()).unwrap_or_else(|| panic!("{} is declared", parameter.name))
    }

    /// The parts in order.
    pub fn parts(&self) -> impl Iterator<Item = Part> {
        std::iter::once(Part::Start).chain((0..self.blocks.len()).map(Part::Block)).chain([Part::End])
    }

    /// Tokens of a sequence at most, where positions beyond have no parameters.
    pub fn longest_sequence(&self) -> Option<usize> {
        (self.embedding.positions == Positions::Learned).then_some(self.context)
    }

    /// Fails where a sequence of so many tokens has positions without parameters.
    pub fn check_length(&self, tokens: usize) -> Result<()> {
        match self.longest_sequence() {
            Some(longest) if tokens > longest => Err(Error::Usage(format!(
                "a sequence of {tokens} tokens is longer than {longest}, where the model's table of positions ends"
            ))),
            _ => Ok(()),
        }
    }

    /// Fails where a token is not in the vocabulary.
    pub fn check_ids(&self, ids: &[u32]) -> Result<()> {
        match ids.iter().position(|&id| id as usize >= self.vocab_size) {
            None => Ok(()),
            Some(position) => Err(Error::TokenOutOfRange { id: ids[position], position, vocab_size: self.vocab_size }),
        }
    }
}

/// Kind of a parameter outside the blocks.
fn outside_kind(name: &str, shape: &[Dim]) -> ParameterKind {
    match (name, shape.len()) {
        (EMBEDDINGS, _) => ParameterKind::Embedding,
        (HEAD, _) => ParameterKind::Head,
        (_, 1) => ParameterKind::Vector,
        _ => ParameterKind::Kept,
    }
}
