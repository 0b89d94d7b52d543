//! The canonical names and shapes of a model's parameters, derived from its
//! spec, and which linear layers share an input.
//!
//! Names: `embeddings`, `blocks.3.attn.q`, `blocks.3.ffn.down`,
//! `blocks.3.attn_norm`, `final_norm`, `head`; a bias adds `.bias`.

use super::spec::{Block, Mixer, ModelSpec};
use crate::error::{Error, Result};

/// Canonical name of the token embedding.
pub const EMBEDDINGS: &str = "embeddings";
/// Canonical name of the norm before the head.
pub const FINAL_NORM: &str = "final_norm";
/// Canonical name of the head's matrix where it is not tied.
pub const HEAD: &str = "head";

/// Inputs that linear layers share; both the groups and the decoder that
/// listens to them use these names.
pub mod inputs {
    /// Into q, k and v.
    pub const ATTENTION: &str = "attn.input";
    /// Into the output projection of attention.
    pub const CONTEXT: &str = "attn.context";
    /// Into gate and up.
    pub const FFN: &str = "ffn.input";
    /// Into down.
    pub const FFN_HIDDEN: &str = "ffn.hidden";
}

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
    /// Token embedding, `[vocab, hidden]`.
    Embedding,
    /// Output matrix, `[vocab, hidden]`.
    Head,
    /// Matrix of a block, `[out, in]`.
    Linear,
    /// Vector: norm weight or bias.
    Vector,
}

/// One parameter of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameter {
    /// Canonical name.
    pub name: String,
    /// `[out, in]`, or `[n]` for a vector.
    pub shape: Vec<usize>,
    /// What it is for.
    pub kind: ParameterKind,
    /// Where it belongs.
    pub part: Part,
}

/// A linear layer of a block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Linear {
    /// Name inside its block, such as `attn.q`.
    pub role: &'static str,
    /// Rows of the weight.
    pub outputs: usize,
    /// Columns of the weight.
    pub inputs: usize,
    /// Whether it has a bias.
    pub bias: bool,
}

/// Linear layers that read the same activations, and so share calibration
/// statistics and one act-order permutation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InputGroup {
    /// Names what flows in, such as `attn.input`.
    pub input: &'static str,
    /// The readers, all of one input width.
    pub linears: Vec<Linear>,
}

impl Block {
    /// All linear layers in the order of evaluation, grouped by shared input.
    pub fn input_groups(&self, hidden_size: usize) -> Vec<InputGroup> {
        let linear = |role, outputs, inputs, bias| Linear { role, outputs, inputs, bias };
        let mut groups = Vec::new();
        match &self.mixer {
            Mixer::Attention(a) => {
                let (q, kv) = (a.n_heads * a.head_dim, a.n_kv_heads * a.head_dim);
                let qkv = [("attn.q", q), ("attn.k", kv), ("attn.v", kv)];
                groups.push(InputGroup {
                    input: inputs::ATTENTION,
                    linears: qkv.map(|(role, out)| linear(role, out, hidden_size, a.qkv_bias)).to_vec(),
                });
                groups.push(InputGroup { input: inputs::CONTEXT, linears: vec![linear("attn.o", hidden_size, q, a.output_bias)] });
            }
        }
        let f = &self.ffn;
        groups.push(InputGroup {
            input: inputs::FFN,
            linears: ["ffn.gate", "ffn.up"].map(|role| linear(role, f.width, hidden_size, f.bias)).to_vec(),
        });
        groups.push(InputGroup { input: inputs::FFN_HIDDEN, linears: vec![linear("ffn.down", hidden_size, f.width, f.bias)] });
        groups
    }
}

impl ModelSpec {
    /// Canonical name of a part of a block.
    pub fn block_name(block: usize, role: &str) -> String {
        format!("blocks.{block}.{role}")
    }

    /// Canonical name of the matrix that makes logits.
    pub fn head_name(&self) -> &'static str {
        if self.tied { EMBEDDINGS } else { HEAD }
    }

    /// Whether a parameter is only ever read row by row: an embedding that is not
    /// the head too.
    pub fn is_looked_up(&self, parameter: &Parameter) -> bool {
        parameter.kind == ParameterKind::Embedding && !self.tied
    }

    /// Every parameter once, in the order a file holds them.
    pub fn parameters(&self) -> Vec<Parameter> {
        let mut all = Vec::new();
        let mut add = |part, name: String, shape: Vec<usize>, kind| all.push(Parameter { name, shape, kind, part });
        let vocabulary = || vec![self.vocab_size, self.hidden_size];
        add(Part::Start, EMBEDDINGS.into(), vocabulary(), ParameterKind::Embedding);
        for (i, block) in self.blocks.iter().enumerate() {
            add(Part::Block(i), Self::block_name(i, "attn_norm"), vec![self.hidden_size], ParameterKind::Vector);
            add(Part::Block(i), Self::block_name(i, "ffn_norm"), vec![self.hidden_size], ParameterKind::Vector);
            for linear in block.input_groups(self.hidden_size).into_iter().flat_map(|g| g.linears) {
                let name = Self::block_name(i, linear.role);
                if linear.bias {
                    add(Part::Block(i), format!("{name}.bias"), vec![linear.outputs], ParameterKind::Vector);
                }
                add(Part::Block(i), name, vec![linear.outputs, linear.inputs], ParameterKind::Linear);
            }
        }
        add(Part::End, FINAL_NORM.into(), vec![self.hidden_size], ParameterKind::Vector);
        if !self.tied {
            add(Part::End, HEAD.into(), vocabulary(), ParameterKind::Head);
        }
        all
    }

    /// The parts in order.
    pub fn parts(&self) -> impl Iterator<Item = Part> {
        std::iter::once(Part::Start).chain((0..self.blocks.len()).map(Part::Block)).chain([Part::End])
    }

    /// The parameters of one part.
    pub fn parameters_of(&self, part: Part) -> impl Iterator<Item = Parameter> {
        self.parameters().into_iter().filter(move |p| p.part == part)
    }

    /// Fails where a token is not in the vocabulary.
    pub fn check_ids(&self, ids: &[u32]) -> Result<()> {
        match ids.iter().position(|&id| id as usize >= self.vocab_size) {
            None => Ok(()),
            Some(position) => Err(Error::TokenOutOfRange { id: ids[position], position, vocab_size: self.vocab_size }),
        }
    }
}
