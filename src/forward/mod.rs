//! The forward pass of every model, written once over a [`Backend`].
//!
//! Each module is read like one of PyTorch: `new` declares its layers, by canonical name and
//! shape, through a [`Provider`]; `forward` computes with them on a backend. There are three:
//! libtorch (differentiable, batches of whole sequences, with observers), the device's kernels
//! (sequences of any length with their caches, no libtorch), and [`trace`], which runs on
//! names and shapes alone and tells which layers share an input and what makes it. The names
//! and shapes of a model's parameters are those that a recording provider is asked for.
//!
//! All calls are dispatched statically.

mod attention;
mod backend;
mod block;
mod dim;
mod embedding;
mod feed_forward;
mod head;
mod layers;
pub mod names;
pub mod trace;
mod wkv;

pub use attention::AttentionLayers;
pub use backend::{Backend, Binary, Layers, Provider, Unary};
pub use block::BlockLayers;
pub use dim::{Along, Dim, Inner};
pub use embedding::EmbeddingLayers;
pub use feed_forward::FeedForwardLayers;
pub use head::HeadLayers;
pub use layers::{Declare, Declared, Linear, NormLayer, Recorded, Recorder, Vector};
pub use wkv::WkvLayers;
