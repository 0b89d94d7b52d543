//! AVX-512 BF16: `vdpbf16ps` multiplies 16 pairs by 16 and adds both products to sums in f32.

use super::{Kernel, PANEL, Pair, STRIP};
use std::arch::x86_64::*;

/// To be called only where [`detect`] holds.
pub const KERNEL: Kernel = Kernel { isa: "avx512bf16", strip };

/// Whether this machine has it.
pub fn detect() -> bool {
    std::is_x86_feature_detected!("avx512f") && std::is_x86_feature_detected!("avx512bf16")
}

const LANES: usize = 16;
const VECTORS: usize = PANEL / LANES;

fn strip(left: &[Pair], first: usize, right: &[Pair], out: &mut [&mut [f32]]) {
    // SAFETY: the kernel is handed out only where `detect` holds.
    unsafe { products(left, first, right, out) }
}

#[target_feature(enable = "avx512f,avx512bf16")]
fn products(left: &[Pair], first: usize, right: &[Pair], out: &mut [&mut [f32]]) {
    let mut sums = [[_mm512_setzero_ps(); VECTORS]; STRIP];
    for (left, right) in left.as_chunks::<PANEL>().0.iter().zip(right.as_chunks::<PANEL>().0) {
        let left: &[Pair; STRIP] = left[first..].first_chunk().expect("strips divide a panel");
        // SAFETY: a panel's row is so many vectors long.
        let right: [__m512bh; VECTORS] =
            std::array::from_fn(|v| unsafe { std::mem::transmute(_mm512_loadu_si512(right.as_ptr().add(v * LANES).cast())) });
        for (sums, &pair) in sums.iter_mut().zip(left) {
            // SAFETY: 64 bytes either way, of which any are a value.
            let pair: __m512bh = unsafe { std::mem::transmute(_mm512_set1_epi32(pair as i32)) };
            for (sum, right) in sums.iter_mut().zip(right) {
                *sum = _mm512_dpbf16_ps(*sum, pair, right);
            }
        }
    }
    for (row, sums) in out.iter_mut().zip(sums) {
        for (row, sum) in row.chunks_mut(LANES).zip(sums) {
            let mask = (u32::MAX >> (32 - row.len())) as __mmask16;
            // SAFETY: the mask has one bit for each number of the row.
            unsafe { _mm512_mask_storeu_ps(row.as_mut_ptr(), mask, _mm512_add_ps(sum, _mm512_maskz_loadu_ps(mask, row.as_ptr()))) };
        }
    }
}
