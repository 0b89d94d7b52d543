//! Running a model on the device: no libtorch, no Python.
//!
//! Reading order: [`open()`] finds out what a path holds, [`Decoder`] computes
//! logits over a [`KvCache`], [`generate`] turns them into text.

mod attention;
mod backend;
mod cache;
mod decoder;
mod elementwise;
pub mod generate;
mod linear;
mod norm;
mod open;
mod sampler;
mod special;
mod trunk;
mod vocabulary;
mod window;

pub use cache::KvCache;
pub use decoder::{Activations, Decoder, Step};
pub use linear::product;
pub use open::{Model, open, open_unverified, open_weights};
pub use sampler::{Sampler, argmax};
pub use vocabulary::CommonVocabulary;
pub use window::NativeLogits;
