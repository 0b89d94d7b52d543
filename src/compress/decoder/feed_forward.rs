//! What works on each token alone.

use super::{Input, Listener, each, linear, norm_opt, pairwise, project};
use crate::compress::tensors::Parameters;
use crate::model::spec::{Activation, FeedForward, Gate};
use crate::model::{inputs, roles};
use std::ops::ControlFlow;
use tch::Tensor;

/// x `[batch, tokens, hidden]` → `[batch, tokens, hidden]`
pub fn forward(spec: &FeedForward, weights: &Parameters, x: Vec<Tensor>, hear: &mut Listener) -> ControlFlow<(), Vec<Tensor>> {
    // All of them are named, so that one that is added cannot be forgotten here.
    let FeedForward { width: _, gate: _, activation: _, bias: _, hidden_norm: _, weights_of: _ } = spec;
    if spec.gate != Gate::Receptance {
        hear(inputs::FFN, &x)?;
        let first = if spec.gate == Gate::Hidden { "ffn.gate" } else { "ffn.up" };
        let inner = each(x, |x| {
            let input = Input::new(&x);
            let inner = activate(spec.activation, &linear(weights, first, &input));
            let inner = if spec.gate == Gate::Hidden { inner * linear(weights, "ffn.up", &input) } else { inner };
            norm_opt(&spec.hidden_norm, weights, roles::HIDDEN_NORM, &inner)
        });
        return down(weights, inner, hear);
    }
    let [up, receptance] = roles::FFN_MIX;
    let (up, receptance) = (project(weights, up, &x, hear)?, project(weights, receptance, &x, hear)?);
    let inner = each(up, |up| norm_opt(&spec.hidden_norm, weights, roles::HIDDEN_NORM, &activate(spec.activation, &up)));
    let fed = down(weights, inner, hear)?;
    ControlFlow::Continue(pairwise(fed, receptance, |fed, receptance| fed * receptance.sigmoid()))
}

fn down(weights: &Parameters, inner: Vec<Tensor>, hear: &mut Listener) -> ControlFlow<(), Vec<Tensor>> {
    hear(inputs::FFN_HIDDEN, &inner)?;
    ControlFlow::Continue(each(inner, |inner| linear(weights, "ffn.down", &Input::new(&inner))))
}

fn activate(activation: Activation, x: &Tensor) -> Tensor {
    match activation {
        Activation::Silu => x.silu(),
        Activation::Gelu => x.gelu("none"),
        Activation::GeluTanh => x.gelu("tanh"),
        Activation::Relu => x.relu(),
        Activation::ReluSquared => x.relu().square(),
    }
}
