//! Everything that touches libtorch: the forward on it, calibration,
//! and the methods.

pub mod calibrate;
pub mod distil;
mod importance;
pub mod libtorch;
mod logits;
pub mod prune;
pub mod quantize;
pub mod rescale;
pub mod sensitivity;
pub mod solve;
pub mod sparsify;
pub mod straight_through;
mod tensors;
pub mod train;
mod unseen;

pub use logits::TorchLogits;
pub use tensors::{Compute, MallocTuning, Parameter, Parameters, dense, from_array, give_back, to_vec};
pub use unseen::{Marks, Unseen};
