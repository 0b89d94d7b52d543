//! One query head over a cache: scores, softmax, weighted sum.

use super::lanes::{load, store, sum, transpose};
use std::arch::x86_64::*;

/// Rows that are scored together: their sums leave one register.
const ROWS: usize = 8;

/// `out[p] = scale · Σ query · rows[p]`.
#[target_feature(enable = "avx2,fma")]
pub fn scores(query: &[f32], rows: &[f32], stride: usize, scale: f32, out: &mut [f32]) {
    let (query8, query_rest) = query.as_chunks::<8>();
    let (eights, rest) = out.as_chunks_mut::<ROWS>();
    let done = eights.len() * ROWS;
    for (i, out) in eights.iter_mut().enumerate() {
        let row = |r: usize| &rows[(i * ROWS + r) * stride..][..query.len()];
        let mut sums = [_mm256_setzero_ps(); ROWS];
        for (r, sum) in sums.iter_mut().enumerate() {
            for (q, k) in query8.iter().zip(row(r).as_chunks::<8>().0) {
                *sum = _mm256_fmadd_ps(load(q), load(k), *sum);
            }
        }
        // The lanes of each row, side by side.
        let [a, b, c, d, e, f, g, h] = transpose(sums);
        let halves = [_mm256_add_ps(a, b), _mm256_add_ps(c, d), _mm256_add_ps(e, f), _mm256_add_ps(g, h)];
        let total = _mm256_add_ps(_mm256_add_ps(halves[0], halves[1]), _mm256_add_ps(halves[2], halves[3]));
        store(out, total);
        for (r, out) in out.iter_mut().enumerate() {
            *out = scale * (*out + tail(query_rest, &row(r)[query8.len() * 8..]));
        }
    }
    for (p, out) in rest.iter_mut().enumerate() {
        let row = &rows[(done + p) * stride..][..query.len()];
        let mut lanes = _mm256_setzero_ps();
        for (q, k) in query8.iter().zip(row.as_chunks::<8>().0) {
            lanes = _mm256_fmadd_ps(load(q), load(k), lanes);
        }
        *out = scale * (sum(lanes) + tail(query_rest, &row[query8.len() * 8..]));
    }
}

/// The last few products.
#[inline]
#[target_feature(enable = "fma")]
fn tail(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).fold(0.0, |sum, (a, b)| a.mul_add(*b, sum))
}

/// Scores to weights, in place.
#[target_feature(enable = "avx2,fma")]
pub fn softmax(scores: &mut [f32]) {
    let greatest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut total = _mm256_setzero_ps();
    let (eights, rest) = scores.as_chunks_mut::<8>();
    for scores in eights {
        let weights = exp(_mm256_sub_ps(load(scores), _mm256_set1_ps(greatest)));
        total = _mm256_add_ps(total, weights);
        store(scores, weights);
    }
    let mut total = sum(total);
    for score in rest.iter_mut() {
        *score = (*score - greatest).exp();
        total += *score;
    }
    let inverse = total.recip();
    scores.iter_mut().for_each(|s| *s *= inverse);
}

/// e^x for x ≤ 0, to about two units in the last place; 0 below −87.3, where f32
/// would be subnormal. 2^n · e^r with r = x − n ln 2 in ±ln 2 / 2 and the
/// polynomial of Cephes' `expf`.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn exp(x: __m256) -> __m256 {
    let set = |v: f32| _mm256_set1_ps(v);
    let n = _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(_mm256_mul_ps(x, set(std::f32::consts::LOG2_E)));
    // ln 2 in two parts, the first exact in few bits.
    let r = _mm256_fnmadd_ps(n, set(0.693_359_4), x);
    let r = _mm256_fnmadd_ps(n, set(-2.121_944_4e-4), r);
    let mut p = set(1.987_569_1e-4);
    for coefficient in [1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
        p = _mm256_fmadd_ps(p, r, set(coefficient));
    }
    let e = _mm256_add_ps(_mm256_fmadd_ps(p, _mm256_mul_ps(r, r), r), set(1.0));
    let power = _mm256_slli_epi32::<23>(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)));
    let scaled = _mm256_mul_ps(e, _mm256_castsi256_ps(power));
    // "Not less" holds for NaN too, which must stay NaN.
    _mm256_and_ps(scaled, _mm256_cmp_ps::<_CMP_NLT_UQ>(x, set(-87.3)))
}

/// `out += Σ_p weights[p] · rows[p]`.
#[target_feature(enable = "avx2,fma")]
pub fn weighted_sum(weights: &[f32], rows: &[f32], stride: usize, out: &mut [f32]) {
    let (eights, rest) = out.as_chunks_mut::<8>();
    let columns = eights.len() * 8;
    for (i, out) in eights.iter_mut().enumerate() {
        // Two sums hide the latency of the products.
        let mut sums = [load(out), _mm256_setzero_ps()];
        for (p, &weight) in weights.iter().enumerate() {
            let row = rows[p * stride + 8 * i..].first_chunk().expect("a whole row");
            sums[p % 2] = _mm256_fmadd_ps(_mm256_set1_ps(weight), load(row), sums[p % 2]);
        }
        store(out, _mm256_add_ps(sums[0], sums[1]));
    }
    for (i, out) in rest.iter_mut().enumerate() {
        *out = weights.iter().enumerate().fold(*out, |sum, (p, w)| w.mul_add(rows[p * stride + columns + i], sum));
    }
}
