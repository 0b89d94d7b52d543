//! Thimble fits a language model into a thimble: it distils and quantises a checkpoint, proves
//! what that cost, packs it, and runs it on a device.
//!
//! The floors, each using only those below it:
//!
//! | module | what it holds |
//! |---|---|
//! | [`cli`] | the commands |
//! | `pipeline` | runs a recipe; journal and resume (feature `torch`) |
//! | `compress` | everything on libtorch (feature `torch`) |
//! | `report` | JSON, page, model card (feature `torch`) |
//! | [`export`] | how a compressed model is written, one file or folder a format |
//! | [`recipe`] | what to do, in TOML |
//! | [`eval`] | perplexity, divergence, accuracy, size, speed |
//! | [`runtime`] | the device: decoder, cache, sampler |
//! | [`kernels`] | arithmetic of the device, one file or folder an instruction set; second moments, for what compresses |
//! | [`quant`] | schemes, rounding, packed layout, native file |
//! | [`model`] | parameters by canonical name, and the families that read checkpoints |
//! | [`forward`] | the forward pass of every model, written once over a backend |
//! | [`spec`] | what a model is, as data |
//! | [`text`] | tokenizers, and the corpus to train on |
//! | [`checkpoint`] | mapped weights, atomic writing |
//! | [`json`] | JSON files: byte-order marks, NaN and Infinity |
//! | [`input`] | reading files: Git LFS pointers, dangling links, encodings |
//! | [`error`], [`progress`], [`random`], [`memory`], [`threads`], [`paths`], [`pattern`], [`notice`], [`allocator`], [`exit`] | the ground: errors, who hears of progress, counter-based random numbers, memory and threads of this process, paths that are read and written, names with stars, warnings that are said once, the program's allocator, exits that libraries make |
#![deny(missing_docs)]

pub mod allocator;
pub mod checkpoint;
pub mod cli;
#[cfg(feature = "torch")]
pub mod compress;
pub mod error;
pub mod eval;
pub mod exit;
pub mod export;
pub mod forward;
pub mod input;
pub mod json;
pub mod kernels;
pub mod memory;
pub mod model;
pub mod notice;
pub mod paths;
pub mod pattern;
#[cfg(feature = "torch")]
pub mod pipeline;
pub mod progress;
pub mod quant;
pub mod random;
pub mod recipe;
#[cfg(feature = "torch")]
pub mod report;
pub mod runtime;
pub mod spec;
pub mod text;
pub mod threads;

pub use error::{Error, Result};
