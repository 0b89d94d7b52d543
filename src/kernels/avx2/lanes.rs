//! Loads, stores and sums of registers. Lengths are in the types, so that what
//! is built on them needs no `unsafe`; nothing has to be aligned.

use crate::quant::formats::tiled::TILE_ROWS;
use std::arch::x86_64::*;

/// One f32 for each row of a tile: rows 0–7 and rows 8–15.
pub type Rows = [__m256; 2];

#[inline]
#[target_feature(enable = "avx2")]
pub fn load_bytes(bytes: &[u8; 32]) -> __m256i {
    // SAFETY: reads 32 bytes.
    unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx2")]
pub fn store_bytes(bytes: &mut [u8; 32], values: __m256i) {
    // SAFETY: writes 32 bytes.
    unsafe { _mm256_storeu_si256(bytes.as_mut_ptr().cast(), values) }
}

#[inline]
#[target_feature(enable = "avx2")]
pub fn load(values: &[f32; 8]) -> __m256 {
    // SAFETY: reads 8 floats.
    unsafe { _mm256_loadu_ps(values.as_ptr()) }
}

#[inline]
#[target_feature(enable = "avx2")]
pub fn store(values: &mut [f32; 8], register: __m256) {
    // SAFETY: writes 8 floats.
    unsafe { _mm256_storeu_ps(values.as_mut_ptr(), register) }
}

#[inline]
#[target_feature(enable = "avx2")]
pub fn load_rows(values: &[f32; TILE_ROWS]) -> Rows {
    // SAFETY: 8 floats lie at either address.
    unsafe { [_mm256_loadu_ps(values.as_ptr()), _mm256_loadu_ps(values.as_ptr().add(8))] }
}

#[inline]
#[target_feature(enable = "avx2")]
pub fn store_rows(values: &mut [f32; TILE_ROWS], rows: Rows) {
    // SAFETY: there is room for 8 floats at either address.
    unsafe {
        _mm256_storeu_ps(values.as_mut_ptr(), rows[0]);
        _mm256_storeu_ps(values.as_mut_ptr().add(8), rows[1]);
    }
}

/// Σ of all lanes.
#[inline]
#[target_feature(enable = "avx2")]
pub fn sum(lanes: __m256) -> f32 {
    let four = _mm_add_ps(_mm256_castps256_ps128(lanes), _mm256_extractf128_ps::<1>(lanes));
    let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
}

/// Σ of all lanes.
#[inline]
#[target_feature(enable = "avx2")]
pub fn sum_i32(lanes: __m256i) -> i32 {
    let four = _mm_add_epi32(_mm256_castsi256_si128(lanes), _mm256_extracti128_si256::<1>(lanes));
    let two = _mm_add_epi32(four, _mm_shuffle_epi32::<0b00_00_11_10>(four));
    _mm_cvtsi128_si32(_mm_add_epi32(two, _mm_shuffle_epi32::<1>(two)))
}

/// Rows of an 8 × 8 matrix → its columns.
#[inline]
#[target_feature(enable = "avx2")]
pub fn transpose(rows: [__m256; 8]) -> [__m256; 8] {
    let [a, b, c, d, e, f, g, h] = rows;
    let pairs = |a, b, c, d| {
        let (low, high) = (_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
        let (low2, high2) = (_mm256_unpacklo_ps(c, d), _mm256_unpackhi_ps(c, d));
        // Columns 0 | 4, 1 | 5, 2 | 6, 3 | 7 of four rows.
        [
            _mm256_shuffle_ps::<0b01_00_01_00>(low, low2),
            _mm256_shuffle_ps::<0b11_10_11_10>(low, low2),
            _mm256_shuffle_ps::<0b01_00_01_00>(high, high2),
            _mm256_shuffle_ps::<0b11_10_11_10>(high, high2),
        ]
    };
    let (top, bottom) = (pairs(a, b, c, d), pairs(e, f, g, h));
    let left = |i: usize| _mm256_permute2f128_ps::<0x20>(top[i], bottom[i]);
    let right = |i: usize| _mm256_permute2f128_ps::<0x31>(top[i], bottom[i]);
    [left(0), left(1), left(2), left(3), right(0), right(1), right(2), right(3)]
}
