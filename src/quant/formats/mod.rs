//! Bytes that kernels read: one layout of tiles, and how codes that are no bit planes share a byte.

pub mod base3;
pub mod tiled;
