//! Packed weights × int8 activations. Lanes are rows: four activations are broadcast to
//! all of them and meet the four columns of a unit.

use super::codes::{BLOCK_UNITS, GroupParams, Levels, block};
use crate::kernels::{BLOCK, Int8Rows, Tile};
use crate::quant::Code;
use crate::quant::formats::tiled::{TILE_ROWS, UNIT_COLUMNS};
use std::arch::x86_64::*;

/// Tokens that share a block in registers: a sum each, beside the block's units of codes.
const TOGETHER: usize = 8;

/// Adds to `out` (a token each); `x` holds as many tokens at least.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
pub fn tile<const CODE: usize>(tile: &Tile, x: &Int8Rows, out: &mut [[f32; TILE_ROWS]]) {
    let (together, rest) = out.as_chunks_mut::<TOGETHER>();
    for (i, out) in together.iter_mut().enumerate() {
        tokens::<CODE, TOGETHER>(tile, x, i * TOGETHER, out);
    }
    let first = together.len() * TOGETHER;
    let (half, rest) = rest.as_chunks_mut::<{ TOGETHER / 2 }>();
    if let [out] = half {
        tokens::<CODE, { TOGETHER / 2 }>(tile, x, first, out);
    }
    let first = first + half.len() * TOGETHER / 2;
    for (i, out) in rest.iter_mut().enumerate() {
        tokens::<CODE, 1>(tile, x, first + i, std::array::from_mut(out));
    }
}

/// The whole tile for `T` tokens from number `first` on, whose sums stay in registers.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn tokens<const CODE: usize, const T: usize>(tile: &Tile, x: &Int8Rows, first: usize, out: &mut [[f32; TILE_ROWS]; T]) {
    let levels = Levels::load(tile);
    let mut sums = [_mm512_setzero_ps(); T];
    for group in 0..tile.groups() {
        let params = GroupParams::load::<CODE>(tile, group);
        for i in tile.group_blocks(group) {
            let units = block::<CODE, T>(tile, i, levels);
            for (t, sum) in sums.iter_mut().enumerate() {
                let (codes, scale, codes_sum) = x.block(first + t, i);
                *sum = add_block::<CODE>(units, &params, codes, [scale, codes_sum as f32], *sum);
            }
        }
    }
    for (out, sum) in out.iter_mut().zip(sums) {
        // SAFETY: there are 16 floats at the address.
        unsafe { _mm512_storeu_ps(out.as_mut_ptr(), _mm512_add_ps(_mm512_loadu_ps(out.as_ptr()), sum)) };
    }
}

/// One block of columns for one token, on top of `before`.
#[inline]
#[target_feature(enable = "avx512f,avx512vnni")]
fn add_block<const CODE: usize>(
    units: [__m512i; BLOCK_UNITS],
    params: &GroupParams,
    x: &[i8; BLOCK],
    [scale, sum]: [f32; 2],
    before: __m512,
) -> __m512 {
    let x: &[[u8; UNIT_COLUMNS]; BLOCK_UNITS] = bytemuck::cast_ref(x);
    // Two chains, so that one product need not wait for the other.
    let mut products = [_mm512_setzero_si512(); 2];
    for (i, (unit, x)) in units.into_iter().zip(x).enumerate() {
        products[i % 2] = _mm512_dpbusd_epi32(products[i % 2], unit, _mm512_set1_epi32(i32::from_le_bytes(*x)));
    }
    // Whole numbers below 2²⁴ (at most 255 · 127 · 32): floats hold them exactly.
    let products = _mm512_cvtepi32_ps(_mm512_add_epi32(products[0], products[1]));
    let (scale, sum) = (_mm512_set1_ps(scale), _mm512_set1_ps(sum));
    let products = _mm512_fnmadd_ps(params.zeros, sum, products);
    let before = match const { Code::ALL[CODE].has_codebook() } {
        true => _mm512_fmadd_ps(params.offsets, _mm512_mul_ps(scale, sum), before),
        false => before,
    };
    _mm512_fmadd_ps(_mm512_mul_ps(params.scales, scale), products, before)
}
