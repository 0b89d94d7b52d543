//! Data types written out in float64, each by its definition alone: bit patterns,
//! published tables, and the nearest of all numbers by trying each.

use half::f16;

/// NF4 as it is published: Dettmers et al., "QLoRA" (2023), appendix E.
pub const NF4: [f64; 16] = [
    -1.0,
    -0.6961928009986877,
    -0.5250730514526367,
    -0.39491748809814453,
    -0.28444138169288635,
    -0.18477343022823334,
    -0.09105003625154495,
    0.0,
    0.07958029955625534,
    0.16093020141124725,
    0.24611230194568634,
    0.33791524171829224,
    0.44070982933044434,
    0.5626170039176941,
    0.7229568362236023,
    1.0,
];

/// Magnitudes of bitsandbytes' FP4 in twelfths, as its kernels have them.
pub const FP4: [f64; 8] = [0.0, 0.0625, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0];

/// The number of a pattern of sign, exponent and mantissa, by IEEE 754 with a bias of
/// 2^(E−1) − 1, but for infinities and NaN.
fn float(pattern: u32, exponent: u32, mantissa: u32) -> f64 {
    let bias = (1i32 << (exponent - 1)) - 1;
    let (m, e) = (pattern & ((1 << mantissa) - 1), (pattern >> mantissa) & ((1 << exponent) - 1));
    let fraction = f64::from(m) / f64::from(1u32 << mantissa);
    let magnitude = if e == 0 { fraction * 2f64.powi(1 - bias) } else { (1.0 + fraction) * 2f64.powi(e as i32 - bias) };
    if pattern >> (exponent + mantissa) == 1 { -magnitude } else { magnitude }
}

pub fn floats(exponent: u32, mantissa: u32) -> Vec<f64> {
    normalised((0..1 << (1 + exponent + mantissa)).map(|pattern| float(pattern, exponent, mantissa)).collect())
}

/// The number of a pattern: a sign, zeros that are tenths each, a one, and a fraction
/// that names one of equal parts of 0.1 … 1. Zero is all zeros, and one the pattern
/// of a minus zero.
fn dynamic(pattern: u32, bits: u32) -> f64 {
    let (negative, rest) = (pattern >> (bits - 1) == 1, pattern & ((1 << (bits - 1)) - 1));
    if rest == 0 {
        return if negative { 1.0 } else { 0.0 };
    }
    let indicator = 31 - rest.leading_zeros();
    let fraction = rest & ((1 << indicator) - 1);
    let zeros = bits - 2 - indicator;
    let width = 0.9 / f64::from(1u32 << indicator);
    let magnitude = (0.1 + width * (f64::from(fraction) + 0.5)) * 10f64.powi(-(zeros as i32));
    if negative { -magnitude } else { magnitude }
}

pub fn dynamics(bits: u32) -> Vec<f64> {
    normalised((0..1 << bits).map(|pattern| dynamic(pattern, bits)).collect())
}

/// Below x, of the normal distribution: its power series.
fn normal_below(x: f64) -> f64 {
    let (mut term, mut sum) = (x, x);
    for n in 1..400 {
        term *= x * x / f64::from(2 * n + 1);
        sum += term;
    }
    0.5 + sum * (-x * x / 2.0).exp() / std::f64::consts::TAU.sqrt()
}

/// The x that a share of the normal distribution lies below, by Newton's method.
fn normal_quantile(share: f64) -> f64 {
    let mut x = 0.0f64;
    for _ in 0..60 {
        let density = (-x * x / 2.0).exp() / std::f64::consts::TAU.sqrt();
        x -= ((normal_below(x) - share) / density).clamp(-0.5, 0.5);
    }
    x
}

/// `create_normal_map` of bitsandbytes at any width.
pub fn normals(bits: u32) -> Vec<f64> {
    let half = 1u32 << (bits - 1);
    let tail = 1.0 - 0.5 * (1.0 / f64::from(4 * half) + 1.0 / f64::from(4 * half - 2));
    let spaced = |steps: u32| (0..steps).map(move |i| tail + (0.5 - tail) * f64::from(i) / f64::from(steps));
    let above = spaced(half).map(normal_quantile);
    let below = spaced(half - 1).map(|p| -normal_quantile(p));
    normalised(above.chain([0.0]).chain(below).collect())
}

/// Middles of bins of equally many values, the one nearest to zero replaced by it.
pub fn quantiles(bits: u32, values: &[f64]) -> Vec<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = |share: f64| {
        let rank = share * (sorted.len() - 1) as f64;
        let low = sorted[rank.floor() as usize];
        low + rank.fract() * (sorted[rank.ceil() as usize] - low)
    };
    let bins = 1 << bits;
    let middle = |i: i32| (at(f64::from(i) / f64::from(bins)) + at(f64::from(i + 1) / f64::from(bins))) / 2.0;
    let mut codebook: Vec<f64> = (0..bins).map(middle).collect();
    let nearest = nearest(&codebook, 0.0);
    codebook[nearest] = 0.0;
    normalised(codebook)
}

/// Ascending, the greatest magnitude 1.
pub fn normalised(mut codebook: Vec<f64>) -> Vec<f64> {
    codebook.sort_by(f64::total_cmp);
    let greatest = codebook.iter().fold(0.0f64, |m, v| m.max(v.abs()));
    codebook.iter().map(|v| v / greatest).collect()
}

/// Place of the nearest number.
pub fn nearest(codebook: &[f64], value: f64) -> usize {
    let distance = |i: &usize| (codebook[*i] - value).abs();
    (0..codebook.len()).min_by(|a, b| distance(a).total_cmp(&distance(b))).unwrap()
}

/// A group rounded to the nearest numbers of a codebook: scale and offset as they are
/// stored, and the values.
pub fn round(codebook: &[f64], centred: bool, values: &[f64]) -> (f64, f64, Vec<f64>) {
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    let offset = if centred { f16::from_f64(mean).to_f64() } else { 0.0 };
    let greatest = |values: &mut dyn Iterator<Item = f64>| values.fold(0.0, |m: f64, v| m.max(v.abs()));
    let farthest = greatest(&mut values.iter().map(|v| v - offset));
    let scale = if farthest == 0.0 { 1.0 } else { f16::from_f64(farthest / greatest(&mut codebook.iter().copied())).to_f64() };
    // The least there is, where it would be nothing.
    let scale = scale.max(f16::from_bits(1).to_f64());
    let rounded = values.iter().map(|v| scale * codebook[nearest(codebook, (v - offset) / scale)] + offset).collect();
    (scale, offset, rounded)
}
