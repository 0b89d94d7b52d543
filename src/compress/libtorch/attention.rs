//! Softmax attention over whole sequences.

use crate::spec::{Attention, Mask, Rotary};
use tch::{Kind, Tensor};

/// Queries, keys and values `[batch, heads, tokens, head_dim]` → `[batch, tokens, heads · head_dim]`
pub(super) fn attend(spec: &Attention, q: &Tensor, k: &Tensor, v: &Tensor) -> Tensor {
    let (batch, _, tokens, _) = q.size4().expect("[batch, heads, tokens, head_dim]");
    contexts(spec, q, k, v).transpose(1, 2).reshape([batch, tokens, spec.q_width() as i64])
}

/// Contexts `[batch, heads, tokens, head_dim]`.
fn contexts(spec: &Attention, q: &Tensor, k: &Tensor, v: &Tensor) -> Tensor {
    let grouped = spec.n_heads != spec.n_kv_heads;
    let bias = score_bias(spec, q);
    if spec.softcap.is_none() {
        let causal = bias.is_none();
        return Tensor::scaled_dot_product_attention(q, k, v, bias, 0.0, causal, f64::from(spec.scale), grouped);
    }
    // libtorch's own has no softcap.
    scores(spec, q, k).softmax(-1, None).matmul(&repeated(spec, v))
}

/// Scores before the softmax, −∞ where a key is not seen: queries and keys `[batch, heads,
/// tokens, head_dim]` → `[batch, heads, tokens, tokens]`.
pub fn scores(spec: &Attention, q: &Tensor, k: &Tensor) -> Tensor {
    let scores = q.matmul(&repeated(spec, k).transpose(-2, -1)) * f64::from(spec.scale);
    let scores = match spec.softcap.map(f64::from) {
        Some(cap) => (scores / cap).tanh() * cap,
        None => scores,
    };
    scores + score_bias(spec, q).unwrap_or_else(|| masked(seen(q.size()[2], Mask::Causal, q), q))
}

/// Keys or values, each as often as queries share it.
fn repeated(spec: &Attention, x: &Tensor) -> Tensor {
    x.repeat_interleave_self_int((spec.n_heads / spec.n_kv_heads) as i64, 1, None)
}

/// Bias of scores `[…, tokens, tokens]`: ALiBi and mask; `None` where that is no more than
/// the causal mask.
fn score_bias(spec: &Attention, like: &Tensor) -> Option<Tensor> {
    if spec.mask == Mask::Causal && spec.alibi.is_empty() {
        return None;
    }
    let tokens = like.size()[2];
    let mask = masked(seen(tokens, spec.mask, like), like);
    if spec.alibi.is_empty() {
        return Some(mask);
    }
    let places = Tensor::arange(tokens, (Kind::Float, like.device()));
    let distances = places.unsqueeze(0) - places.unsqueeze(1);
    let slopes = Tensor::from_slice(&spec.alibi).view([-1, 1, 1]).to_device(like.device());
    Some((slopes * distances).to_kind(like.kind()) + mask)
}

/// True where key j is seen by query i, `[tokens, tokens]`.
fn seen(tokens: i64, mask: Mask, like: &Tensor) -> Tensor {
    let all = Tensor::ones([tokens, tokens], (Kind::Bool, like.device()));
    let window = match mask {
        Mask::Causal => tokens,
        Mask::Window(width) => i64::try_from(width).unwrap_or(tokens).min(tokens),
    };
    all.tril(0).logical_and(&all.triu(1 - window))
}

/// 0 where seen, −∞ where not.
fn masked(seen: Tensor, like: &Tensor) -> Tensor {
    Tensor::zeros(seen.size(), (like.kind(), like.device())).masked_fill(&seen.logical_not(), f64::NEG_INFINITY)
}

/// cos and sin, each `[tokens, pairs]`.
fn rotary_tables(rotary: &Rotary, head_dim: usize, tokens: i64, like: &Tensor) -> (Tensor, Tensor) {
    let angles = rotary.angles(head_dim, 0..tokens as usize, tokens as usize);
    let (cos, sin): (Vec<f64>, Vec<f64>) = angles.into_iter().unzip();
    let table = |pairs: Vec<f64>| Tensor::from_slice(&pairs).view([tokens, -1]).to_kind(like.kind()).to_device(like.device());
    (table(cos), table(sin))
}

/// Turns the leading pairs of each head `[batch, heads, tokens, head_dim]`, as many as the
/// embedding has, by its position.
pub(super) fn rotate(rotary: &Rotary, head_dim: usize, x: &Tensor) -> Tensor {
    let (cos, sin) = &rotary_tables(rotary, head_dim, x.size()[2], x);
    let neighbours = rotary.neighbours;
    let (dims, all) = (2 * cos.size()[1], x.size()[3]);
    let front = x.narrow(3, 0, dims);
    // [batch, heads, tokens, pairs] each
    let (a, b) = if neighbours {
        (front.slice(3, 0, dims, 2), front.slice(3, 1, dims, 2))
    } else {
        (front.narrow(3, 0, dims / 2), front.narrow(3, dims / 2, dims / 2))
    };
    let turned = [&a * cos - &b * sin, &b * cos + &a * sin];
    let front = if neighbours { Tensor::stack(&turned, -1).flatten(3, 4) } else { Tensor::cat(&turned, -1) };
    if dims == all { front } else { Tensor::cat(&[&front, &x.narrow(3, dims, all - dims)], -1) }
}
