//! Packed codes → registers, what they stand for, and the quantisation parameters of a group. A unit (16 rows × 4
//! columns) is two registers of bytes, `[row][column]`: half a line of 8-bit
//! codes each, or the same bits of half a line each.

use super::lanes::{Rows, load_bytes, store_bytes};
use crate::kernels::{BLOCK, Tile};
use crate::quant::Code;
use crate::quant::codebook::WHOLE_ENTRIES;
use crate::quant::formats::tiled::{TILE_ROWS, UNIT_COLUMNS};
use crate::quant::scheme::{DIGITS_PER_BYTE, Packing};
use std::arch::x86_64::*;

/// Codes of 4 columns: rows 0–7 and rows 8–15.
pub type Unit = [__m256i; 2];

/// Units of a block of activations.
pub const BLOCK_UNITS: usize = BLOCK / UNIT_COLUMNS;

/// Room for the lines of a block at the widest code.
pub type Padding = [u8; BLOCK * TILE_ROWS];

/// The bit planes of what [`block_lines`] gives: dense ternary codes lie there in bytes of
/// their own.
const fn planes(code: Code) -> &'static [usize] {
    match code.packing() {
        Packing::Planes(planes) => planes,
        Packing::Base3 => &[8],
    }
}

/// The lines of one block of columns in halves, two registers a line. The last
/// block of a tile may be short: it is completed in `padding`, by codes that meet
/// no activation.
#[inline]
#[target_feature(enable = "avx2")]
pub fn block_lines<'a, const CODE: usize>(tile: &Tile<'a>, block: usize, padding: &'a mut Padding) -> &'a [[u8; 32]] {
    let codes = tile.block_codes(block);
    if const { matches!(Code::ALL[CODE].packing(), Packing::Base3) } {
        unpack_base3(codes.as_chunks().0, tile.units_before(block), padding.as_chunks_mut().0);
        return padding.as_chunks().0;
    }
    let whole = const { BLOCK * TILE_ROWS * Code::ALL[CODE].bits() / 8 };
    let codes = if codes.len() == whole {
        codes
    } else {
        padding[..codes.len()].copy_from_slice(codes);
        &padding[..whole]
    };
    codes.as_chunks().0
}

/// Takes the digits out of lines, one half after the other: those of units from number
/// `before` on, as many as there is room for.
#[inline]
#[target_feature(enable = "avx2")]
fn unpack_base3(lines: &[[u8; 32]], before: usize, units: &mut [[u8; 32]]) {
    // A byte less 128, which comparisons of signed bytes want: three times that is three
    // times the byte less 128 again, but for what is above eight bits.
    let from_128 = _mm256_set1_epi8(i8::MIN);
    let [one, two] = [86u8, 171].map(|least| _mm256_set1_epi8((least - 1) as i8 ^ i8::MIN));
    let end = before + units.len() / 2;
    for (line, halves) in lines.as_chunks::<2>().0.iter().enumerate() {
        let mut rest = halves.each_ref().map(|half| _mm256_xor_si256(load_bytes(half), from_128));
        for unit in line * DIGITS_PER_BYTE..(line + 1) * DIGITS_PER_BYTE {
            if (before..end).contains(&unit) {
                for (half, &rest) in rest.iter().enumerate() {
                    let above = _mm256_add_epi8(_mm256_cmpgt_epi8(rest, one), _mm256_cmpgt_epi8(rest, two));
                    store_bytes(&mut units[2 * (unit - before) + half], _mm256_abs_epi8(above));
                }
            }
            rest = rest.map(|rest| _mm256_add_epi8(rest, _mm256_add_epi8(rest, rest)));
        }
    }
}

/// Unpacks one unit. `lines` are those of a whole block.
#[inline]
#[target_feature(enable = "avx2")]
pub fn unit<const CODE: usize>(lines: &[[u8; 32]], unit: usize) -> Unit {
    let mut codes = [_mm256_setzero_si256(); 2];
    let (mut plane_start, mut code_shift) = (0, 0);
    for &bits in const { planes(Code::ALL[CODE]) } {
        let units_per_line = 8 / bits;
        let line = plane_start + unit / units_per_line;
        let from = unit % units_per_line * bits;
        for (half, code) in codes.iter_mut().enumerate() {
            *code = _mm256_or_si256(*code, field(load_bytes(&lines[2 * line + half]), bits, from, code_shift));
        }
        plane_start += BLOCK_UNITS / units_per_line;
        code_shift += bits;
    }
    codes
}

/// Moves the `bits` bits at `from` of every byte to `to` and clears all others.
/// Called with constants once loops are unrolled: a shift and a mask.
#[inline]
#[target_feature(enable = "avx2")]
fn field(bytes: __m256i, bits: usize, from: usize, to: usize) -> __m256i {
    let count = _mm_cvtsi32_si128(from.abs_diff(to) as i32);
    // What crosses into the neighbouring byte of a 16-bit lane is masked out.
    let moved = if from >= to { _mm256_srl_epi16(bytes, count) } else { _mm256_sll_epi16(bytes, count) };
    _mm256_and_si256(moved, _mm256_set1_epi8(((0xff >> (8 - bits)) << to) as i8))
}

/// Whether what [`Levels::of`] gives are signed bytes.
pub const fn is_signed(code: Code) -> bool {
    code.range().0 < 0 || (code.has_codebook() && code.is_whole())
}

/// What whole codes stand for: themselves, or a codebook's whole numbers, in bytes.
#[derive(Clone, Copy)]
pub struct Levels(__m256i);

impl Levels {
    #[inline]
    #[target_feature(enable = "avx2")]
    pub fn load(tile: &Tile) -> Self {
        let bytes = tile.codebook.map_or(&[0; WHOLE_ENTRIES], |codebook| codebook.bytes());
        // SAFETY: reads 16 bytes.
        Self(_mm256_broadcastsi128_si256(unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) }))
    }

    /// The numbers of a unit of codes.
    #[inline]
    #[target_feature(enable = "avx2")]
    pub fn of<const CODE: usize>(self, codes: Unit) -> Unit {
        if const { Code::ALL[CODE].has_codebook() && Code::ALL[CODE].is_whole() } {
            codes.map(|half| _mm256_shuffle_epi8(self.0, half))
        } else {
            codes
        }
    }
}

/// Scales, and zero points or offsets, of a group for all rows.
#[derive(Clone, Copy)]
pub struct GroupParams {
    pub scales: Rows,
    /// Whole numbers; the offsets where there is a codebook.
    pub zeros: Rows,
}

impl GroupParams {
    #[inline]
    #[target_feature(enable = "avx2,f16c")]
    pub fn load<const CODE: usize>(tile: &Tile, group: usize) -> Self {
        let zeros = match tile.zeros {
            None => [_mm256_set1_ps(tile.code.middle() as f32); 2],
            Some(offsets) if const { Code::ALL[CODE].has_codebook() } => halves(offsets, group),
            Some(zeros) => {
                let zeros = zeros.as_chunks().0;
                let zero = |half: usize| {
                    let bytes: &[u8; 8] = &zeros[2 * group + half];
                    // SAFETY: reads 8 bytes.
                    _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(unsafe { _mm_loadl_epi64(bytes.as_ptr().cast()) }))
                };
                [zero(0), zero(1)]
            }
        };
        Self { scales: halves(tile.scales, group), zeros }
    }
}

/// The numbers of a group in a plane of f16.
#[inline]
#[target_feature(enable = "avx2,f16c")]
fn halves(plane: &[u8], group: usize) -> Rows {
    let plane = plane.as_chunks().0;
    let number = |half: usize| {
        let bytes: &[u8; 16] = &plane[2 * group + half];
        // SAFETY: reads 16 bytes.
        _mm256_cvtph_ps(unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) })
    };
    [number(0), number(1)]
}
