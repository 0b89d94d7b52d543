//! The interface between the wiring of a model and a backend that computes it.

use super::{Linear, NormLayer, Vector};
use crate::spec::{Activation, Attention, LayerName, QueryGrowth, Rotary};

/// Types of a backend's layers.
pub trait Layers {
    /// A matrix `[out, in]`, with its bias where it has one.
    type Linear;
    /// A norm with its weights.
    type Norm;
    /// A vector of parameters.
    type Vector;
    /// A matrix whose rows are looked up.
    type Table;
    /// A rotary position embedding.
    type Rotary;
}

/// Makes or finds layers.
pub trait Provider {
    /// Types of the layers.
    type Layers: Layers;
    /// Why a layer cannot be had.
    type Error;

    /// A matrix with its bias.
    fn linear(&mut self, linear: Linear) -> Result<<Self::Layers as Layers>::Linear, Self::Error>;

    /// A norm.
    fn norm(&mut self, norm: NormLayer) -> Result<<Self::Layers as Layers>::Norm, Self::Error>;

    /// A vector.
    fn vector(&mut self, vector: Vector) -> Result<<Self::Layers as Layers>::Vector, Self::Error>;

    /// A matrix whose rows are looked up, `[rows, columns]`.
    fn table(&mut self, table: Vector) -> Result<<Self::Layers as Layers>::Table, Self::Error>;

    /// The LM head of a model whose head is its embedding.
    fn tied(&mut self, linear: Linear, table: &<Self::Layers as Layers>::Table) -> Result<<Self::Layers as Layers>::Linear, Self::Error>;

    /// A rotary position embedding of heads of this width.
    fn rotary(&mut self, rotary: &Rotary, head_dim: usize) -> <Self::Layers as Layers>::Rotary;
}

/// An operation on each number.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Unary {
    /// A nonlinearity.
    Activation(Activation),
    /// Clamps to ± this.
    Clip(f32),
    /// Multiplies by this.
    Scale(f32),
    /// `cap · tanh(x / cap)`.
    Softcap(f32),
}

/// An operation on two tensors of one shape, x and y.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Binary {
    /// x + y.
    Add,
    /// x · y.
    Multiply,
    /// x · sigmoid(y).
    MultiplySigmoid,
}

/// Computes on activations `[tokens, width]` (or batches of them).
///
/// `state` is the number of a sub-layer in its block: where a backend keeps what sequences
/// have in their caches for it.
pub trait Backend {
    /// Types of its layers.
    type Layers: Layers;
    /// Activations.
    type X;
    /// Why a forward ends early; of a backend that never does so, [`std::convert::Infallible`].
    type Stop;

    /// Rows of a table at the batch's token ids.
    fn tokens(&mut self, table: &<Self::Layers as Layers>::Table) -> Self::X;

    /// Rows of a table at the batch's positions.
    fn positions(&mut self, table: &<Self::Layers as Layers>::Table) -> Self::X;

    /// [`crate::spec::Positions::sinusoid`] of `first` + each of the batch's positions.
    fn sinusoids(&mut self, first: usize, width: usize) -> Self::X;

    /// A second handle on the activations: a copy, or a shallow one where the backend has it.
    fn keep(&mut self, x: &Self::X) -> Self::X;

    /// Applies `f` to each batch by itself, where activations are several batches: no more
    /// than one batch's intermediate activations are in memory.
    fn each(&mut self, x: Self::X, f: impl FnMut(&mut Self, Self::X) -> Result<Self::X, Self::Stop>) -> Result<Self::X, Self::Stop>;

    /// Tells an observer of activations, which may end the forward. Layers that read them are
    /// looked up afterwards: an observer may have replaced them.
    fn observe(&mut self, name: LayerName, x: &Self::X) -> Result<(), Self::Stop>;

    /// Normalises each span of the last dimension.
    fn norm(&mut self, norm: &<Self::Layers as Layers>::Norm, x: Self::X) -> Self::X;

    /// Products with several matrices that share an input: x Wᵀ + b.
    fn linear<const N: usize>(&mut self, layers: [&<Self::Layers as Layers>::Linear; N], x: &Self::X) -> [Self::X; N];

    /// An operation on each number.
    fn unary(&mut self, operation: Unary, x: Self::X) -> Self::X;

    /// An operation on two tensors.
    fn binary(&mut self, operation: Binary, x: Self::X, y: Self::X) -> Self::X;

    /// From `[tokens, heads · head_dim]` to heads, as [`Self::attend`] wants them.
    fn split_heads(&mut self, x: Self::X, heads: usize) -> Self::X;

    /// Turns heads by their positions.
    fn rotate(&mut self, rotary: &<Self::Layers as Layers>::Rotary, heads: Self::X) -> Self::X;

    /// Multiplies query heads by a factor of their position.
    fn grow(&mut self, growth: &QueryGrowth, heads: Self::X) -> Self::X;

    /// Softmax attention: heads of queries, keys and values → `[tokens, heads · head_dim]`.
    fn attend(&mut self, attention: &Attention, state: usize, q: Self::X, k: Self::X, v: Self::X) -> Self::X;

    /// The activations of the token before each, zeros before the first.
    fn token_before(&mut self, state: usize, x: &Self::X) -> Self::X;

    /// `x · share + before · (1 − share)`, with a share a channel.
    fn lerp(&mut self, share: &<Self::Layers as Layers>::Vector, x: &Self::X, before: &Self::X) -> Self::X;

    /// RWKV-4's mean of values with decay (see [`crate::spec::Wkv`]).
    fn wkv(
        &mut self,
        state: usize,
        decay: &<Self::Layers as Layers>::Vector,
        first: &<Self::Layers as Layers>::Vector,
        keys: Self::X,
        values: Self::X,
    ) -> Self::X;
}

/// A norm that may be absent.
pub(super) fn norm_opt<B: Backend>(backend: &mut B, norm: &Option<<B::Layers as Layers>::Norm>, x: B::X) -> B::X {
    match norm {
        Some(norm) => backend.norm(norm, x),
        None => x,
    }
}
