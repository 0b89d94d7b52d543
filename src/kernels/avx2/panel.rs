//! f32 weights × f32 activations of several tokens. Some columns of a tile are
//! decoded and transposed into a panel in L1, a line of 16 rows for each column;
//! then every token passes over it: lanes are rows, and activations are broadcast.

use super::codes::{BLOCK_UNITS, GroupParams, Levels, Padding, Unit, block_lines, is_signed, unit};
use super::lanes::{Rows, load_rows, store_bytes, store_rows};
use crate::kernels::{BLOCK, Tile};
use crate::quant::Code;
use crate::quant::formats::tiled::{TILE_ROWS, UNIT_COLUMNS};
use std::arch::x86_64::*;

/// Columns of a panel: half of a usual L1 of 32 KiB.
pub const COLUMNS: usize = 256;

/// Tokens that share a load of weights: 12 sums in 16 registers.
const TOGETHER: usize = 6;

/// Weights `[column][row]`.
#[repr(align(64))]
pub struct Panel(pub [[f32; TILE_ROWS]; COLUMNS]);

impl Panel {
    /// Zeros.
    pub fn new() -> Self {
        Self([[0.0; TILE_ROWS]; COLUMNS])
    }

    /// Adds the products of the first `columns` columns with those of each row of
    /// activations, `x[token · stride..]`, to `out`. One copy serves all codes.
    #[inline(never)]
    #[target_feature(enable = "avx2,fma")]
    pub fn multiply(&self, columns: usize, x: &[f32], stride: usize, out: &mut [[f32; TILE_ROWS]]) {
        let weights = &self.0[..columns];
        for (chunk, out) in out.chunks_mut(TOGETHER).enumerate() {
            let x = &x[chunk * TOGETHER * stride..];
            match out.len() {
                1 => add_tokens::<1>(weights, x, stride, out),
                2 => add_tokens::<2>(weights, x, stride, out),
                3 => add_tokens::<3>(weights, x, stride, out),
                4 => add_tokens::<4>(weights, x, stride, out),
                5 => add_tokens::<5>(weights, x, stride, out),
                _ => add_tokens::<TOGETHER>(weights, x, stride, out),
            }
        }
    }
}

#[inline]
#[target_feature(enable = "avx2,fma")]
fn add_tokens<const T: usize>(weights: &[[f32; TILE_ROWS]], x: &[f32], stride: usize, out: &mut [[f32; TILE_ROWS]]) {
    let x: [&[f32]; T] = std::array::from_fn(|t| &x[t * stride..][..weights.len()]);
    let mut sums: [Rows; T] = [[_mm256_setzero_ps(); 2]; T];
    for (column, weights) in weights.iter().enumerate() {
        let weights = load_rows(weights);
        for (sums, x) in sums.iter_mut().zip(x) {
            // SAFETY: each x is as long as `weights`.
            let x = _mm256_broadcast_ss(unsafe { x.get_unchecked(column) });
            for (sum, weights) in sums.iter_mut().zip(weights) {
                *sum = _mm256_fmadd_ps(weights, x, *sum);
            }
        }
    }
    for (sums, out) in sums.into_iter().zip(out) {
        let before = load_rows(out);
        store_rows(out, [_mm256_add_ps(before[0], sums[0]), _mm256_add_ps(before[1], sums[1])]);
    }
}

/// A packed tile × `x` `[tokens, stride]`: adds to `out` (a token each).
#[target_feature(enable = "avx2,fma,f16c")]
pub fn packed_tile<const CODE: usize>(tile: &Tile, x: &[f32], stride: usize, out: &mut [[f32; TILE_ROWS]]) {
    let mut panel = Panel::new();
    let tokens = out.len().min(x.len() / stride);
    for start in (0..tile.columns).step_by(COLUMNS) {
        let columns = COLUMNS.min(tile.columns - start);
        let blocks = start / BLOCK..(start + columns).div_ceil(BLOCK);
        for (block, lines) in blocks.zip(panel.0.as_chunks_mut().0) {
            decode_block::<CODE>(tile, block, lines);
        }
        panel.multiply(columns, &x[start..], stride, &mut out[..tokens]);
    }
}

/// `scale · (level − zero)` or `scale · level + offset` of one block of columns.
/// Without a codebook exact: a code less its zero point has 9 bits, a scale 11, and a
/// float holds 24.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn decode_block<const CODE: usize>(tile: &Tile, block: usize, lines: &mut [[f32; TILE_ROWS]; BLOCK]) {
    let code = const { Code::ALL[CODE] };
    let mut padding: Padding = [0; _];
    let params = GroupParams::load::<CODE>(tile, tile.group(block));
    let whole = Levels::load(tile);
    let packed = block_lines::<CODE>(tile, block, &mut padding);
    for i in 0..BLOCK_UNITS {
        let codes = whole.of::<CODE>(unit::<CODE>(packed, i));
        let lines = &mut lines[i * UNIT_COLUMNS..][..UNIT_COLUMNS];
        if !code.is_whole() {
            look_up(tile, codes, lines);
        }
        for (column, line) in lines.iter_mut().enumerate() {
            let found = load_rows(line);
            let to_top = _mm_cvtsi32_si128(8 * (UNIT_COLUMNS - 1 - column) as i32);
            let decode = |half: usize| {
                // The byte of this column to the top of its row's 32 bits, and down.
                let top = _mm256_sll_epi32(codes[half], to_top);
                let number = if is_signed(code) { _mm256_srai_epi32::<24>(top) } else { _mm256_srli_epi32::<24>(top) };
                let level = if code.is_whole() { _mm256_cvtepi32_ps(number) } else { found[half] };
                if code.has_codebook() {
                    _mm256_fmadd_ps(params.scales[half], level, params.zeros[half])
                } else {
                    _mm256_mul_ps(params.scales[half], _mm256_sub_ps(level, params.zeros[half]))
                }
            };
            store_rows(line, [decode(0), decode(1)]);
        }
    }
}

/// The numbers of a codebook at a unit of indices, `[column][row]`: one by one, which
/// processors do faster than they gather.
#[inline]
#[target_feature(enable = "avx2")]
fn look_up(tile: &Tile, indices: Unit, lines: &mut [[f32; TILE_ROWS]]) {
    let Some(codebook) = tile.codebook else { return };
    let indices: [[[u8; UNIT_COLUMNS]; TILE_ROWS / 2]; 2] = indices.map(|half| stored(half));
    for (row, indices) in indices.as_flattened().iter().enumerate() {
        for (line, index) in lines.iter_mut().zip(indices) {
            line[row] = codebook.table()[usize::from(*index)];
        }
    }
}

/// The bytes of a register.
#[inline]
#[target_feature(enable = "avx2")]
fn stored(register: __m256i) -> [[u8; UNIT_COLUMNS]; TILE_ROWS / 2] {
    let mut bytes = [0u8; 32];
    store_bytes(&mut bytes, register);
    bytemuck::cast(bytes)
}
