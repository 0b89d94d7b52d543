//! The canonical names and shapes of a model's parameters, derived from its
//! spec, and which linear layers share an input.
//!
//! Names: `embeddings`, `blocks.3.attn.q`, `blocks.3.ffn.down`,
//! `blocks.3.attn_norm`, `final_norm`, `head`; a bias adds `.bias`. What blocks
//! share has the name of the first of them.

use super::spec::{Attention, Block, Gate, Mixer, ModelSpec, Norm, NormWeight, Positions, QkNorm, Wkv};
use crate::error::{Error, Result};

/// Canonical name of the token embedding.
pub const EMBEDDINGS: &str = "embeddings";
/// Canonical name of the table of learned positions.
pub const POSITIONS: &str = "positions";
/// Canonical name of the matrix from the embedding's width to the residual stream.
pub const EMBEDDING_PROJECTION: &str = "embedding_projection";
/// Canonical name of the norm of the embedding.
pub const EMBEDDING_NORM: &str = "embedding_norm";
/// Canonical name of the norm before the head.
pub const FINAL_NORM: &str = "final_norm";
/// Canonical name of the matrix from the residual stream to the head's width.
pub const HEAD_PROJECTION: &str = "head_projection";
/// Canonical name of the head's matrix where it is not tied.
pub const HEAD: &str = "head";
/// Canonical name of the head's bias, be the matrix tied or not.
pub const HEAD_BIAS: &str = "head.bias";

/// Names inside a block, of what is not a linear layer.
pub mod roles {
    /// Norms around the mixer.
    pub const MIXER_NORM: &str = "attn_norm";
    /// Of what it adds.
    pub const MIXER_OUTPUT_NORM: &str = "attn_output_norm";
    /// Of the sum behind it.
    pub const MIXER_SUM_NORM: &str = "attn_sum_norm";
    /// The same around the feed-forward.
    pub const FFN_NORM: &str = "ffn_norm";
    /// Of what it adds.
    pub const FFN_OUTPUT_NORM: &str = "ffn_output_norm";
    /// Of the sum behind it.
    pub const FFN_SUM_NORM: &str = "ffn_sum_norm";
    /// Of queries.
    pub const Q_NORM: &str = "attn.q_norm";
    /// Of keys.
    pub const K_NORM: &str = "attn.k_norm";
    /// Of contexts.
    pub const CONTEXT_NORM: &str = "attn.context_norm";
    /// Of the feed-forward's hidden numbers.
    pub const HIDDEN_NORM: &str = "ffn.hidden_norm";
    /// RWKV: −exp of it is the decay's logarithm a step, `[width]`.
    pub const WKV_DECAY: &str = "wkv.decay";
    /// RWKV: what is added to the key of the token itself, `[width]`.
    pub const WKV_FIRST: &str = "wkv.first";
    /// RWKV: shares of this token, against the one before, in what each linear
    /// layer of the mixer reads, `[hidden]`.
    pub const WKV_MIX: [(&str, &str); 3] =
        [("wkv.key", "wkv.mix_key"), ("wkv.value", "wkv.mix_value"), ("wkv.receptance", "wkv.mix_receptance")];
    /// The same for the feed-forward.
    pub const FFN_MIX: [(&str, &str); 2] = [("ffn.up", "ffn.mix_up"), ("ffn.receptance", "ffn.mix_receptance")];
}

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
    /// Into the output projection of RWKV's time mixing.
    pub const WKV: &str = "wkv.mixed";
    /// Of no linear layer, but heard as well: queries and keys as they meet, and values,
    /// `[batch, heads, tokens, head_dim]`.
    pub const QUERIES: &str = "attn.queries";
    /// See [`QUERIES`].
    pub const KEYS: &str = "attn.keys";
    /// See [`QUERIES`].
    pub const VALUES: &str = "attn.values";
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

/// A vector of a block: its role and shape.
type Vector = (String, Vec<usize>);

impl Block {
    /// All linear layers in the order of evaluation, grouped by shared input.
    pub fn input_groups(&self, hidden_size: usize) -> Vec<InputGroup> {
        let linear = |role, outputs, inputs, bias| Linear { role, outputs, inputs, bias };
        let group = |input, linears: Vec<Linear>| InputGroup { input, linears };
        let mut groups = match &self.mixer {
            Mixer::Attention(a) => vec![
                group(
                    inputs::ATTENTION,
                    [("attn.q", a.q_width()), ("attn.k", a.kv_width()), ("attn.v", a.kv_width())]
                        .map(|(role, out)| linear(role, out, hidden_size, a.qkv_bias))
                        .to_vec(),
                ),
                group(inputs::CONTEXT, vec![linear("attn.o", hidden_size, a.q_width(), a.output_bias)]),
            ],
            Mixer::Wkv(Wkv { width }) => {
                // Each reads a mixture of its own, which has its name.
                let reading = roles::WKV_MIX.map(|(role, mix)| group(mix, vec![linear(role, *width, hidden_size, false)]));
                let output = group(inputs::WKV, vec![linear("wkv.output", hidden_size, *width, false)]);
                reading.into_iter().chain([output]).collect()
            }
        };
        let f = &self.ffn;
        match f.gate {
            Gate::Hidden => {
                groups.push(group(inputs::FFN, ["ffn.gate", "ffn.up"].map(|role| linear(role, f.width, hidden_size, f.bias)).to_vec()))
            }
            Gate::None => groups.push(group(inputs::FFN, vec![linear("ffn.up", f.width, hidden_size, f.bias)])),
            Gate::Receptance => groups.extend(
                roles::FFN_MIX
                    .into_iter()
                    .zip([f.width, hidden_size])
                    .map(|((role, mix), out)| group(mix, vec![linear(role, out, hidden_size, f.bias)])),
            ),
        }
        groups.push(group(inputs::FFN_HIDDEN, vec![linear("ffn.down", hidden_size, f.width, f.bias)]));
        groups
    }

    /// Norms' weights and biases, and the vectors of mixers.
    fn vectors(&self, hidden_size: usize) -> Vec<Vector> {
        let mut all = Vec::new();
        self.norms(hidden_size).into_iter().for_each(|(role, norm, shape)| add_norm(&mut all, role, norm, shape));
        if let Mixer::Wkv(wkv) = &self.mixer {
            all.extend([roles::WKV_DECAY, roles::WKV_FIRST].map(|role| (role.into(), vec![wkv.width])));
            all.extend(roles::WKV_MIX.map(|(_, mix)| (mix.into(), vec![hidden_size])));
        }
        if self.ffn.gate == Gate::Receptance {
            all.extend(roles::FFN_MIX.map(|(_, mix)| (mix.into(), vec![hidden_size])));
        }
        all
    }

    /// The norms there are, by role, with the shape of their weights.
    fn norms(&self, hidden_size: usize) -> Vec<(&'static str, &Norm, Vec<usize>)> {
        let around = [
            (roles::MIXER_NORM, &self.mixer_norm),
            (roles::MIXER_OUTPUT_NORM, &self.mixer_output_norm),
            (roles::MIXER_SUM_NORM, &self.mixer_sum_norm),
            (roles::FFN_NORM, &self.ffn_norm),
            (roles::FFN_OUTPUT_NORM, &self.ffn_output_norm),
            (roles::FFN_SUM_NORM, &self.ffn_sum_norm),
        ];
        let around = around.into_iter().filter_map(|(role, norm)| Some((role, norm.as_ref()?, vec![hidden_size])));
        let inside = match &self.mixer {
            Mixer::Attention(attention) => attention.norms(),
            Mixer::Wkv(_) => Vec::new(),
        };
        let hidden = self.ffn.hidden_norm.as_ref().map(|norm| (roles::HIDDEN_NORM, norm, vec![self.ffn.width]));
        around.chain(inside).chain(hidden).collect()
    }
}

impl Attention {
    fn norms(&self) -> Vec<(&'static str, &Norm, Vec<usize>)> {
        let of_heads = self.qk_norm.as_ref().map(|QkNorm { norm, span }| {
            [(roles::Q_NORM, self.n_heads), (roles::K_NORM, self.n_kv_heads)]
                .map(|(role, heads)| (role, norm, span.shape(heads, self.head_dim)))
        });
        let of_contexts = self.context_norm.as_ref().map(|norm| (roles::CONTEXT_NORM, norm, vec![self.q_width()]));
        of_heads.into_iter().flatten().chain(of_contexts).collect()
    }
}

fn add_norm(all: &mut Vec<Vector>, role: &str, norm: &Norm, shape: Vec<usize>) {
    if norm.weight != NormWeight::None {
        all.push((role.to_owned(), shape.clone()));
    }
    if norm.bias {
        all.push((format!("{role}.bias"), shape));
    }
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
    pub fn block_name(&self, block: usize, role: &str) -> String {
        format!("blocks.{}.{role}", self.owner(block, role))
    }

    /// The block under whose name a part of a block is stored.
    pub fn owner(&self, block: usize, role: &str) -> usize {
        let of = &self.blocks[block];
        of.weights_of.or(of.ffn.weights_of.filter(|_| role.starts_with("ffn."))).unwrap_or(block)
    }

    /// Whether any block uses weights of another.
    pub fn shares_weights(&self) -> bool {
        self.blocks.iter().any(|block| block.weights_of.is_some() || block.ffn.weights_of.is_some())
    }

    /// Canonical name of the matrix that makes logits.
    pub fn head_name(&self) -> &'static str {
        if self.tied { EMBEDDINGS } else { HEAD }
    }

    /// Width of embedding and head.
    pub fn embedding_width(&self) -> usize {
        self.embedding.width.unwrap_or(self.hidden_size)
    }

    /// Whether a parameter is only ever read row by row: positions, and an embedding
    /// that is not the head too.
    pub fn is_looked_up(&self, parameter: &Parameter) -> bool {
        parameter.name == POSITIONS || parameter.kind == ParameterKind::Embedding && !self.tied
    }

    /// Every parameter once, in the order a file holds them.
    pub fn parameters(&self) -> Vec<Parameter> {
        let mut all = self.parameters_before();
        for i in 0..self.blocks.len() {
            let own = self.roles(i).into_iter().filter(|(role, ..)| self.owner(i, role) == i);
            all.extend(own.map(|(role, shape, kind)| Parameter { name: self.block_name(i, &role), shape, kind, part: Part::Block(i) }));
        }
        all.extend(self.parameters_behind());
        all
    }

    fn parameters_before(&self) -> Vec<Parameter> {
        let width = self.embedding_width();
        let mut matrices = vec![(EMBEDDINGS, vec![self.vocab_size, width], ParameterKind::Embedding)];
        if self.embedding.width.is_some() {
            matrices.push((EMBEDDING_PROJECTION, vec![self.hidden_size, width], ParameterKind::Kept));
        }
        if self.embedding.positions == Positions::Learned {
            matrices.push((POSITIONS, vec![self.context, self.hidden_size], ParameterKind::Kept));
        }
        let mut vectors = Vec::new();
        if let Some(norm) = &self.embedding.norm {
            add_norm(&mut vectors, EMBEDDING_NORM, norm, vec![self.hidden_size]);
        }
        outside(Part::Start, matrices, vectors)
    }

    fn parameters_behind(&self) -> Vec<Parameter> {
        let width = self.embedding_width();
        let mut matrices = Vec::new();
        if self.embedding.width.is_some() {
            matrices.push((HEAD_PROJECTION, vec![width, self.hidden_size], ParameterKind::Kept));
        }
        if !self.tied {
            matrices.push((HEAD, vec![self.vocab_size, width], ParameterKind::Head));
        }
        let mut vectors = Vec::new();
        if let Some(norm) = &self.final_norm {
            add_norm(&mut vectors, FINAL_NORM, norm, vec![self.hidden_size]);
        }
        if self.head.bias {
            vectors.push((HEAD_BIAS.into(), vec![self.vocab_size]));
        }
        outside(Part::End, matrices, vectors)
    }

    /// Every role of a block, be it shared or not, with its shape and kind.
    pub fn roles(&self, block: usize) -> Vec<(String, Vec<usize>, ParameterKind)> {
        let block = &self.blocks[block];
        let vector = |(role, shape)| (role, shape, ParameterKind::Vector);
        let mut all: Vec<_> = block.vectors(self.hidden_size).into_iter().map(vector).collect();
        for linear in block.input_groups(self.hidden_size).into_iter().flat_map(|g| g.linears) {
            if linear.bias {
                all.push((format!("{}.bias", linear.role), vec![linear.outputs], ParameterKind::Vector));
            }
            all.push((linear.role.to_owned(), vec![linear.outputs, linear.inputs], ParameterKind::Linear));
        }
        all
    }

    /// The norm that a parameter is the weight or the bias of.
    pub fn norm_of(&self, parameter: &Parameter) -> Option<&Norm> {
        let role = parameter.layer();
        match parameter.part {
            Part::Start => self.embedding.norm.as_ref().filter(|_| role == EMBEDDING_NORM),
            Part::End => self.final_norm.as_ref().filter(|_| role == FINAL_NORM),
            Part::Block(i) => self.blocks[i].norms(self.hidden_size).into_iter().find(|(of, ..)| *of == role).map(|(_, norm, _)| norm),
        }
    }

    /// The parts in order.
    pub fn parts(&self) -> impl Iterator<Item = Part> {
        std::iter::once(Part::Start).chain((0..self.blocks.len()).map(Part::Block)).chain([Part::End])
    }

    /// The parameters of one part.
    pub fn parameters_of(&self, part: Part) -> impl Iterator<Item = Parameter> {
        self.parameters().into_iter().filter(move |p| p.part == part)
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

fn outside(part: Part, matrices: Vec<(&str, Vec<usize>, ParameterKind)>, vectors: Vec<Vector>) -> Vec<Parameter> {
    let matrices = matrices.into_iter().map(|(name, shape, kind)| Parameter { name: name.to_owned(), shape, kind, part });
    let vectors = vectors.into_iter().map(|(name, shape)| Parameter { name, shape, kind: ParameterKind::Vector, part });
    vectors.chain(matrices).collect()
}
