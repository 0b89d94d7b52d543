//! Thimble fits a language model into a thimble: it prunes, distils and quantises
//! a checkpoint, proves what that cost, packs it, and runs it on a device.
//!
//! The floors, each using only those below it:
//!
//! | module | what it holds |
//! |---|---|
//! | [`kernels`] | arithmetic of the device, one file an instruction set |
//! | [`quant`] | schemes, rounding, packed layout, native file |
//! | [`model`] | what a model is, and the families that read checkpoints |
//! | [`text`] | tokenizers |
//! | [`checkpoint`] | mapped weights |
//! | [`error`] | the one error type |
#![deny(missing_docs)]

pub mod checkpoint;
pub mod error;
pub mod kernels;
pub mod model;
pub mod quant;
pub mod random;
pub mod text;

pub use error::{Error, Result};
