//! 8-bit products as LLM.int8() (Dettmers et al. 2022) writes them, in float64: absmax
//! quantisation (equation 1) of each row of activations and each row of the weight
//! (section 3.1), and the decomposition that leaves outlier columns in 16 bits
//! (section 3.2, equation 8).
#![allow(dead_code)] // each test file uses some of it

use half::f16;
use ndarray::{Array2, ArrayView1};

/// How near to a tie (in units of a code) single precision may fall to its other side:
/// three roundings of numbers up to 127.
const TIE: f64 = 127.0 * 4.0 / (1 << 24) as f64;

/// A vector in 8 bits: `value ≈ scale · code`.
pub struct Codes {
    pub scale: f64,
    pub codes: Vec<f64>,
    /// Whether a code may be one off in single precision.
    pub at_tie: Vec<bool>,
}

/// `round(127 · x / max |x|)`; a vector of zeros has the scale 0. `stored` rounds the
/// scale to what it is stored in.
pub fn absmax(values: &[f64], stored: impl Fn(f64) -> f64) -> Codes {
    let greatest = values.iter().fold(0.0f64, |m, v| m.max(v.abs()));
    if greatest == 0.0 {
        return Codes { scale: 0.0, codes: vec![0.0; values.len()], at_tie: vec![false; values.len()] };
    }
    let scale = stored(greatest / 127.0);
    let exact: Vec<f64> = values.iter().map(|v| v / scale).collect();
    Codes {
        scale,
        codes: exact.iter().map(|v| v.round_ties_even().clamp(-127.0, 127.0)).collect(),
        at_tie: exact.iter().map(|v| (v.abs().fract() - 0.5).abs() <= TIE).collect(),
    }
}

/// Codes of a row of a weight, whose scale is stored in f16.
pub fn weight_codes(row: &[f64]) -> Codes {
    absmax(row, |scale| f16::from_f64(scale).max(f16::from_bits(1)).to_f64())
}

/// One number of a product.
pub struct Entry {
    pub value: f64,
    /// Σ |terms|: what rounding of sums is relative to.
    pub magnitude: f64,
    /// What codes at ties can make of it.
    pub ties: f64,
}

impl Entry {
    /// The most that single precision may be off: `roundings` of terms and sums, and
    /// codes at ties.
    pub fn bound(&self, roundings: usize) -> f64 {
        let unit = f64::from(f32::EPSILON) / 2.0;
        1.001 * (roundings as f64 * (unit * self.magnitude + f64::from(f32::from_bits(1)))) + self.ties
    }
}

/// x `[tokens, in]` times weight `[out, in]`, the columns of `outliers` in 16 bits:
/// `[tokens, out]`.
pub fn product(x: &Array2<f64>, weight: &Array2<f64>, outliers: &[usize]) -> Vec<Vec<Entry>> {
    let rest =
        |row: ArrayView1<f64>| -> Vec<f64> { row.iter().enumerate().map(|(i, v)| if outliers.contains(&i) { 0.0 } else { *v }).collect() };
    let x_codes: Vec<Codes> = x.outer_iter().map(|row| absmax(&rest(row), |scale| scale)).collect();
    let w_codes: Vec<Codes> = weight.outer_iter().map(|row| weight_codes(&rest(row))).collect();
    let entry = |t: usize, o: usize| {
        let (x_codes, w_codes) = (&x_codes[t], &w_codes[o]);
        let scale = x_codes.scale * w_codes.scale;
        let mut entry = Entry { value: 0.0, magnitude: 0.0, ties: 0.0 };
        for i in 0..weight.ncols() {
            let term = match outliers.contains(&i) {
                true => x[[t, i]] * f16::from_f64(weight[[o, i]]).to_f64(),
                false => scale * (x_codes.codes[i] * w_codes.codes[i]),
            };
            entry.value += term;
            entry.magnitude += term.abs();
            let (x_off, w_off) = (f64::from(x_codes.at_tie[i]), f64::from(w_codes.at_tie[i]));
            entry.ties += scale * (x_off * w_codes.codes[i].abs() + w_off * x_codes.codes[i].abs() + x_off * w_off);
        }
        entry
    };
    (0..x.nrows()).map(|t| (0..weight.nrows()).map(|o| entry(t, o)).collect()).collect()
}
