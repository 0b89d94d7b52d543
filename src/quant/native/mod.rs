//! The native file, `model.thimble`: a safetensors file whose header is padded
//! so that the data begins at a multiple of 64, with all codes first (each a
//! multiple of 64 bytes), then scales, zero points or offsets, places of columns,
//! codebooks, dense tensors and the tokenizer. What is not a tensor is JSON in the header's
//! metadata.
//!
//! | tensor | dtype, shape | content |
//! |---|---|---|
//! | `W.codes` | u8 `[bytes]` | see [`crate::quant::formats::tiled`] |
//! | `W.scales` | f16 `[tiles, groups, tile_rows]` | |
//! | `W.zeros` | u8, or f16 where there is a codebook, of the same shape | zero points, or what is added to `scale · codebook[code]`; absent where the scheme is symmetric |
//! | a name of its own | f32 `[2^bits]` | a codebook, ascending: the numbers that codes stand for; up to 16 of them whole and within ±127 |
//! | a name of its own | u32 `[in]` | an order of columns |
//! | `W.outliers` | f16 `[out, k]` | columns that are kept in 16 bits; the codes below them stand for nothing |
//! | a name of its own | u32 `[k]` | which columns those are, ascending |
//! | `W.exponents` | i8 `[out]` | rows are multiplied by 2^exponent, scales, offsets and outliers alike; absent where all are 0. Files with exponents are of version 2 |
//! | `W.dense` | f32, f16 or bf16 | a weight that is not quantised |
//!
//! Permutations, lists of columns and codebooks are named by the schemes of all weights that share them
//! (`book.nf4`); a codebook that is a weight's own is `W.book`. A codebook says all that there
//! is to know about a data type: its name in the scheme is for people.
//!
//! One file is all that a device needs. `thimble.hashes` in its metadata has the BLAKE3 hash of
//! each tensor (`hashes.rs`); files without it, of earlier versions of this program, are read as
//! they are.

mod hashes;
mod notes;
mod planes;
mod read;
mod verified;
mod write;

pub use notes::Notes;
pub use read::NativeFile;
pub use write::{write, write_model};

use super::Scheme;
use super::formats::tiled::{Layout, PackedTensor};
use serde::{Deserialize, Serialize};

/// Name of the file in an output folder.
pub const FILE_NAME: &str = "model.thimble";
/// The newest version that this reads. A file is written as the oldest version that can express it.
pub const VERSION: u64 = 2;
/// The oldest version, without exponents and without tokens other than BOS before a text.
const FIRST_VERSION: u64 = 1;

const VERSION_KEY: &str = "thimble.version";
const SPEC_KEY: &str = "thimble.spec";
const SCHEMES_KEY: &str = "thimble.schemes";
const TOKENIZER: &str = "tokenizer";

/// How one quantised weight is stored: an entry of `thimble.schemes`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoredScheme {
    /// Codes, group size, symmetry.
    #[serde(flatten)]
    pub scheme: Scheme,
    /// Gathering of rows.
    pub layout: Layout,
    /// `[out, in]`
    pub shape: [usize; 2],
    /// Name of the permutation's tensor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub perm: Option<String>,
    /// Name of the codebook's tensor.
    #[serde(rename = "book", default, skip_serializing_if = "Option::is_none")]
    pub codebook: Option<String>,
    /// Name of the tensor u32 `[k]` that says which columns are kept in 16 bits; they
    /// lie in `….outliers`, f16 `[out, k]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outlier_columns: Option<String>,
    /// True if rows have exponents, in `….exponents`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub exponents: bool,
}

impl StoredScheme {
    /// Of a weight. `name` names its codebook where that is its own.
    pub fn of(name: &str, packed: &PackedTensor) -> Self {
        let t = packed.tiling;
        Self {
            scheme: t.scheme,
            layout: t.layout,
            shape: [t.rows, t.columns],
            perm: packed.permutation.as_ref().map(|p| p.name.clone()),
            codebook: packed.codebook.as_ref().map(|codebook| codebook.name.clone().unwrap_or_else(|| own_codebook(name))),
            outlier_columns: packed.outliers.as_ref().map(|o| o.columns.name.clone()),
            exponents: packed.exponents.is_some(),
        }
    }
}

/// Name of the codebook that is a weight's own.
fn own_codebook(weight: &str) -> String {
    format!("{weight}.book")
}
