//! Losses of the prediction: through the head, some tokens at a time, so that a large
//! vocabulary needs no more memory than a small one.

use super::divergence::Slope;
use crate::compress::tensors::{along, wide};
use crate::compress::train::{Network, Part};
use std::collections::BTreeMap;
use tch::{Kind, Tensor};

/// Logits that are held at a time.
///
/// Few in tests, so that small models have several stretches too.
const LOGITS: usize = if cfg!(test) { 1 << 10 } else { 1 << 23 };

/// A loss of some tokens, and how much each of them counts, `[tokens]`.
pub struct Weighted {
    /// Its name.
    pub name: &'static str,
    /// Values and gradient.
    pub slope: Slope,
    /// Of each token.
    pub weights: Tensor,
}

/// Sums of what `losses` makes of the logits of hidden states `[…, hidden]`, and, where it
/// is to learn, the gradient with respect to them; gradients of the head's parameters are
/// added. `losses` is given a stretch of tokens, `start` and `count`, and their logits
/// `[count, vocab]`, in single precision at least.
pub fn predict(
    network: &Network,
    hidden: &Tensor,
    learn: bool,
    losses: &mut dyn FnMut(i64, i64, &Tensor) -> Vec<Weighted>,
) -> (Vec<Part>, Tensor) {
    let flat = hidden.view([-1, *hidden.size().last().expect("[…, hidden]")]);
    let exit = network.exit();
    let tokens = flat.size()[0];
    let at_a_time = stretch(network.spec().vocab_size);
    let (mut sums, mut gradients) = (BTreeMap::new(), Vec::new());
    for start in (0..tokens).step_by(at_a_time) {
        let count = (at_a_time as i64).min(tokens - start);
        let x = flat.narrow(0, start, count).detach().set_requires_grad(learn);
        let logits = exit.forward(network.spec(), &x);
        let mut gradient: Option<Tensor> = None;
        for Weighted { name, mut slope, weights } in losses(start, count, &wide(&logits.detach())) {
            *sums.entry(name).or_insert(0.0) += (slope.values * &weights).sum(Kind::Double).double_value(&[]);
            let part = slope.gradient.g_mul_(&weights.unsqueeze(-1));
            gradient = Some(gradient.map_or_else(|| part.shallow_clone(), |mut sum| sum.g_add_(&part)));
        }
        if learn {
            gradients.push(match gradient {
                Some(gradient) => {
                    along(&logits, &gradient).backward();
                    x.grad()
                }
                None => x.zeros_like().detach(),
            });
        }
    }
    let gradient = if learn { Tensor::cat(&gradients, 0).view_as(hidden) } else { hidden.zeros_like() };
    (sums.into_iter().collect(), gradient)
}

/// Tokens that are taken together.
fn stretch(vocab_size: usize) -> usize {
    (LOGITS / vocab_size).max(16)
}
