//! RWKV's time mixing over whole sequences, token by token.

use super::{Input, Listener, each, linear, pairwise, project};
use crate::compress::tensors::{Parameters, wide};
use crate::model::spec::Wkv;
use crate::model::{inputs, roles};
use std::ops::ControlFlow;
use tch::Tensor;

/// x `[batch, tokens, hidden]` → `[batch, tokens, hidden]`
pub fn forward(spec: &Wkv, weights: &Parameters, x: Vec<Tensor>, hear: &mut Listener) -> ControlFlow<(), Vec<Tensor>> {
    let [key, value, receptance] = roles::WKV_MIX;
    let [key, value] = [project(weights, key, &x, hear)?, project(weights, value, &x, hear)?];
    let receptance = project(weights, receptance, &x, hear)?;
    let means = pairwise(key, value, |key, value| means_of(spec, weights, &key, &value).to_kind(key.kind()));
    let means = pairwise(receptance, means, |receptance, means| receptance.sigmoid() * means);
    hear(inputs::WKV, &means)?;
    ControlFlow::Continue(each(means, |means| linear(weights, "wkv.output", &Input::new(&means))))
}

/// Means of the values so far, weighted by exp(key), `[batch, tokens, width]`; sums
/// are kept divided by exp of their greatest key, in single precision at least.
fn means_of(spec: &Wkv, weights: &Parameters, key: &Tensor, value: &Tensor) -> Tensor {
    let (batch, tokens, _) = key.size3().expect("[batch, tokens, width]");
    let (key, value) = (wide(key), wide(value));
    let decay = wide(&weights.get(roles::WKV_DECAY)).exp().neg();
    let first = wide(&weights.get(roles::WKV_FIRST));
    let zeros = Tensor::zeros([batch, spec.width as i64], (key.kind(), key.device()));
    let (mut numerator, mut denominator, mut greatest) = (zeros.copy(), zeros.copy(), zeros - 1e38);
    let mut all = Vec::with_capacity(tokens as usize);
    for token in 0..tokens {
        let (key, value) = (key.select(1, token), value.select(1, token));
        // The token itself counts by its key and a bonus.
        let now_key = &key + &first;
        let top = greatest.maximum(&now_key);
        let (past, now) = ((&greatest - &top).exp(), (now_key - &top).exp());
        all.push((&past * &numerator + &now * &value) / (past * &denominator + now));
        let faded = greatest + &decay;
        let top = faded.maximum(&key);
        let (past, now) = ((faded - &top).exp(), (key - &top).exp());
        numerator = &past * numerator + &now * value;
        denominator = past * denominator + now;
        greatest = top;
    }
    Tensor::stack(&all, 1)
}
