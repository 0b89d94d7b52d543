//! Dense weights × f32 activations: one token by the rows as they lie, several
//! through a [`Panel`].

use super::lanes::{load, store, sum, transpose};
use super::panel::{self, Panel};
use crate::quant::formats::tiled::TILE_ROWS;
use std::arch::x86_64::*;

/// A number format of dense weights.
pub trait Element {
    /// Bytes of one number.
    const BYTES: usize;

    /// Eight numbers as f32.
    ///
    /// # Safety
    ///
    /// The instructions of [`super::detect`] are there, and `8 · BYTES` bytes can
    /// be read at `at`.
    unsafe fn load(at: *const u8) -> __m256;
}

/// f32
pub struct F32;
/// f16
pub struct F16;
/// bf16
pub struct Bf16;

impl Element for F32 {
    const BYTES: usize = 4;

    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn load(at: *const u8) -> __m256 {
        // SAFETY: the caller's word.
        unsafe { _mm256_loadu_ps(at.cast()) }
    }
}

impl Element for F16 {
    const BYTES: usize = 2;

    #[inline]
    #[target_feature(enable = "avx2,f16c")]
    unsafe fn load(at: *const u8) -> __m256 {
        // SAFETY: the caller's word.
        _mm256_cvtph_ps(unsafe { _mm_loadu_si128(at.cast()) })
    }
}

impl Element for Bf16 {
    const BYTES: usize = 2;

    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn load(at: *const u8) -> __m256 {
        // SAFETY: the caller's word.
        let halves = unsafe { _mm_loadu_si128(at.cast()) };
        _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(halves)))
    }
}

/// Eight numbers of a row from `column` on; zeros behind its end.
#[inline]
#[target_feature(enable = "avx2,f16c")]
fn load_eight<E: Element>(row: &[u8], column: usize) -> __m256 {
    let bytes = &row[column * E::BYTES..];
    if bytes.len() >= 8 * E::BYTES {
        // SAFETY: so many bytes are there.
        return unsafe { E::load(bytes.as_ptr()) };
    }
    let mut padded = [0; 32];
    padded[..bytes.len()].copy_from_slice(bytes);
    // SAFETY: no format takes more than 4 bytes a number.
    unsafe { E::load(padded.as_ptr()) }
}

/// Up to 16 rows × `x` `[tokens, columns]`: adds to `out` (a token each).
#[target_feature(enable = "avx2,fma,f16c")]
pub fn tile<E: Element>(rows: &[u8], columns: usize, x: &[f32], out: &mut [[f32; TILE_ROWS]]) {
    let row_bytes = columns * E::BYTES;
    if out.len() < 2 || rows.len() < TILE_ROWS * row_bytes {
        for (x, out) in x.chunks_exact(columns).zip(out) {
            add_rows::<E>(rows, x, out);
        }
        return;
    }
    let tokens = out.len().min(x.len() / columns);
    let mut panel = Panel::new();
    for start in (0..columns).step_by(panel::COLUMNS) {
        let count = panel::COLUMNS.min(columns - start);
        for (half, rows) in rows.chunks(8 * row_bytes).take(2).enumerate() {
            for column in (0..count).step_by(8) {
                let mut block = [_mm256_setzero_ps(); 8];
                for (block, row) in block.iter_mut().zip(rows.chunks_exact(row_bytes)) {
                    *block = load_eight::<E>(row, start + column);
                }
                for (line, column) in panel.0[column..].iter_mut().zip(transpose(block)) {
                    store(&mut line.as_chunks_mut().0[half], column);
                }
            }
        }
        panel.multiply(count, &x[start..], columns, &mut out[..tokens]);
    }
}

/// Products of rows with one token's activations.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn add_rows<E: Element>(rows: &[u8], x: &[f32], out: &mut [f32; TILE_ROWS]) {
    let row_bytes = x.len() * E::BYTES;
    for (rows, out) in rows.chunks(4 * row_bytes).zip(out.chunks_mut(4)) {
        if rows.len() == 4 * row_bytes {
            let rows = std::array::from_fn(|i| &rows[i * row_bytes..][..row_bytes]);
            out.iter_mut().zip(dots::<E, 4, 1>(rows, x)).for_each(|(out, dot)| *out += dot);
        } else {
            for (row, out) in rows.chunks_exact(row_bytes).zip(out) {
                *out += dots::<E, 1, 4>([row], x)[0];
            }
        }
    }
}

/// Σ row · x for `R` rows of as many numbers as `x`, each in `CHAINS` sums of
/// 8 lanes: four in all hide the latency of an addition.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub fn dots<E: Element, const R: usize, const CHAINS: usize>(rows: [&[u8]; R], x: &[f32]) -> [f32; R] {
    assert!(rows.iter().all(|row| row.len() == x.len() * E::BYTES));
    let mut sums = [[_mm256_setzero_ps(); CHAINS]; R];
    let (eights, rest) = x.as_chunks::<8>();
    let together = eights.chunks_exact(CHAINS);
    let last = together.remainder();
    for (i, x) in together.enumerate() {
        for (sums, row) in sums.iter_mut().zip(rows) {
            for (chain, (sum, x)) in sums.iter_mut().zip(x).enumerate() {
                // SAFETY: a row is as long as x, of which these are 8 numbers.
                let row = unsafe { E::load(row.as_ptr().add((i * CHAINS + chain) * 8 * E::BYTES)) };
                *sum = _mm256_fmadd_ps(row, load(x), *sum);
            }
        }
    }
    let mut padded = [0.0; 8];
    padded[..rest.len()].copy_from_slice(rest);
    let first = eights.len() - last.len();
    for (i, x) in last.iter().chain((!rest.is_empty()).then_some(&padded)).enumerate() {
        for (sums, row) in sums.iter_mut().zip(rows) {
            sums[0] = _mm256_fmadd_ps(load_eight::<E>(row, (first + i) * 8), load(x), sums[0]);
        }
    }
    sums.map(|sums| {
        let mut total = sums[0];
        for other in &sums[1..] {
            total = _mm256_add_ps(total, *other);
        }
        sum(total)
    })
}
