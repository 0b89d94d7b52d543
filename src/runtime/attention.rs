//! Causal attention over a cache, one query head at a time.

use super::cache::BlockCache;
use super::linear::Device;
use crate::kernels::Kernels;
use crate::model::spec::Attention;

/// Turns each head of `x` (`[heads, head_dim]`) by its position's angles: the
/// pair (i, i + d/2) by `angles[i]` = (cos, sin).
pub(super) fn rotate(x: &mut [f32], head_dim: usize, angles: &[(f32, f32)]) {
    for head in x.chunks_exact_mut(head_dim) {
        let (first, second) = head.split_at_mut(head_dim / 2);
        for ((a, b), &(cos, sin)) in first.iter_mut().zip(second).zip(angles) {
            (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
        }
    }
}

/// Contexts of queries `[tokens, heads, head_dim]`, the first at `position`; their
/// own keys and values are in the cache already.
pub(super) fn attend(spec: &Attention, queries: &[f32], position: usize, cache: &BlockCache, device: &Device) -> Vec<f32> {
    let width = spec.n_heads * spec.head_dim;
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
            attend_head(spec, query, head, position + token, cache, out, device.kernels);
        }
    };
    if tokens == 1 && !by_head {
        work(0, &mut contexts);
    } else {
        device.pool.for_chunks(&mut contexts, chunk, work);
    }
    contexts
}

fn attend_head(spec: &Attention, query: &[f32], head: usize, position: usize, cache: &BlockCache, out: &mut [f32], kernels: &Kernels) {
    let from = spec.window.map_or(0, |window| (position + 1).saturating_sub(window));
    let offset = head / (spec.n_heads / spec.n_kv_heads) * spec.head_dim;
    let start = from * cache.width + offset;
    let mut weights = vec![0.0; position + 1 - from];
    (kernels.scores)(query, &cache.keys[start..], cache.width, spec.scale, &mut weights);
    (kernels.softmax)(&mut weights);
    (kernels.weighted_sum)(&weights, &cache.values[start..], cache.width, out);
}
