//! Powers of two of output rows, for weights that f16 scales cannot hold.
//!
//! Scales, offsets and outliers are stored in f16: normal numbers from 6e-5 to 65504, fewer bits
//! down to 6e-8. A row of a weight `[out, in]` that needs other scales is divided by a power of
//! two before it is quantised, which loses nothing, and the exponent is stored beside its scales:
//!
//! ```text
//! W[o,i] = 2^exponent[o] · scale[o,g] · (code[o,i] − zero_point[o,g])
//! ```
//!
//! Kernels know nothing of it: a product is multiplied by the power behind them.

use super::{Code, Scheme};
use ndarray::{Array2, ArrayView2};
use rayon::prelude::*;

/// Divided rows have their greatest magnitude from 2^this to below twice that, so that scales of
/// other groups of the row stay normal f16 numbers down to 2^-23 of the greatest.
const TOP: i32 = 9;
/// Greatest magnitude of a row without an exponent: scales, offsets and outliers fit.
const GREATEST: f32 = 32768.0;
/// Least exponent: its power is a normal f32.
pub const LEAST_EXPONENT: i8 = -126;

/// Exponent of a row of this greatest magnitude; 0 where its scales are good f16 numbers. Rows
/// below f32's normal numbers count as zeros.
pub fn of_row(greatest: f32, scheme: Scheme) -> i8 {
    if greatest < f32::MIN_POSITIVE || (least(scheme)..=GREATEST).contains(&greatest) {
        return 0;
    }
    let floor_of_log2 = (greatest.to_bits() >> 23) as i32 - 127;
    (floor_of_log2 - TOP).clamp(LEAST_EXPONENT.into(), i8::MAX.into()) as i8
}

/// Least magnitude whose scale is precise enough in f16 without an exponent: its rounding error,
/// 2^-25 of a subnormal number, moves the farthest code by no more than a step, and the scale by
/// no more than a thirtieth.
fn least(scheme: Scheme) -> f32 {
    // Greatest magnitude over scale, and levels that are told apart.
    let (steps, levels) = match scheme.code {
        // A mean magnitude may lie far below the greatest.
        code if code.is_ternary() => (64.0, 2.0),
        code if code.has_codebook() && code.is_whole() => (127.0, 16.0),
        code if code.has_codebook() => (1.0, 256.0),
        code => {
            let (first, last) = code.range();
            ((last - first) as f32, (last - first) as f32)
        }
    };
    let [unit, coarse] = [(-25f32).exp2(), (-20f32).exp2()];
    steps * (levels * unit).max(coarse)
}

/// Exponents of rows by their greatest magnitudes, one for all rows where they are to `share` it;
/// `None` where no row needs one.
pub fn of_rows(greatest: &[f32], scheme: Scheme, share: bool) -> Option<Vec<i8>> {
    let exponents: Vec<i8> = match share {
        true => vec![of_row(greatest.iter().copied().fold(0.0, f32::max), scheme); greatest.len()],
        false => greatest.iter().map(|&greatest| of_row(greatest, scheme)).collect(),
    };
    exponents.iter().any(|&exponent| exponent != 0).then_some(exponents)
}

/// 2^exponent.
pub fn power(exponent: i8) -> f32 {
    f32::from_bits(((i32::from(exponent.max(LEAST_EXPONENT)) + 127) as u32) << 23)
}

/// Greatest magnitude of some values.
pub fn greatest(values: &[f32]) -> f32 {
    values.iter().fold(0.0, |greatest, value| value.abs().max(greatest))
}

/// Greatest magnitude of each row of a weight `[out, in]`.
pub fn greatest_of_rows(weight: ArrayView2<f32>) -> Vec<f32> {
    let of_row = |row: usize| weight.row(row).iter().fold(0.0f32, |greatest, value| value.abs().max(greatest));
    (0..weight.nrows()).into_par_iter().map(of_row).collect()
}

/// Divides the rows of a weight `[out, in]` by their powers.
pub fn divide(weight: &mut Array2<f32>, exponents: &[i8]) {
    for (mut row, &exponent) in weight.rows_mut().into_iter().zip(exponents) {
        row.mapv_inplace(|value| value / power(exponent));
    }
}

/// Scheme of numbers that are stored one by one beside codes, such as BitNet's scales.
pub(super) const OF_SCALES: Scheme = Scheme::integers(Code::Ternary, 0, true);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn powers_are_those_of_f64() {
        for exponent in LEAST_EXPONENT..=i8::MAX {
            assert_eq!(f64::from(power(exponent)), 2f64.powi(exponent.into()));
        }
    }

    /// Ordinary rows have none; of all others the greatest magnitude comes to lie near 2^9.
    #[test]
    fn only_rows_that_need_one_have_an_exponent() {
        for code in Code::ALL {
            let scheme = Scheme::integers(code, 32, true);
            for ordinary in [0.0, 0.002, 0.02, 1.0, 300.0, 32768.0] {
                assert_eq!(of_row(ordinary, scheme), 0, "{code:?}: {ordinary}");
            }
            for odd in [1e-37f32, 1e-20, 1e-8, 40000.0, 1e20, f32::MAX] {
                let divided = odd / power(of_row(odd, scheme));
                assert!((1.0..1024.0).contains(&divided), "{code:?}: {odd} becomes {divided}");
            }
        }
        assert_eq!(of_rows(&[0.1, 0.0, 2.0], Scheme::integers(Code::Int4, 0, true), false), None);
        assert_eq!(of_rows(&[0.1, 1e20], OF_SCALES, true).unwrap()[0], of_row(1e20, OF_SCALES));
    }
}
