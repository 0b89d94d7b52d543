//! RWKV's time mixing, token by token.

use super::cache::{Stretch, WkvState};
use super::linear::{Device, LinearLayer};
use super::shift::{Mix, shifted};
use crate::error::Result;
use crate::model::roles;
use crate::quant::WeightStore;

/// The parameters of one block's mixer.
pub(super) struct WkvLayers {
    /// Key, value and receptance, each with the mixture it reads.
    reading: [(LinearLayer, Mix); 3],
    output: LinearLayer,
    /// −exp(decay): the logarithm of what is left after a step.
    decay: Vec<f32>,
    first: Vec<f32>,
}

impl WkvLayers {
    pub fn load(store: &dyn WeightStore, block: usize) -> Result<Self> {
        let name = |role: &str| store.spec().block_name(block, role);
        let vector = |role: &str| Ok::<_, crate::Error>(store.weight(&name(role))?.to_f32().into_owned());
        let [key, value, receptance] = roles::WKV_MIX
            .map(|(role, mix)| Ok::<_, crate::Error>((LinearLayer::load(store, &name(role), false)?, Mix::load(store, &name(mix))?)));
        Ok(Self {
            reading: [key?, value?, receptance?],
            output: LinearLayer::load(store, &name("wkv.output"), false)?,
            decay: vector(roles::WKV_DECAY)?.into_iter().map(|w| -w.exp()).collect(),
            first: vector(roles::WKV_FIRST)?,
        })
    }

    /// x `[tokens, hidden]` → `[tokens, hidden]`
    pub fn mix(&self, x: &[f32], hidden: usize, stretches: &mut [Stretch], device: &Device) -> Vec<f32> {
        let before = shifted(x, hidden, stretches, |state| &mut state.wkv().previous);
        let [keys, values, receptances] = self.reading.each_ref().map(|(linear, mix)| linear.apply(&mix.apply(x, &before), device));
        let width = self.decay.len();
        let mut mixed = Vec::with_capacity(keys.len());
        let mut tokens = keys.chunks_exact(width).zip(values.chunks_exact(width));
        for Stretch { tokens: count, state, .. } in stretches {
            let state = state.wkv();
            for (key, value) in tokens.by_ref().take(*count) {
                mixed.extend((0..width).map(|i| state.step(i, key[i], value[i], self.decay[i], self.first[i])));
            }
        }
        mixed.iter_mut().zip(&receptances).for_each(|(y, r)| *y /= 1.0 + (-r).exp());
        self.output.apply(&mixed, device)
    }
}

impl WkvState {
    /// One channel's mean with this token in it; the state takes it up.
    ///
    /// Source: RWKV (Peng et al. 2023), appendix "numerically stable" form.
    fn step(&mut self, i: usize, key: f32, value: f32, decay: f32, first: f32) -> f32 {
        let greatest = self.greatest[i].max(key + first);
        let (past, now) = ((self.greatest[i] - greatest).exp(), (key + first - greatest).exp());
        let mean = (past * self.numerator[i] + now * value) / (past * self.denominator[i] + now);
        let greatest = (self.greatest[i] + decay).max(key);
        let (past, now) = ((self.greatest[i] + decay - greatest).exp(), (key - greatest).exp());
        self.numerator[i] = past * self.numerator[i] + now * value;
        self.denominator[i] = past * self.denominator[i] + now;
        self.greatest[i] = greatest;
        mean
    }
}
