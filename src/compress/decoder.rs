//! The differentiable interpreter of a spec: one block at a time, so that
//! weights can be streamed, with an ear at the input of each group of linear
//! layers.

use super::tensors::{Compute, Parameters};
use crate::model::spec::{Activation, Attention, Block, Mixer, Norm, NormKind, Rotary};
use crate::model::{ModelSpec, inputs};
use crate::quant::Weight;
use rayon::prelude::*;
use tch::{Kind, Tensor};

/// Hears the input of each [`crate::model::InputGroup`], `[batch, tokens, in]`.
pub type Listener<'a> = dyn FnMut(&'static str, &Tensor) + 'a;

/// One block over hidden states `[batch, tokens, hidden]` that start at position 0.
pub fn block_forward(spec: &Block, weights: &Parameters, x: &Tensor, hear: &mut Listener) -> Tensor {
    let Mixer::Attention(attention) = &spec.mixer;
    let normed = norm_forward(&spec.mixer_norm, weights.get("attn_norm"), x);
    let x = x + attention_forward(attention, weights, &normed, hear);
    let normed = norm_forward(&spec.ffn_norm, weights.get("ffn_norm"), &x);
    hear(inputs::FFN, &normed);
    let gate = linear(weights, "ffn.gate", &normed);
    let gate = match spec.ffn.activation {
        Activation::Silu => gate.silu(),
    };
    let hidden = gate * linear(weights, "ffn.up", &normed);
    hear(inputs::FFN_HIDDEN, &hidden);
    x + linear(weights, "ffn.down", &hidden)
}

/// Normalisation over the last dimension.
fn norm_forward(spec: &Norm, weight: &Tensor, x: &Tensor) -> Tensor {
    match spec.kind {
        NormKind::Rms => x.rms_norm(weight.size(), Some(weight), spec.epsilon),
    }
}

fn attention_forward(spec: &Attention, weights: &Parameters, x: &Tensor, hear: &mut Listener) -> Tensor {
    let (batch, tokens, _) = x.size3().expect("[batch, tokens, hidden]");
    hear(inputs::ATTENTION, x);
    // [batch, heads, tokens, head_dim]
    let heads = |role: &str, n: usize| linear(weights, role, x).view([batch, tokens, n as i64, spec.head_dim as i64]).transpose(1, 2);
    let (cos, sin) = rotary_tables(&spec.rotary, spec.head_dim, tokens, x);
    let q = rotate(&heads("attn.q", spec.n_heads), &cos, &sin);
    let k = rotate(&heads("attn.k", spec.n_kv_heads), &cos, &sin);
    let v = heads("attn.v", spec.n_kv_heads);
    let mask = spec.window.map(|window| window_mask(tokens, window, x));
    let context = Tensor::scaled_dot_product_attention(
        &q,
        &k,
        &v,
        mask.as_ref(),
        0.0,
        mask.is_none(),
        f64::from(spec.scale),
        spec.n_heads != spec.n_kv_heads,
    );
    let context = context.transpose(1, 2).reshape([batch, tokens, (spec.n_heads * spec.head_dim) as i64]);
    hear(inputs::CONTEXT, &context);
    linear(weights, "attn.o", &context)
}

/// x Wᵀ + b
fn linear(weights: &Parameters, role: &str, x: &Tensor) -> Tensor {
    x.linear(weights.get(role), weights.find(&format!("{role}.bias")))
}

/// cos and sin, each `[tokens, head_dim]`: the angles of the pairs twice over.
fn rotary_tables(rotary: &Rotary, head_dim: usize, tokens: i64, like: &Tensor) -> (Tensor, Tensor) {
    let frequencies = Tensor::from_slice(&rotary.frequencies(head_dim));
    let angles = Tensor::arange(tokens, (Kind::Double, tch::Device::Cpu)).outer(&frequencies);
    let angles = Tensor::cat(&[&angles, &angles], 1);
    let table = |t: Tensor| t.to_kind(like.kind()).to_device(like.device());
    (table(angles.cos()), table(angles.sin()))
}

fn rotate(x: &Tensor, cos: &Tensor, sin: &Tensor) -> Tensor {
    let halves = x.chunk(2, -1);
    let turned = Tensor::cat(&[&halves[1].neg(), &halves[0]], -1);
    x * cos + turned * sin
}

/// True where key j is seen by query i: i − window < j ≤ i.
fn window_mask(tokens: i64, window: usize, like: &Tensor) -> Tensor {
    let all = Tensor::ones([tokens, tokens], (Kind::Bool, like.device()));
    let window = i64::try_from(window).unwrap_or(i64::MAX).min(tokens);
    all.tril(0).logical_and(&all.triu(1 - window))
}

/// Hidden states `[batch, tokens, hidden]` of sequences of one length. Only the
/// rows that are looked up are read.
pub fn embed(embeddings: &Weight, sequences: &[&[u32]], compute: Compute) -> Tensor {
    let hidden_size = embeddings.shape()[1];
    let ids: Vec<u32> = sequences.concat();
    let mut rows = vec![0f32; ids.len() * hidden_size];
    rows.par_chunks_exact_mut(hidden_size).zip(&ids).for_each(|(row, &id)| embeddings.row(id as usize, row));
    Tensor::from_slice(&rows).view([sequences.len() as i64, -1, hidden_size as i64]).to_kind(compute.kind).to_device(compute.device)
}

/// Logits `[…, vocab]` of hidden states behind the last block `[…, hidden]`.
pub fn head_forward(spec: &ModelSpec, norm: &Tensor, head: &Tensor, x: &Tensor) -> Tensor {
    norm_forward(&spec.final_norm, norm, x).matmul(&head.tr())
}
