//! AVX2, FMA and F16C.
//!
//! | file | what it holds |
//! |---|---|
//! | [`lanes`] | loads, stores and sums of registers |
//! | [`codes`] | lines of packed codes → registers, one unit at a time |
//! | [`int8`] | packed weights × int8 activations |
//! | [`panel`] | transposed f32 weights in L1 × f32 activations, packed or dense |
//! | [`dense`] | dense number formats, and products of rows as they lie |
//! | [`attention`] | one query head over a cache |
//! | [`vector`] | kernels of one or two vectors |
//!
//! The functions of this file are what the table points to: they check lengths
//! and step into functions that are compiled for these instructions.

mod attention;
mod codes;
mod dense;
mod int8;
mod lanes;
mod panel;
mod vector;

use super::{BLOCK, Int8Rows, Kernels, Tile};
use dense::{Bf16, Element, F16, F32};

/// The table. To be called only where [`detect`] holds.
pub const KERNELS: Kernels = Kernels {
    isa: "avx2",
    int8_tile: by_code!(int8_tile: 0 1 2 3 4 5 6 7 8 9),
    f32_tile: by_code!(f32_tile: 0 1 2 3 4 5 6 7 8 9 10 11 12 13),
    dense_f32: dense_tile::<F32>,
    dense_f16: dense_tile::<F16>,
    dense_bf16: dense_tile::<Bf16>,
    quantize_block,
    dot,
    scores,
    softmax,
    weighted_sum,
};

/// Whether this machine has them.
pub fn detect() -> bool {
    std::is_x86_feature_detected!("avx2") && std::is_x86_feature_detected!("fma") && std::is_x86_feature_detected!("f16c")
}

/// `CODE` is an index into [`crate::quant::Code::ALL`].
fn int8_tile<const CODE: usize>(tile: &Tile, x: &Int8Rows, out: &mut [f32]) {
    let out = out.as_chunks_mut().0;
    tile.check_int8::<CODE>(x, out.len());
    // SAFETY: the table is handed out only where `detect` holds.
    unsafe { int8::tile::<CODE>(tile, x, out) }
}

/// `CODE` is an index into [`crate::quant::Code::ALL`].
fn f32_tile<const CODE: usize>(tile: &Tile, x: &[f32], x_stride: usize, out: &mut [f32]) {
    tile.check::<CODE>();
    assert!(tile.columns <= x_stride, "activations do not fit the tile");
    // SAFETY: the table is handed out only where `detect` holds.
    unsafe { panel::packed_tile::<CODE>(tile, x, x_stride, out.as_chunks_mut().0) }
}

fn dense_tile<E: Element>(rows: &[u8], columns: usize, x: &[f32], out: &mut [f32]) {
    // SAFETY: the table is handed out only where `detect` holds.
    unsafe { dense::tile::<E>(rows, columns, x, out.as_chunks_mut().0) }
}

fn quantize_block(x: &[f32], codes: &mut [i8]) -> (f32, i32) {
    assert!(x.len() <= BLOCK && x.len() == codes.len(), "not one block");
    // SAFETY: the table is handed out only where `detect` holds.
    unsafe { vector::quantize_block(x, codes) }
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    // SAFETY: the table is handed out only where `detect` holds.
    unsafe { vector::dot(a, b) }
}

fn scores(query: &[f32], rows: &[f32], stride: usize, scale: f32, out: &mut [f32]) {
    // SAFETY: the table is handed out only where `detect` holds.
    unsafe { attention::scores(query, rows, stride, scale, out) }
}

fn softmax(scores: &mut [f32]) {
    // SAFETY: the table is handed out only where `detect` holds.
    unsafe { attention::softmax(scores) }
}

fn weighted_sum(weights: &[f32], rows: &[f32], stride: usize, out: &mut [f32]) {
    // SAFETY: the table is handed out only where `detect` holds.
    unsafe { attention::weighted_sum(weights, rows, stride, out) }
}
