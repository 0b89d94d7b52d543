//! Structured pruning: which layers, heads and channels go, and what the weights that
//! stay become. What belongs together is told by [`crate::model::Selection`].

pub mod depth;
pub mod gradients;
pub mod latency;
pub mod reconstruct;
pub mod saliency;
pub mod search;
