//! Softmax attention over whole sequences.

use super::{Input, Listener, each, linear, norm_forward, norm_opt};
use crate::compress::tensors::Parameters;
use crate::model::spec::{Attention, QkSpan, Rotary};
use crate::model::{inputs, roles};
use std::ops::ControlFlow;
use tch::{Kind, Tensor};

/// x `[batch, tokens, hidden]` → `[batch, tokens, hidden]`
pub fn forward(spec: &Attention, weights: &Parameters, x: Vec<Tensor>, hear: &mut Listener) -> ControlFlow<(), Vec<Tensor>> {
    hear(inputs::ATTENTION, &x)?;
    let mut contexts = Vec::with_capacity(x.len());
    for x in x {
        contexts.push(context(spec, weights, &x, hear)?);
    }
    hear(inputs::CONTEXT, &contexts)?;
    ControlFlow::Continue(each(contexts, |context| linear(weights, "attn.o", &Input::new(&context))))
}

/// x `[batch, tokens, hidden]` → `[batch, tokens, heads · head_dim]`
fn context(spec: &Attention, weights: &Parameters, x: &Tensor, hear: &mut Listener) -> ControlFlow<(), Tensor> {
    // All of them are named, so that one that is added cannot be forgotten here; biases
    // are found where they are, and `attend` sees to the scores.
    let Attention {
        n_heads,
        n_kv_heads,
        head_dim,
        rotary,
        qkv_clip,
        qk_norm,
        query_growth,
        context_norm,
        qkv_bias: _,
        output_bias: _,
        scale: _,
        alibi: _,
        window: _,
        softcap: _,
    } = spec;
    let (batch, tokens, _) = x.size3().expect("[batch, tokens, hidden]");
    let input = Input::new(x);
    let project = |role: &str| {
        let y = linear(weights, role, &input);
        qkv_clip.map_or_else(|| y.shallow_clone(), |clip| y.clamp(-f64::from(clip), f64::from(clip)))
    };
    // [batch, heads, tokens, head_dim]
    let heads = |y: Tensor, n: usize| y.view([batch, tokens, n as i64, *head_dim as i64]).transpose(1, 2);
    let normed = |role: &str, norm_role: &str, n: usize| {
        let y = project(role);
        match qk_norm {
            None => heads(y, n),
            Some(norm) if norm.span == QkSpan::All => heads(norm_forward(&norm.norm, weights, norm_role, &y), n),
            // [batch, tokens, heads, head_dim]
            Some(norm) => norm_forward(&norm.norm, weights, norm_role, &heads(y, n).transpose(1, 2)).transpose(1, 2),
        }
    };
    let (mut q, mut k) = (normed("attn.q", roles::Q_NORM, *n_heads), normed("attn.k", roles::K_NORM, *n_kv_heads));
    let v = heads(project("attn.v"), *n_kv_heads);
    if let Some(rotary) = rotary {
        let (cos, sin) = rotary_tables(rotary, *head_dim, tokens, x);
        [q, k] = [q, k].map(|x| rotate(&x, &cos, &sin, rotary.neighbours));
    }
    if let Some(growth) = query_growth {
        let factors: Vec<f32> = (0..tokens as usize).map(|position| growth.at(position)).collect();
        q *= Tensor::from_slice(&factors).view([-1, 1]).to_kind(x.kind()).to_device(x.device());
    }
    for (name, heard) in [(inputs::QUERIES, &q), (inputs::KEYS, &k), (inputs::VALUES, &v)] {
        hear(name, std::slice::from_ref(heard))?;
    }
    let context = attend(spec, &q, &k, &v);
    let context = context.transpose(1, 2).reshape([batch, tokens, spec.q_width() as i64]);
    ControlFlow::Continue(norm_opt(context_norm, weights, roles::CONTEXT_NORM, &context))
}

/// Contexts `[batch, heads, tokens, head_dim]`.
fn attend(spec: &Attention, q: &Tensor, k: &Tensor, v: &Tensor) -> Tensor {
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
    scores + score_bias(spec, q).unwrap_or_else(|| masked(seen(q.size()[2], None, q), q))
}

/// Keys or values, each as often as queries share it.
fn repeated(spec: &Attention, x: &Tensor) -> Tensor {
    x.repeat_interleave_self_int((spec.n_heads / spec.n_kv_heads) as i64, 1, None)
}

/// What is added to scores `[…, tokens, tokens]`; `None` where that is no more than
/// the causal mask.
fn score_bias(spec: &Attention, like: &Tensor) -> Option<Tensor> {
    if spec.window.is_none() && spec.alibi.is_empty() {
        return None;
    }
    let tokens = like.size()[2];
    let mask = masked(seen(tokens, spec.window, like), like);
    if spec.alibi.is_empty() {
        return Some(mask);
    }
    let places = Tensor::arange(tokens, (Kind::Float, like.device()));
    let distances = places.unsqueeze(0) - places.unsqueeze(1);
    let slopes = Tensor::from_slice(&spec.alibi).view([-1, 1, 1]).to_device(like.device());
    Some((slopes * distances).to_kind(like.kind()) + mask)
}

/// True where key j is seen by query i: i − window < j ≤ i.
fn seen(tokens: i64, window: Option<usize>, like: &Tensor) -> Tensor {
    let all = Tensor::ones([tokens, tokens], (Kind::Bool, like.device()));
    let window = window.and_then(|w| i64::try_from(w).ok()).unwrap_or(tokens).min(tokens);
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

/// Turns the leading pairs of each head, as many as the tables have.
fn rotate(x: &Tensor, cos: &Tensor, sin: &Tensor, neighbours: bool) -> Tensor {
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
