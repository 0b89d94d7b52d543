//! Kernels of one or two vectors.

use super::dense::{F32, dots};
use super::lanes::{load, store_bytes, sum_i32};
use crate::kernels::BLOCK;
use std::arch::x86_64::*;

/// As the scalar one, to the bit. At most [`BLOCK`] numbers.
#[target_feature(enable = "avx2")]
pub fn quantize_block(x: &[f32], codes: &mut [i8]) -> (f32, i32) {
    let (Ok(x), Ok(codes)) = (x.try_into(), <&mut [i8; BLOCK]>::try_from(&mut *codes)) else {
        let mut whole = ([0.0; BLOCK], [0; BLOCK]);
        whole.0[..x.len()].copy_from_slice(x);
        let scale_and_sum = quantize(&whole.0, &mut whole.1);
        codes.copy_from_slice(&whole.1[..codes.len()]);
        return scale_and_sum;
    };
    quantize(x, codes)
}

#[inline]
#[target_feature(enable = "avx2")]
fn quantize(x: &[f32; BLOCK], codes: &mut [i8; BLOCK]) -> (f32, i32) {
    let mut values = [_mm256_setzero_ps(); 4];
    // The bits of magnitudes are ordered as the magnitudes are, and NaN above all.
    let mut greatest = _mm256_setzero_si256();
    for (values, x) in values.iter_mut().zip(x.as_chunks().0) {
        *values = load(x);
        let magnitudes = _mm256_and_si256(_mm256_castps_si256(*values), _mm256_set1_epi32(i32::MAX));
        greatest = _mm256_max_epi32(greatest, magnitudes);
    }
    let four = _mm_max_epi32(_mm256_castsi256_si128(greatest), _mm256_extracti128_si256::<1>(greatest));
    let two = _mm_max_epi32(four, _mm_shuffle_epi32::<0b00_00_11_10>(four));
    let one = _mm_max_epi32(two, _mm_shuffle_epi32::<1>(two));
    let greatest = f32::from_bits(_mm_cvtsi128_si32(one) as u32);
    let inverse = 127.0 / greatest;
    if !inverse.is_finite() || greatest.is_infinite() {
        *codes = [0; BLOCK];
        return (greatest / 127.0, 0);
    }
    let mut rounded = [_mm256_setzero_si256(); 4];
    let mut sum = _mm256_setzero_si256();
    for (rounded, values) in rounded.iter_mut().zip(values) {
        *rounded = _mm256_cvtps_epi32(_mm256_mul_ps(values, _mm256_set1_ps(inverse))); // ties to even
        sum = _mm256_add_epi32(sum, *rounded);
    }
    let [a, b, c, d] = rounded;
    // Both steps pack within 128 bits: the permutation puts fours back in order.
    let packed = _mm256_packs_epi16(_mm256_packs_epi32(a, b), _mm256_packs_epi32(c, d));
    let ordered = _mm256_permutevar8x32_epi32(packed, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
    store_bytes(bytemuck::cast_mut(codes), ordered);
    (greatest / 127.0, sum_i32(sum))
}

/// Σ a·b
#[target_feature(enable = "avx2,fma,f16c")]
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    let len = a.len().min(b.len());
    dots::<F32, 1, 4>([bytemuck::cast_slice(&a[..len])], &b[..len])[0]
}
