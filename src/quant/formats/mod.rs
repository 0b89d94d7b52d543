//! Bytes that kernels read. A new packed layout = one file here.

pub mod tiled;
pub mod trits;
