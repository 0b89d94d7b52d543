//! What works on each token alone.

use super::{Input, Listener, linear, mixed, norm_opt, token_before};
use crate::compress::tensors::Parameters;
use crate::model::spec::{Activation, FeedForward, Gate};
use crate::model::{inputs, roles};
use std::ops::ControlFlow;
use tch::Tensor;

/// x `[batch, tokens, hidden]` → `[batch, tokens, hidden]`
pub fn forward(spec: &FeedForward, weights: &Parameters, x: &Tensor, hear: &mut Listener) -> ControlFlow<(), Tensor> {
    // All of them are named, so that one that is added cannot be forgotten here.
    let FeedForward { width: _, gate: _, activation: _, bias: _, hidden_norm: _, weights_of: _ } = spec;
    if spec.gate != Gate::Receptance {
        hear(inputs::FFN, x)?;
        let first = if spec.gate == Gate::Hidden { "ffn.gate" } else { "ffn.up" };
        let input = Input::new(x);
        let inner = activate(spec.activation, &linear(weights, first, &input));
        let inner = if spec.gate == Gate::Hidden { inner * linear(weights, "ffn.up", &input) } else { inner };
        return down(spec, weights, &inner, hear);
    }
    let before = token_before(x);
    let mut project = |(role, mix): (&str, &'static str)| {
        let x = mixed(weights, mix, x, &before);
        hear(mix, &x)?;
        ControlFlow::Continue(linear(weights, role, &Input::new(&x)))
    };
    let (up, receptance) = (project(roles::FFN_MIX[0])?, project(roles::FFN_MIX[1])?);
    ControlFlow::Continue(down(spec, weights, &activate(spec.activation, &up), hear)? * receptance.sigmoid())
}

fn down(spec: &FeedForward, weights: &Parameters, inner: &Tensor, hear: &mut Listener) -> ControlFlow<(), Tensor> {
    let inner = norm_opt(&spec.hidden_norm, weights, roles::HIDDEN_NORM, inner);
    hear(inputs::FFN_HIDDEN, &inner)?;
    ControlFlow::Continue(linear(weights, "ffn.down", &Input::new(&inner)))
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
