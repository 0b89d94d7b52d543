//! Packed weights × int8 activations. Lanes are rows: four activations are
//! broadcast to all of them and meet the four columns of a unit. One token reads
//! the lines straight into registers; more share an unpacked block in L1.

use super::codes::{BLOCK_UNITS, GroupParams, Levels, Padding, Unit, block_lines, is_signed, unit};
use super::lanes::{load_rows, store_rows};
use crate::kernels::{BLOCK, Int8Rows, Tile};
use crate::quant::Code;
use crate::quant::codebook::GREATEST_WHOLE;
use crate::quant::formats::tiled::{TILE_ROWS, UNIT_COLUMNS};
use std::arch::x86_64::*;

/// Tokens that share an unpacked block: their activations of one block are to
/// stay in L1.
const TOKENS: usize = 32;
/// Tokens that share a load of codes: 8 sums in 16 registers.
const TOGETHER: usize = 4;

/// Adds to `out` (a token each); `x` holds as many tokens at least.
#[target_feature(enable = "avx2,fma,f16c")]
pub fn tile<const CODE: usize>(tile: &Tile, x: &Int8Rows, out: &mut [[f32; TILE_ROWS]]) {
    let mut padding: Padding = [0; _];
    let levels = Levels::load(tile);
    for (chunk, out) in out.chunks_mut(TOKENS).enumerate() {
        let first = chunk * TOKENS;
        for group in 0..tile.groups() {
            let params = GroupParams::load::<CODE>(tile, group);
            for block in tile.group_blocks(group) {
                let lines = block_lines::<CODE>(tile, block, &mut padding);
                let unit = |i| levels.of::<CODE>(unit::<CODE>(lines, i));
                if let [out] = out {
                    add_block::<CODE, 1>(unit, &params, [x.block(first, block)], std::array::from_mut(out));
                    continue;
                }
                let mut codes: [Unit; BLOCK_UNITS] = [[_mm256_setzero_si256(); 2]; _];
                for (i, codes) in codes.iter_mut().enumerate() {
                    *codes = unit(i);
                }
                let (together, rest) = out.as_chunks_mut::<TOGETHER>();
                for (i, out) in together.iter_mut().enumerate() {
                    let x = std::array::from_fn(|t| x.block(first + i * TOGETHER + t, block));
                    add_block::<CODE, TOGETHER>(|i| codes[i], &params, x, out);
                }
                let first = first + together.len() * TOGETHER;
                for (i, out) in rest.iter_mut().enumerate() {
                    add_block::<CODE, 1>(|i| codes[i], &params, [x.block(first + i, block)], std::array::from_mut(out));
                }
            }
        }
    }
}

/// One block of columns for `T` tokens: codes, scale and sum of each in `x`.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn add_block<const CODE: usize, const T: usize>(
    units: impl Fn(usize) -> Unit,
    params: &GroupParams,
    x: [(&[i8; BLOCK], f32, i32); T],
    out: &mut [[f32; TILE_ROWS]; T],
) {
    let products = products::<CODE, T>(units, x.map(|(codes, _, _)| codes));
    for t in 0..T {
        let (_, x_scale, x_sum) = x[t];
        let (x_scale, x_sum) = (_mm256_set1_ps(x_scale), _mm256_cvtepi32_ps(_mm256_set1_epi32(x_sum)));
        let before = load_rows(&out[t]);
        let add = |half: usize| {
            // Whole numbers below 2²⁴ (at most 254 · 127 · 32): floats hold them exactly.
            let sum = _mm256_cvtepi32_ps(products[t][half]);
            let scale = _mm256_mul_ps(params.scales[half], x_scale);
            if const { Code::ALL[CODE].has_codebook() } {
                let moved = _mm256_fmadd_ps(params.zeros[half], _mm256_mul_ps(x_scale, x_sum), before[half]);
                _mm256_fmadd_ps(scale, sum, moved)
            } else {
                _mm256_fmadd_ps(scale, _mm256_fnmadd_ps(params.zeros[half], x_sum, sum), before[half])
            }
        };
        store_rows(&mut out[t], [add(0), add(1)]);
    }
}

/// Units whose products can be added up in 16 bits. A lane of `maddubs` is two
/// products of a code and an activation: 2 · 127 · the greatest code, which is
/// 762 at 2 bits, 1,778 at 3, 3,810 at 4 (8 units: 30,480), 7,874 at 5 (4 units:
/// 31,496), 16,002 at 6 (2 units: 32,004), and 32,258 at 8 and of codebooks; the bound is
/// 32,767.
const fn units_in_16_bits(code: Code) -> usize {
    let greatest = if code.has_codebook() { GREATEST_WHOLE as usize } else { code.range().1 as usize };
    let mut units = BLOCK_UNITS;
    while units * 2 * 127 * greatest > i16::MAX as usize {
        units /= 2;
    }
    units
}

/// Σ code_w · code_x over one block, exactly.
#[inline]
#[target_feature(enable = "avx2")]
fn products<const CODE: usize, const T: usize>(units: impl Fn(usize) -> Unit, x: [&[i8; BLOCK]; T]) -> [[__m256i; 2]; T] {
    let x: [&[[u8; UNIT_COLUMNS]; BLOCK_UNITS]; T] = x.map(bytemuck::cast_ref);
    let run = const { units_in_16_bits(Code::ALL[CODE]) };
    let ones = _mm256_set1_epi16(1);
    let mut sums = [[_mm256_setzero_si256(); 2]; T];
    for start in 0..BLOCK_UNITS / run {
        let mut short_sums = [[_mm256_setzero_si256(); 2]; T];
        for i in start * run..(start + 1) * run {
            let codes = units(i);
            for (short_sums, x) in short_sums.iter_mut().zip(x) {
                let four = _mm256_set1_epi32(i32::from_le_bytes(x[i]));
                for (short_sum, codes) in short_sums.iter_mut().zip(codes) {
                    *short_sum = _mm256_add_epi16(*short_sum, multiply::<CODE>(codes, four));
                }
            }
        }
        for (sums, short_sums) in sums.iter_mut().zip(short_sums) {
            for (sum, short_sum) in sums.iter_mut().zip(short_sums) {
                *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(short_sum, ones));
            }
        }
    }
    sums
}

/// Products of bytes, added in pairs. `maddubs` takes unsigned bytes first: signed
/// codes give their signs to the activations, and activations theirs to the numbers of
/// codebooks, which saves a step where rows share them; neither are ever −128.
#[inline]
#[target_feature(enable = "avx2")]
fn multiply<const CODE: usize>(codes: __m256i, x: __m256i) -> __m256i {
    if const { Code::ALL[CODE].has_codebook() } {
        _mm256_maddubs_epi16(_mm256_abs_epi8(x), _mm256_sign_epi8(codes, x))
    } else if const { is_signed(Code::ALL[CODE]) } {
        _mm256_maddubs_epi16(_mm256_abs_epi8(codes), _mm256_sign_epi8(x, codes))
    } else {
        _mm256_maddubs_epi16(codes, x)
    }
}
