//! The differentiable interpreter of a spec: one block at a time, so that
//! weights can be streamed, with an ear at the input of each group of linear
//! layers.

mod attention;
mod edges;
mod feed_forward;
mod wkv;

pub use attention::scores as attention_scores;
pub use edges::{Entrance, Exit};

use super::straight_through::{int8, straight};
use super::tensors::Parameters;
use crate::model::roles;
use crate::model::spec::{Block, Mixer, Norm, NormKind, NormWeight, Residual};
use std::cell::OnceCell;
use std::ops::ControlFlow;
use tch::Tensor;

/// Hears what has a name in [`crate::model::inputs`]: the input of each
/// [`crate::model::InputGroup`], `[batch, tokens, in]`, of all that are computed abreast;
/// queries, keys and values, of each by itself. It says whether to go on. Weights that read an
/// input are looked up after it was heard: a listener may have replaced them.
pub type Listener<'a> = dyn FnMut(&'static str, &[Tensor]) -> ControlFlow<()> + 'a;

/// One block over hidden states `[batch, tokens, hidden]` that start at position 0.
pub fn block_forward(spec: &Block, weights: &Parameters, x: &Tensor, hear: &mut dyn FnMut(&'static str, &Tensor)) -> Tensor {
    let heard = block_until(spec, weights, vec![x.shallow_clone()], &mut |input, x| {
        hear(input, &x[0]);
        ControlFlow::Continue(())
    });
    heard.continue_value().expect("nothing stops it").remove(0)
}

/// The same of several batches abreast, as far as the listener wants it. What is no longer
/// needed of a batch is let go as soon as that is so.
pub fn block_until(spec: &Block, weights: &Parameters, x: Vec<Tensor>, hear: &mut Listener) -> ControlFlow<(), Vec<Tensor>> {
    // All of them are named, so that one that is added cannot be forgotten here.
    let Block {
        mixer_norm,
        mixer,
        mixer_output_norm,
        mixer_sum_norm,
        residual,
        ffn_norm,
        ffn,
        ffn_output_norm,
        ffn_sum_norm,
        weights_of: _,
    } = spec;
    let norm = |norm: &Option<Norm>, role: &str, x: &Tensor| norm_opt(norm, weights, role, x);
    let mixer_input: Vec<Tensor> = x.iter().map(|x| norm(mixer_norm, roles::MIXER_NORM, x)).collect();
    let before_mixing: Option<Vec<Tensor>> = match residual {
        Residual::Sequential => None,
        Residual::Parallel => Some(x.iter().map(|x| norm(ffn_norm, roles::FFN_NORM, x)).collect()),
        Residual::ParallelOneNorm => Some(mixer_input.iter().map(Tensor::shallow_clone).collect()),
    };
    let mixed = match mixer {
        Mixer::Attention(attention) => attention::forward(attention, weights, mixer_input, hear)?,
        Mixer::Wkv(wkv) => wkv::forward(wkv, weights, mixer_input, hear)?,
    };
    let sum = pairwise(x, mixed, |x, mixed| {
        let sum = x + norm(mixer_output_norm, roles::MIXER_OUTPUT_NORM, &mixed);
        norm(mixer_sum_norm, roles::MIXER_SUM_NORM, &sum)
    });
    let ffn_input = before_mixing.unwrap_or_else(|| sum.iter().map(|sum| norm(ffn_norm, roles::FFN_NORM, sum)).collect());
    let fed = feed_forward::forward(ffn, weights, ffn_input, hear)?;
    ControlFlow::Continue(pairwise(sum, fed, |sum, fed| {
        let sum = sum + norm(ffn_output_norm, roles::FFN_OUTPUT_NORM, &fed);
        norm(ffn_sum_norm, roles::FFN_SUM_NORM, &sum)
    }))
}

/// Each by itself; what goes in is let go one by one.
fn each(x: Vec<Tensor>, f: impl FnMut(Tensor) -> Tensor) -> Vec<Tensor> {
    x.into_iter().map(f).collect()
}

/// The same of two at a time.
fn pairwise(a: Vec<Tensor>, b: Vec<Tensor>, mut f: impl FnMut(Tensor, Tensor) -> Tensor) -> Vec<Tensor> {
    a.into_iter().zip(b).map(|(a, b)| f(a, b)).collect()
}

/// `x` behind a norm that may not be there.
fn norm_opt(norm: &Option<Norm>, weights: &Parameters, role: &str, x: &Tensor) -> Tensor {
    let Some(norm) = norm else { return x.shallow_clone() };
    let normed = norm_forward(norm, weights, role, x);
    let blend = weights.blend();
    if blend.lambda < 1.0 && blend.norms.contains(role) { x.lerp(&normed, blend.lambda) } else { normed }
}

/// Normalisation over the last dimension; weights may have more (one row a head).
fn norm_forward(spec: &Norm, weights: &Parameters, role: &str, x: &Tensor) -> Tensor {
    let span = &x.size()[x.dim() - 1..];
    let plus_one = (spec.weight == NormWeight::OnePlus).then(|| &*weights.get(role) + 1.0);
    let plain = (spec.weight == NormWeight::Plain).then(|| weights.get(role));
    let weight = plus_one.as_ref().or(plain.as_deref());
    let bias = spec.bias.then(|| weights.get(&format!("{role}.bias")));
    let bias = bias.as_deref();
    // What libtorch does in one go, where it can.
    let fused = weight.filter(|w| w.dim() == 1);
    let one_go = fused.is_some() || weight.is_none();
    let normed = match spec.kind {
        NormKind::Rms => x.rms_norm(span, fused, spec.epsilon),
        NormKind::Layer => x.layer_norm(span, fused, bias.filter(|_| one_go), spec.epsilon, false),
    };
    let weighted = if one_go { normed } else { normed * weight.expect("there is one where it is not fused") };
    match bias {
        Some(bias) if !(one_go && spec.kind == NormKind::Layer) => weighted + bias,
        _ => weighted,
    }
}

/// What linear layers read, rounded once for all of them that want it so.
struct Input<'a> {
    x: &'a Tensor,
    rounded: OnceCell<Tensor>,
}

impl<'a> Input<'a> {
    fn new(x: &'a Tensor) -> Self {
        Self { x, rounded: OnceCell::new() }
    }

    fn of(&self, weights: &Parameters, role: &str) -> &Tensor {
        let blend = weights.blend();
        if !blend.inputs.contains(role) {
            return self.x;
        }
        self.rounded.get_or_init(|| straight(self.x, int8(self.x), blend.lambda))
    }
}

/// x Wᵀ + b
fn linear(weights: &Parameters, role: &str, input: &Input) -> Tensor {
    input.of(weights, role).linear(&weights.get(role), weights.find(&format!("{role}.bias")).as_deref())
}

/// A linear layer of each token mixed with the one before it (RWKV): its role, and that of the
/// mix, which its input is called by.
fn project(weights: &Parameters, (role, mix): (&str, &'static str), x: &[Tensor], hear: &mut Listener) -> ControlFlow<(), Vec<Tensor>> {
    let mixed: Vec<Tensor> = x.iter().map(|x| mixed(weights, mix, x, &token_before(x))).collect();
    hear(mix, &mixed)?;
    ControlFlow::Continue(each(mixed, |x| linear(weights, role, &Input::new(&x))))
}

/// The token before each one of `x` `[batch, tokens, hidden]`, zeros before the first.
fn token_before(x: &Tensor) -> Tensor {
    x.narrow(1, 0, x.size()[1] - 1).constant_pad_nd([0, 0, 1, 0])
}

/// x · mix + before · (1 − mix)
fn mixed(weights: &Parameters, mix: &str, x: &Tensor, before: &Tensor) -> Tensor {
    before.lerp_tensor(x, &weights.get(mix))
}
