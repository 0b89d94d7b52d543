//! Causal attention over a cache, one query head at a time.

use super::cache::KeysValues;
use super::linear::Device;
use crate::kernels::Kernels;
use crate::spec::Attention;

/// (cos, sin) of each pair of dimensions at each position, `[positions, pairs]`.
pub(super) type Angles = Vec<(f32, f32)>;

/// Turns the leading pairs of dimensions of a head, each by its (cos, sin).
pub(super) fn rotate(head: &mut [f32], neighbours: bool, angles: &[(f32, f32)]) {
    let turn = |a: &mut f32, b: &mut f32, (cos, sin): (f32, f32)| (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
    let head = &mut head[..2 * angles.len()];
    if neighbours {
        for (pair, &angle) in head.as_chunks_mut::<2>().0.iter_mut().zip(angles) {
            let [a, b] = pair;
            turn(a, b, angle);
        }
    } else {
        let (first, second) = head.split_at_mut(angles.len());
        first.iter_mut().zip(second).zip(angles).for_each(|((a, b), &angle)| turn(a, b, angle));
    }
}

/// Contexts of queries `[tokens, heads, head_dim]`, the first at `position`; their
/// own keys and values are in the cache already.
pub(super) fn attend(spec: &Attention, queries: &[f32], position: usize, seen: &KeysValues, device: &Device) -> Vec<f32> {
    let width = spec.q_width();
    let tokens = queries.len() / width;
    let mut contexts = vec![0.0; queries.len()];
    // A task is a token, or a head where there is one token and much to see.
    let by_head = tokens == 1 && position * width > 1 << 16;
    let chunk = if by_head { spec.head_dim } else { width };
    let work = |task: usize, out: &mut [f32]| {
        let (token, first_head) = if by_head { (0, task) } else { (task, 0) };
        for (i, out) in out.chunks_exact_mut(spec.head_dim).enumerate() {
            let head = first_head + i;
            let query = &queries[token * width + head * spec.head_dim..][..spec.head_dim];
            attend_head(spec, query, head, position + token, seen, out, device.kernels);
        }
    };
    if tokens == 1 && !by_head {
        work(0, &mut contexts);
    } else {
        device.pool.for_chunks(&mut contexts, chunk, work);
    }
    contexts
}

fn attend_head(spec: &Attention, query: &[f32], head: usize, position: usize, seen: &KeysValues, out: &mut [f32], kernels: &Kernels) {
    let from = spec.mask.first_seen(position);
    let offset = head / (spec.n_heads / spec.n_kv_heads) * spec.head_dim;
    let start = from * seen.width + offset;
    let mut weights = vec![0.0; position + 1 - from];
    (kernels.scores)(query, &seen.keys[start..], seen.width, spec.scale, &mut weights);
    if let Some(cap) = spec.softcap {
        weights.iter_mut().for_each(|score| *score = cap * (*score / cap).tanh());
    }
    if let Some(slope) = spec.alibi.get(head) {
        // The last score is the token's own.
        weights.iter_mut().rev().enumerate().for_each(|(distance, score)| *score -= slope * distance as f32);
    }
    (kernels.softmax)(&mut weights);
    (kernels.weighted_sum)(&weights, &seen.values[start..], seen.width, out);
}
