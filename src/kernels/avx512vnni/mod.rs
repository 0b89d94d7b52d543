//! AVX-512 with VNNI, whose `vpdpbusd` multiplies four columns of 16 rows by four int8
//! activations and adds them up, in one instruction.
//!
//! | file | what it holds |
//! |---|---|
//! | [`codes`] | lines of packed codes → registers, a block at a time; quantisation parameters of a group |
//! | [`int8`] | packed weights × int8 activations |
//!
//! All else is that of [`super::avx2`].

mod codes;
mod int8;

use super::{Int8Rows, Kernels, Tile, avx2};

/// The table. To be called only where [`detect`] holds.
pub const KERNELS: Kernels = Kernels { isa: "avx512vnni", int8_tile: by_code!(int8_tile: 0 1 2 3 4 5 6 7 8 9), ..avx2::KERNELS };

/// Whether this machine has them.
pub fn detect() -> bool {
    avx2::detect()
        && std::is_x86_feature_detected!("avx512f")
        && std::is_x86_feature_detected!("avx512bw")
        && std::is_x86_feature_detected!("avx512vnni")
}

/// `CODE` is an index into [`crate::quant::Code::ALL`].
fn int8_tile<const CODE: usize>(tile: &Tile, x: &Int8Rows, out: &mut [f32]) {
    let out = out.as_chunks_mut().0;
    tile.check_int8::<CODE>(x, out.len());
    // SAFETY: the table is handed out only where `detect` holds.
    unsafe { int8::tile::<CODE>(tile, x, out) }
}
