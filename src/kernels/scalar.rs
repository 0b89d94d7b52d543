//! The reference: plain loops that say what every other set must compute.

use super::{BLOCK, Int8Rows, Kernels, Tile};
use crate::quant::Code;
use crate::quant::formats::base3;
use crate::quant::formats::tiled::{TILE_ROWS, UNIT_COLUMNS};
use crate::quant::scheme::{DIGITS_PER_BYTE, Packing};
use half::{bf16, f16};

/// The table.
pub const KERNELS: Kernels = Kernels {
    isa: "scalar",
    int8_tile: [int8_tile; Code::WHOLE.len()],
    f32_tile: [f32_tile; Code::ALL.len()],
    dense_f32: |rows, columns, x, out| dense_tile(rows, columns, x, out, |b: [u8; 4]| f32::from_le_bytes(b)),
    dense_f16: |rows, columns, x, out| dense_tile(rows, columns, x, out, |b: [u8; 2]| f16::from_le_bytes(b).to_f32()),
    dense_bf16: |rows, columns, x, out| dense_tile(rows, columns, x, out, |b: [u8; 2]| bf16::from_le_bytes(b).to_f32()),
    quantize_block,
    dot,
    scores,
    softmax,
    weighted_sum,
};

/// Codes of one block, unit after unit, `[unit][row][column]`; zero behind the
/// last unit.
type BlockCodes = [i8; BLOCK * TILE_ROWS];

/// Bytes of a unit of 8-bit codes.
const LINE: usize = UNIT_COLUMNS * TILE_ROWS;

/// Unpacks one block of columns of a tile.
fn unpack_block(tile: &Tile, block: usize) -> BlockCodes {
    match tile.code.packing() {
        Packing::Planes(planes) => unpack_planes(planes, tile.block_codes(block), tile.block_units(block)),
        Packing::Base3 => unpack_base3(tile.block_codes(block), tile.units_before(block), tile.block_units(block)),
    }
}

fn unpack_base3(lines: &[u8], before: usize, units: usize) -> BlockCodes {
    let mut codes = [0i8; BLOCK * TILE_ROWS];
    for (unit, codes) in codes.chunks_exact_mut(LINE).take(units).enumerate() {
        let (line, place) = ((before + unit) / DIGITS_PER_BYTE, (before + unit) % DIGITS_PER_BYTE);
        codes.iter_mut().zip(&lines[line * LINE..]).for_each(|(code, &byte)| *code = base3::digit(byte, place) as i8);
    }
    codes
}

fn unpack_planes(planes: &[usize], mut lines: &[u8], units: usize) -> BlockCodes {
    let mut codes = [0i8; BLOCK * TILE_ROWS];
    let mut code_shift = 0;
    for &bits in planes {
        let units_per_line = 8 / bits;
        for unit in 0..units {
            let line = &lines[unit / units_per_line * LINE..][..LINE];
            for (code, &byte) in codes[unit * LINE..].iter_mut().zip(line) {
                let part = (byte >> (unit % units_per_line * bits)) & (0xff >> (8 - bits));
                *code |= (part << code_shift) as i8;
            }
        }
        lines = &lines[units / units_per_line * LINE..];
        code_shift += bits;
    }
    codes
}

/// out[token, row] += Σ_block scale_x · (scale_w · (Σ level_w · code_x − zero · Σ code_x) + offset · Σ code_x)
///
/// Levels are codes, or the whole numbers of a codebook.
fn int8_tile(tile: &Tile, x: &Int8Rows, out: &mut [f32]) {
    for block in 0..tile.blocks() {
        let levels = unpack_block(tile, block).map(|code| tile.level(code) as i32);
        let group = tile.group(block);
        for (token, out) in out.chunks_exact_mut(TILE_ROWS).enumerate() {
            let (x, x_scale, x_sum) = x.block(token, block);
            for (row, out) in out.iter_mut().enumerate() {
                let products = (0..BLOCK).map(|i| levels[place(row, i)] * i32::from(x[i]));
                let sum = products.sum::<i32>() - tile.zero(group, row) * x_sum;
                *out += tile.scale(group, row) * x_scale * sum as f32 + tile.offset(group, row) * x_scale * x_sum as f32;
            }
        }
    }
}

/// out[token, row] += Σ_block Σ (scale_w · (level_w − zero) + offset) · x
fn f32_tile(tile: &Tile, x: &[f32], x_stride: usize, out: &mut [f32]) {
    for block in 0..tile.blocks() {
        let levels = unpack_block(tile, block).map(|code| tile.level(code));
        let group = tile.group(block);
        let columns = block * BLOCK..((block + 1) * BLOCK).min(tile.columns);
        for (x, out) in x.chunks_exact(x_stride).zip(out.chunks_exact_mut(TILE_ROWS)) {
            for (row, out) in out.iter_mut().enumerate() {
                let (zero, x) = (tile.zero(group, row) as f32, &x[columns.clone()]);
                let products = x.iter().enumerate().map(|(i, x)| (levels[place(row, i)] - zero) * x);
                *out += tile.scale(group, row) * products.sum::<f32>() + tile.offset(group, row) * x.iter().sum::<f32>();
            }
        }
    }
}

/// Where a row and a column of a block lie in [`BlockCodes`].
fn place(row: usize, column: usize) -> usize {
    (column / UNIT_COLUMNS * TILE_ROWS + row) * UNIT_COLUMNS + column % UNIT_COLUMNS
}

fn dense_tile<const N: usize>(rows: &[u8], columns: usize, x: &[f32], out: &mut [f32], read: impl Fn([u8; N]) -> f32) {
    for (row, weights) in rows.chunks_exact(columns * N).enumerate() {
        for (x, out) in x.chunks_exact(columns).zip(out.chunks_exact_mut(TILE_ROWS)) {
            let weights = weights.chunks_exact(N).map(|b| read(b.try_into().expect("N bytes")));
            out[row] += weights.zip(x).map(|(w, x)| w * x).sum::<f32>();
        }
    }
}

/// To the greatest magnitude, ties to even. A block of zeros, or of magnitudes so
/// small that 127 divided by them overflows, has codes 0. One with a NaN or an
/// infinity too, but its scale is one and makes its products NaN.
fn quantize_block(x: &[f32], codes: &mut [i8]) -> (f32, i32) {
    // The bits of magnitudes are ordered as the magnitudes are, and NaN above all.
    let greatest = f32::from_bits(x.iter().map(|v| v.abs().to_bits()).max().unwrap_or(0));
    let inverse = 127.0 / greatest;
    if !inverse.is_finite() || greatest.is_infinite() {
        codes.fill(0);
        return (greatest / 127.0, 0);
    }
    let mut sum = 0;
    for (code, v) in codes.iter_mut().zip(x) {
        *code = (v * inverse).round_ties_even() as i8;
        sum += i32::from(*code);
    }
    (greatest / 127.0, sum)
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn scores(query: &[f32], rows: &[f32], stride: usize, scale: f32, out: &mut [f32]) {
    for (p, out) in out.iter_mut().enumerate() {
        *out = scale * dot(query, &rows[p * stride..p * stride + query.len()]);
    }
}

fn softmax(scores: &mut [f32]) {
    let greatest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    scores.iter_mut().for_each(|s| *s = (*s - greatest).exp());
    let inverse = scores.iter().sum::<f32>().recip();
    scores.iter_mut().for_each(|s| *s *= inverse);
}

fn weighted_sum(weights: &[f32], rows: &[f32], stride: usize, out: &mut [f32]) {
    for (p, weight) in weights.iter().enumerate() {
        let row = &rows[p * stride..p * stride + out.len()];
        out.iter_mut().zip(row).for_each(|(out, x)| *out += weight * x);
    }
}
