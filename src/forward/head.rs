//! From hidden states to logits.

use super::backend::norm_opt;
use super::names::{EMBEDDINGS, FINAL_NORM, HEAD, HEAD_BIAS, HEAD_PROJECTION};
use super::{Along, Backend, Dim, Layers, Linear, NormLayer, Provider, Unary};
use crate::spec::{Head, ModelSpec};

/// Layers behind the blocks.
pub struct HeadLayers<L: Layers> {
    softcap: Option<f32>,
    norm: Option<L::Norm>,
    projection: Option<L::Linear>,
    matrix: L::Linear,
}

impl<L: Layers> HeadLayers<L> {
    /// Declares them; `tokens` is the token embedding, which may be the head too.
    pub fn new<P: Provider<Layers = L>>(spec: &ModelSpec, tokens: &L::Table, provider: &mut P) -> Result<Self, P::Error> {
        // Every field is named, so that none that is added can be forgotten here.
        let Head { bias, softcap } = spec.head;
        let hidden = || Dim::of(Along::Hidden, spec.hidden_size);
        let width = || spec.embedding.width.map_or_else(hidden, |width| Dim::of(Along::EmbeddingWidth, width));
        let norm = spec.final_norm.as_ref().map(|norm| provider.norm(NormLayer::over(FINAL_NORM, norm, hidden()))).transpose()?;
        let projection = Linear::new(HEAD_PROJECTION, width(), hidden(), false);
        let projection = spec.embedding.width.map(|_| provider.linear(projection)).transpose()?;
        let name = if spec.tied { EMBEDDINGS } else { HEAD };
        let outputs = Dim::of(Along::Vocabulary, spec.vocab_size);
        let matrix = Linear { name, bias: bias.then(|| HEAD_BIAS.to_owned()), outputs, inputs: width() };
        let matrix = if spec.tied { provider.tied(matrix, tokens)? } else { provider.linear(matrix)? };
        Ok(Self { softcap, norm, projection, matrix })
    }

    /// The matrix that makes logits.
    pub fn matrix(&self) -> &L::Linear {
        &self.matrix
    }

    /// Norms hidden states behind the last block.
    pub fn norm<B: Backend<Layers = L>>(&self, b: &mut B, x: B::X) -> B::X {
        norm_opt(b, &self.norm, x)
    }

    /// The input of the head's matrix, of normed hidden states.
    pub fn project<B: Backend<Layers = L>>(&self, b: &mut B, x: B::X) -> B::X {
        match &self.projection {
            Some(projection) => {
                let [x] = b.linear([projection], &x);
                x
            }
            None => x,
        }
    }

    /// Logits `[tokens, vocab]` of the input of the head's matrix.
    pub fn logits<B: Backend<Layers = L>>(&self, b: &mut B, x: &B::X) -> B::X {
        let [logits] = b.linear([&self.matrix], x);
        match self.softcap {
            Some(cap) => b.unary(Unary::Softcap(cap), logits),
            None => logits,
        }
    }
}
