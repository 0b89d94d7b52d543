//! From token ids to hidden states.

use super::backend::norm_opt;
use super::names::{EMBEDDING_NORM, EMBEDDING_PROJECTION, EMBEDDINGS, POSITIONS};
use super::{Along, Backend, Binary, Dim, Layers, Linear, NormLayer, Provider, Unary, Vector};
use crate::spec::{Embedding, ModelSpec, Positions};

/// Layers before the blocks.
pub struct EmbeddingLayers<L: Layers> {
    spec: Embedding,
    hidden_size: usize,
    tokens: L::Table,
    projection: Option<L::Linear>,
    positions: Option<L::Table>,
    norm: Option<L::Norm>,
}

impl<L: Layers> EmbeddingLayers<L> {
    /// Declares them.
    pub fn new<P: Provider<Layers = L>>(spec: &ModelSpec, provider: &mut P) -> Result<Self, P::Error> {
        // Every field is named, so that none that is added can be forgotten here.
        let Embedding { width, scale: _, positions, norm } = &spec.embedding;
        let hidden = || Dim::of(Along::Hidden, spec.hidden_size);
        let columns = || width.map_or_else(hidden, |width| Dim::of(Along::EmbeddingWidth, width));
        let vocabulary = Dim::of(Along::Vocabulary, spec.vocab_size);
        let places = || Vector { name: POSITIONS, shape: vec![Dim::of(Along::Positions, spec.context), hidden()] };
        Ok(Self {
            spec: spec.embedding.clone(),
            hidden_size: spec.hidden_size,
            tokens: provider.table(Vector { name: EMBEDDINGS, shape: vec![vocabulary, columns()] })?,
            projection: width.map(|_| provider.linear(Linear::new(EMBEDDING_PROJECTION, hidden(), columns(), false))).transpose()?,
            positions: (*positions == Positions::Learned).then(|| provider.table(places())).transpose()?,
            norm: norm.as_ref().map(|norm| provider.norm(NormLayer::over(EMBEDDING_NORM, norm, hidden()))).transpose()?,
        })
    }

    /// The token embedding.
    pub fn tokens(&self) -> &L::Table {
        &self.tokens
    }

    /// Hidden states of the backend's batch.
    pub fn forward<B: Backend<Layers = L>>(&self, b: &mut B) -> B::X {
        let mut x = b.tokens(&self.tokens);
        if let Some(scale) = self.spec.scale {
            x = b.unary(Unary::Scale(scale), x);
        }
        if let Some(projection) = &self.projection {
            [x] = b.linear([projection], &x);
        }
        let positions = match (&self.positions, self.spec.positions) {
            (Some(table), _) => Some(b.positions(table)),
            (None, Positions::Sinusoidal { first }) => Some(b.sinusoids(first, self.hidden_size)),
            (None, _) => None,
        };
        if let Some(positions) = positions {
            x = b.binary(Binary::Add, x, positions);
        }
        norm_opt(b, &self.norm, x)
    }
}
