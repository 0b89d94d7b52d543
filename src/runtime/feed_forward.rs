//! What works on each token alone.

use super::cache::Stretch;
use super::linear::{Device, LinearLayer, apply_group};
use super::norm::{NormLayer, norm_in_place};
use super::shift::{Mix, shifted};
use crate::error::Result;
use crate::model::roles;
use crate::model::spec::{Activation, FeedForward, Gate};
use crate::quant::WeightStore;

/// The parameters of one block's feed-forward.
pub(super) struct FeedForwardLayers {
    activation: Activation,
    gate: GateLayers,
    up: LinearLayer,
    down: LinearLayer,
    hidden_norm: Option<NormLayer>,
}

enum GateLayers {
    None,
    Hidden(LinearLayer),
    Receptance { receptance: LinearLayer, mix_up: Mix, mix_receptance: Mix },
}

impl FeedForwardLayers {
    pub fn load(store: &dyn WeightStore, block: usize, spec: &FeedForward) -> Result<Self> {
        let name = |role: &str| store.spec().block_name(block, role);
        // All of them are named, so that one that is added cannot be forgotten here.
        let FeedForward { width, gate, activation, bias, hidden_norm, weights_of: _ } = spec;
        let linear = |role: &str| LinearLayer::load(store, &name(role), *bias);
        let gate = match gate {
            Gate::None => GateLayers::None,
            Gate::Hidden => GateLayers::Hidden(linear("ffn.gate")?),
            Gate::Receptance => {
                let [mix_up, mix_receptance] = roles::FFN_MIX.map(|(_, mix)| Mix::load(store, &name(mix)));
                GateLayers::Receptance { receptance: linear("ffn.receptance")?, mix_up: mix_up?, mix_receptance: mix_receptance? }
            }
        };
        Ok(Self {
            activation: *activation,
            gate,
            up: linear("ffn.up")?,
            down: linear("ffn.down")?,
            hidden_norm: NormLayer::load_opt(store, &name(roles::HIDDEN_NORM), hidden_norm, *width)?,
        })
    }

    /// x `[tokens, hidden]` → `[tokens, hidden]`
    pub fn apply(&self, x: &[f32], hidden: usize, stretches: &mut [Stretch], device: &Device) -> Vec<f32> {
        let down = |mut inner: Vec<f32>| {
            norm_in_place(&self.hidden_norm, &mut inner, device.kernels);
            self.down.apply(&inner, device)
        };
        match &self.gate {
            GateLayers::None => {
                let mut up = self.up.apply(x, device);
                activate(self.activation, &mut up);
                down(up)
            }
            GateLayers::Hidden(gate) => {
                let [mut gate, up] = apply_group([gate, &self.up], x, device);
                activate(self.activation, &mut gate);
                gate.iter_mut().zip(&up).for_each(|(g, u)| *g *= u);
                down(gate)
            }
            GateLayers::Receptance { receptance, mix_up, mix_receptance } => {
                let before = shifted(x, hidden, stretches, |state| &mut state.ffn_previous);
                let mut up = self.up.apply(&mix_up.apply(x, &before), device);
                activate(self.activation, &mut up);
                let receptance = receptance.apply(&mix_receptance.apply(x, &before), device);
                let mut out = down(up);
                out.iter_mut().zip(&receptance).for_each(|(y, r)| *y /= 1.0 + (-r).exp());
                out
            }
        }
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
