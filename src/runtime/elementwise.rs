//! Operations on each number.

use crate::forward::{Binary, Unary};
use crate::spec::Activation;

/// Applies an operation to each number of x.
pub(super) fn unary(operation: Unary, x: &mut [f32]) {
    match operation {
        Unary::Activation(activation) => activate(activation, x),
        Unary::Clip(limit) => x.iter_mut().for_each(|v| *v = v.clamp(-limit, limit)),
        Unary::Scale(factor) => x.iter_mut().for_each(|v| *v *= factor),
        Unary::Softcap(cap) => x.iter_mut().for_each(|v| *v = cap * (*v / cap).tanh()),
    }
}

/// x becomes the operation's result on x and y.
pub(super) fn binary(operation: Binary, x: &mut [f32], y: &[f32]) {
    let pairs = x.iter_mut().zip(y);
    match operation {
        Binary::Add => pairs.for_each(|(x, y)| *x += y),
        Binary::Multiply => pairs.for_each(|(x, y)| *x *= y),
        Binary::MultiplySigmoid => pairs.for_each(|(x, y)| *x /= 1.0 + (-y).exp()),
    }
}

fn activate(activation: Activation, x: &mut [f32]) {
    let each = |x: &mut [f32], f: fn(f32) -> f32| x.iter_mut().for_each(|v| *v = f(*v));
    match activation {
        Activation::Silu => each(x, |v| v / (1.0 + (-v).exp())),
        Activation::Gelu => each(x, |v| 0.5 * v * (1.0 + libm::erff(v * std::f32::consts::FRAC_1_SQRT_2))),
        Activation::GeluTanh => each(x, |v| {
            const SQRT_2_OVER_PI: f32 = 0.797_884_6;
            0.5 * v * (1.0 + (SQRT_2_OVER_PI * (v + 0.044_715 * v * v * v)).tanh())
        }),
        Activation::Relu => each(x, |v| v.max(0.0)),
        Activation::ReluSquared => each(x, |v| v.max(0.0) * v.max(0.0)),
    }
}
