//! Causal attention over a cache, one query head at a time.

use super::cache::{KeysValues, Stretch};
use super::linear::{Device, LinearLayer, apply_group};
use super::norm::{NormLayer, norm_in_place};
use crate::error::Result;
use crate::kernels::Kernels;
use crate::model::spec::{Attention, QkSpan};
use crate::model::{ModelSpec, roles};
use crate::quant::WeightStore;

/// (cos, sin) of each pair of dimensions at each position, `[positions, pairs]`.
pub(super) type Angles = Vec<(f32, f32)>;

/// The parameters of one block's attention.
pub(super) struct AttentionLayers {
    spec: Attention,
    q: LinearLayer,
    k: LinearLayer,
    v: LinearLayer,
    o: LinearLayer,
    q_norm: Option<NormLayer>,
    k_norm: Option<NormLayer>,
    context_norm: Option<NormLayer>,
    /// Which of the decoder's tables of angles.
    pub rotary: Option<usize>,
}

impl AttentionLayers {
    pub fn load(store: &dyn WeightStore, block: usize, spec: &Attention, rotary: Option<usize>) -> Result<Self> {
        // All of them are named, so that one that is added cannot be forgotten here; what is
        // not loaded is for `mix` and `attend_head`.
        let Attention {
            qkv_bias,
            output_bias,
            qk_norm,
            context_norm,
            head_dim,
            n_heads: _,
            n_kv_heads: _,
            scale: _,
            rotary: _,
            alibi: _,
            window: _,
            qkv_clip: _,
            query_growth: _,
            softcap: _,
        } = spec;
        let name = |role: &str| ModelSpec::block_name(store.spec(), block, role);
        let linear = |role: &str, bias: bool| LinearLayer::load(store, &name(role), bias);
        let load_qk_norm = |role: &str, width: usize| {
            let load = |n: &crate::model::spec::QkNorm| {
                NormLayer::load(store, &name(role), &n.norm, if n.span == QkSpan::All { width } else { *head_dim })
            };
            qk_norm.as_ref().map(load).transpose()
        };
        Ok(Self {
            spec: spec.clone(),
            q: linear("attn.q", *qkv_bias)?,
            k: linear("attn.k", *qkv_bias)?,
            v: linear("attn.v", *qkv_bias)?,
            o: linear("attn.o", *output_bias)?,
            q_norm: load_qk_norm(roles::Q_NORM, spec.q_width())?,
            k_norm: load_qk_norm(roles::K_NORM, spec.kv_width())?,
            context_norm: NormLayer::load_opt(store, &name(roles::CONTEXT_NORM), context_norm, spec.q_width())?,
            rotary,
        })
    }

    /// x `[tokens, hidden]` → `[tokens, hidden]`
    pub fn mix(&self, x: &[f32], angles: Option<&Angles>, stretches: &mut [Stretch], device: &Device) -> Vec<f32> {
        let spec = &self.spec;
        let (q_width, kv_width) = (spec.q_width(), spec.kv_width());
        let [mut q, mut k, mut v] = apply_group([&self.q, &self.k, &self.v], x, device);
        if let Some(clip) = spec.qkv_clip {
            [&mut q, &mut k, &mut v].into_iter().flatten().for_each(|x| *x = x.clamp(-clip, clip));
        }
        norm_in_place(&self.q_norm, &mut q, device.kernels);
        norm_in_place(&self.k_norm, &mut k, device.kernels);
        if let (Some(rotary), Some(angles)) = (&spec.rotary, angles) {
            for (token, angles) in angles.chunks_exact(rotary.dims(spec.head_dim) / 2).enumerate() {
                for x in [&mut q[token * q_width..(token + 1) * q_width], &mut k[token * kv_width..(token + 1) * kv_width]] {
                    x.chunks_exact_mut(spec.head_dim).for_each(|head| rotate(head, rotary.neighbours, angles));
                }
            }
        }
        let mut contexts = Vec::with_capacity(q.len());
        let mut first = 0;
        for Stretch { position, tokens, state } in stretches {
            let (position, tokens) = (*position, first..first + *tokens);
            let queries = &mut q[tokens.start * q_width..tokens.end * q_width];
            if let Some(growth) = &spec.query_growth {
                for (i, query) in queries.chunks_exact_mut(q_width).enumerate() {
                    let factor = growth.at(position + i);
                    query.iter_mut().for_each(|q| *q *= factor);
                }
            }
            let seen = state.keys_values();
            seen.keys.extend_from_slice(&k[tokens.start * kv_width..tokens.end * kv_width]);
            seen.values.extend_from_slice(&v[tokens.start * kv_width..tokens.end * kv_width]);
            contexts.extend(attend(spec, queries, position, seen, device));
            first = tokens.end;
        }
        norm_in_place(&self.context_norm, &mut contexts, device.kernels);
        self.o.apply(&contexts, device)
    }
}

/// Turns the leading pairs of dimensions of a head, each by its (cos, sin).
fn rotate(head: &mut [f32], neighbours: bool, angles: &[(f32, f32)]) {
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
fn attend(spec: &Attention, queries: &[f32], position: usize, seen: &KeysValues, device: &Device) -> Vec<f32> {
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
    let from = spec.window.map_or(0, |window| (position + 1).saturating_sub(window));
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
