//! Packed codes → registers of bytes without a sign, one a unit of 16 rows × 4 columns,
//! and the quantisation parameters of a group.

use crate::kernels::{BLOCK, Tile};
use crate::quant::Code;
use crate::quant::codebook::WHOLE_ENTRIES;
use crate::quant::formats::tiled::{TILE_ROWS, UNIT_COLUMNS};
use crate::quant::scheme::{DIGITS_PER_BYTE, Packing};
use std::arch::x86_64::*;

/// Units of a block of activations.
pub const BLOCK_UNITS: usize = BLOCK / UNIT_COLUMNS;

/// A line of the packed layout.
type Line = [u8; TILE_ROWS * UNIT_COLUMNS];

/// What is added to numbers that have signs, so that they have none.
pub const LIFT: i32 = 128;

/// Whether what [`block`] gives is lifted.
pub const fn is_lifted(code: Code) -> bool {
    code.range().0 < 0 || code.has_codebook()
}

/// One block of columns: what its codes stand for, lifted where that may be negative. The
/// last block of a tile may be short: what completes it meets no activation.
///
/// Where it is called it must become part of the loop, or its registers go through memory;
/// `T`, a copy for each caller, makes the compiler see to that.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
pub fn block<const CODE: usize, const T: usize>(tile: &Tile, block: usize, levels: Levels) -> [__m512i; BLOCK_UNITS] {
    let code = const { Code::ALL[CODE] };
    let lines: &[Line] = tile.codes.as_chunks().0;
    let first = block * BLOCK_UNITS;
    let units = match const { Code::ALL[CODE].packing() } {
        Packing::Base3 => {
            let lines = &lines[first / DIGITS_PER_BYTE..];
            match first % DIGITS_PER_BYTE {
                0 => of_base3::<0>(lines),
                1 => of_base3::<1>(lines),
                2 => of_base3::<2>(lines),
                3 => of_base3::<3>(lines),
                _ => of_base3::<4>(lines),
            }
        }
        Packing::Planes(_) => {
            let whole = const { BLOCK_UNITS * Code::ALL[CODE].bits() / 8 };
            let lines = &lines[block * whole..];
            match lines.get(..whole) {
                Some(lines) => of_planes::<CODE>(lines),
                None => of_planes::<CODE>(&padded(lines)),
            }
        }
    };
    match (code.has_codebook(), is_lifted(code)) {
        (true, _) => units.map(|unit| _mm512_shuffle_epi8(levels.0, unit)),
        (false, true) => units.map(|unit| _mm512_xor_si512(unit, _mm512_set1_epi8(LIFT as i8))),
        (false, false) => units,
    }
}

/// As many lines as a block of any code has.
#[cold]
fn padded(lines: &[Line]) -> [Line; BLOCK_UNITS] {
    let mut padded = [[0; _]; BLOCK_UNITS];
    padded[..lines.len()].copy_from_slice(lines);
    padded
}

/// `lines` are those of a whole block.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn of_planes<const CODE: usize>(lines: &[Line]) -> [__m512i; BLOCK_UNITS] {
    let mut units = [_mm512_setzero_si512(); BLOCK_UNITS];
    let (mut plane_start, mut code_shift) = (0, 0);
    let Packing::Planes(planes) = (const { Code::ALL[CODE].packing() }) else { return units };
    for &bits in planes {
        let units_per_line = 8 / bits;
        for (i, unit) in units.iter_mut().enumerate() {
            let line = load(&lines[plane_start + i / units_per_line]);
            *unit = _mm512_or_si512(*unit, field(line, bits, i % units_per_line * bits, code_shift));
        }
        plane_start += BLOCK_UNITS / units_per_line;
        code_shift += bits;
    }
    units
}

/// Moves the `bits` bits at `from` of every byte to `to` and clears all others.
/// Called with constants once loops are unrolled: a shift and a mask.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn field(bytes: __m512i, bits: usize, from: usize, to: usize) -> __m512i {
    let count = _mm_cvtsi32_si128(from.abs_diff(to) as i32);
    // What crosses into the neighbouring byte of a 16-bit lane is masked out.
    let moved = if from >= to { _mm512_srl_epi16(bytes, count) } else { _mm512_sll_epi16(bytes, count) };
    _mm512_and_si512(moved, _mm512_set1_epi8(((0xff >> (8 - bits)) << to) as i8))
}

/// Takes the digits out of lines, those of units from number `BEFORE` on.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn of_base3<const BEFORE: usize>(lines: &[Line]) -> [__m512i; BLOCK_UNITS] {
    let mut units = [_mm512_setzero_si512(); BLOCK_UNITS];
    let [one, two] = [86u8, 171].map(|least| _mm512_set1_epi8(least as i8));
    for line in 0..const { (BEFORE + BLOCK_UNITS).div_ceil(DIGITS_PER_BYTE) } {
        let mut rest = lines.get(line).map_or(_mm512_setzero_si512(), |line| load(line));
        for unit in line * DIGITS_PER_BYTE..(line + 1) * DIGITS_PER_BYTE {
            if let Some(digits) = unit.checked_sub(BEFORE).and_then(|unit| units.get_mut(unit)) {
                let ones = _mm512_maskz_set1_epi8(_mm512_cmpge_epu8_mask(rest, one), 1);
                *digits = _mm512_mask_add_epi8(ones, _mm512_cmpge_epu8_mask(rest, two), ones, ones);
            }
            rest = _mm512_add_epi8(rest, _mm512_add_epi8(rest, rest));
        }
    }
    units
}

#[inline]
#[target_feature(enable = "avx512f")]
fn load(line: &Line) -> __m512i {
    // SAFETY: reads 64 bytes.
    unsafe { _mm512_loadu_si512(line.as_ptr().cast()) }
}

/// The whole numbers of a codebook, lifted.
#[derive(Clone, Copy)]
pub struct Levels(__m512i);

impl Levels {
    #[inline]
    #[target_feature(enable = "avx512f")]
    pub fn load(tile: &Tile) -> Self {
        let bytes = tile.codebook.map_or(&[0; WHOLE_ENTRIES], |codebook| codebook.bytes());
        // SAFETY: reads 16 bytes.
        let levels = _mm512_broadcast_i32x4(unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) });
        Self(_mm512_xor_si512(levels, _mm512_set1_epi8(LIFT as i8)))
    }
}

/// Scales of a group for all rows, and what is taken off their products.
#[derive(Clone, Copy)]
pub struct GroupParams {
    pub scales: __m512,
    /// What the sum of activations is multiplied by and taken off: zero points, lifted as
    /// codes are.
    pub zeros: __m512,
    /// Of a codebook.
    pub offsets: __m512,
}

impl GroupParams {
    #[inline]
    #[target_feature(enable = "avx512f")]
    pub fn load<const CODE: usize>(tile: &Tile, group: usize) -> Self {
        let code = const { Code::ALL[CODE] };
        let lift = if is_lifted(code) { LIFT } else { 0 };
        let middle = _mm512_set1_epi32(code.middle());
        let (zeros, offsets) = match tile.zeros {
            None => (middle, _mm512_setzero_ps()),
            Some(offsets) if code.has_codebook() => (middle, halves(offsets, group)),
            Some(zeros) => {
                let zeros: &[u8; TILE_ROWS] = &zeros.as_chunks().0[group];
                // SAFETY: reads 16 bytes.
                (_mm512_cvtepi8_epi32(unsafe { _mm_loadu_si128(zeros.as_ptr().cast()) }), _mm512_setzero_ps())
            }
        };
        let zeros = _mm512_cvtepi32_ps(_mm512_add_epi32(zeros, _mm512_set1_epi32(lift)));
        Self { scales: halves(tile.scales, group), zeros, offsets }
    }
}

/// The numbers of a group in a plane of f16.
#[inline]
#[target_feature(enable = "avx512f")]
fn halves(plane: &[u8], group: usize) -> __m512 {
    let bytes: &[u8; 2 * TILE_ROWS] = &plane.as_chunks().0[group];
    // SAFETY: reads 32 bytes.
    _mm512_cvtph_ps(unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) })
}
