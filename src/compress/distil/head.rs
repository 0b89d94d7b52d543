//! Losses of the prediction: through the head, some tokens at a time, so that a large
//! vocabulary needs no more memory than a small one.

use super::divergence::Slope;
use crate::compress::libtorch::LmHead;
use crate::compress::tensors::{along, wide};
use crate::compress::train::{Network, Part};
use crate::model::{ModelSpec, rows_at_a_time};
use crate::spec::Head;
use std::collections::BTreeMap;
use tch::{Kind, Tensor};

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
    let (spec, lm_head) = (network.spec(), network.lm_head());
    let tokens = flat.size()[0];
    let at_a_time = rows_at_a_time(spec);
    let (mut sums, mut gradients) = (BTreeMap::new(), Vec::new());
    let mut head = HeadGradient { spec, lm_head: &lm_head, weight: None, bias: None };
    for start in (0..tokens).step_by(at_a_time) {
        let count = (at_a_time as i64).min(tokens - start);
        let x = flat.narrow(0, start, count).detach().set_requires_grad(learn);
        let input = lm_head.input(&x);
        let logits = tch::no_grad(|| lm_head.logits(&input));
        let mut gradient: Option<Tensor> = None;
        for Weighted { name, mut slope, weights } in losses(start, count, &wide(&logits)) {
            *sums.entry(name).or_insert(0.0) += (slope.values * &weights).sum(Kind::Double).double_value(&[]);
            let part = slope.gradient.g_mul_(&weights.unsqueeze(-1));
            gradient = Some(gradient.map_or_else(|| part.shallow_clone(), |mut sum| sum.g_add_(&part)));
        }
        if learn {
            gradients.push(match gradient {
                Some(gradient) => {
                    along(&input, &head.back(&input.detach(), &logits, gradient)).backward();
                    x.grad()
                }
                None => x.zeros_like().detach(),
            });
        }
    }
    head.hand_on();
    let gradient = if learn { Tensor::cat(&gradients, 0).view_as(hidden) } else { hidden.zeros_like() };
    (sums.into_iter().collect(), gradient)
}

/// The way back through the head, by hand: its logits are the largest there is in a step,
/// and a loss that libtorch could differentiate in their place would read them once more.
struct HeadGradient<'a> {
    spec: &'a ModelSpec,
    lm_head: &'a LmHead,
    /// Sums over stretches, in single precision at least, of gradients in the head's own
    /// number format, where they are to be learnt.
    weight: Option<Tensor>,
    bias: Option<Tensor>,
}

impl HeadGradient<'_> {
    /// From the gradient of logits `[tokens, vocab]` to that of the head's input,
    /// `[tokens, width]`.
    fn back(&mut self, input: &Tensor, logits: &Tensor, gradient: Tensor) -> Tensor {
        let _no_grad = tch::no_grad_guard();
        // All of them are named, so that one that is added cannot be forgotten here.
        let Head { bias: _, softcap } = self.spec.head;
        let (weight, bias) = self.lm_head.matrix();
        let gradient = match softcap.map(f64::from) {
            // The derivative of cap · tanh(z / cap) is 1 − tanh², which rounding must not make
            // negative.
            Some(cap) => {
                let slope: Tensor = 1.0 - (wide(logits) / cap).square();
                gradient * slope.clamp_min(0.0)
            }
            None => gradient,
        };
        if bias.is_some_and(|bias| bias.requires_grad()) {
            add(&mut self.bias, gradient.sum_dim_intlist(0, false, gradient.kind()));
        }
        let gradient = gradient.to_kind(input.kind());
        if weight.requires_grad() {
            add(&mut self.weight, wide(&gradient.tr().matmul(input)));
        }
        gradient.matmul(&weight)
    }

    /// Adds what was summed to the gradients of the parameters.
    fn hand_on(self) {
        let (weight, bias) = self.lm_head.matrix();
        for (parameter, gradient) in [(Some(weight), self.weight), (bias, self.bias)] {
            if let (Some(parameter), Some(gradient)) = (parameter, gradient) {
                along(&parameter, &gradient).backward();
            }
        }
    }
}

fn add(sum: &mut Option<Tensor>, part: Tensor) {
    match sum {
        Some(sum) => drop(sum.g_add_(&part)),
        None => *sum = Some(part),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compress::Compute;
    use crate::compress::distil::divergence::cross_entropy;
    use crate::compress::train::Trained;
    use crate::model::DenseModel;
    use tch::Device;

    /// Over several stretches: a head that is the embeddings, one with a bias, one that caps
    /// its logits, one behind a projection; and one that is not to be learnt.
    #[test]
    fn the_way_back_is_libtorchs() {
        let all = ["llama-gqa-tied", "phi-partial", "gemma2-softcaps", "opt-post-norm"].map(|fixture| (fixture, true));
        for (fixture, learns) in all.into_iter().chain([("llama-gqa-tied", false)]) {
            let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/fixtures").join(fixture);
            let store = DenseModel::open_hugging_face(&dir).unwrap();
            let mut names: Vec<String> = store.spec().parameters().into_iter().map(|p| p.name).collect();
            names.retain(|name| learns || name != store.spec().head_name());
            let names = Trained::Parameters(names);
            let double = Compute { device: Device::Cpu, kind: Kind::Double };
            let [ours, theirs] = [0, 1].map(|_| Network::trained(&store, double, &names).unwrap());
            let spec = ours.spec();
            let tokens = 2 * rows_at_a_time(spec) as i64 + 3;
            tch::manual_seed(1);
            let numbers = (Kind::Double, Device::Cpu);
            let hidden = Tensor::randn([1, tokens, spec.hidden_size as i64], numbers);
            let next = Tensor::randint(spec.vocab_size as i64, [tokens], (Kind::Int64, Device::Cpu));
            let weights = Tensor::rand([tokens], numbers);

            let (parts, gradient) = predict(&ours, &hidden, true, &mut |start, count, logits| {
                assert!(logits.size()[0] == count && count <= rows_at_a_time(spec) as i64, "{fixture}: {count} rows at once");
                let slope = cross_entropy(logits, &next.narrow(0, start, count));
                vec![Weighted { name: "hard", slope, weights: weights.narrow(0, start, count) }]
            });

            let x = hidden.set_requires_grad(true);
            let logits = theirs.lm_head().forward(&x).squeeze_dim(0);
            let loss = -(logits.log_softmax(-1, None).gather(-1, &next.unsqueeze(-1), false).squeeze_dim(-1) * &weights).sum(None);
            loss.backward();

            let apart = |a: &Tensor, b: &Tensor| (a - b).abs().max().double_value(&[]);
            assert!((parts[0].1 - loss.double_value(&[])).abs() < 1e-9, "{fixture}");
            assert!(apart(&gradient, &x.grad()) < 1e-10, "{fixture}");
            let mut learnt = 0;
            for (own, its) in ours.variables().iter().zip(&theirs.variables()) {
                assert_eq!(own.tensor.grad().defined(), its.tensor.grad().defined(), "{fixture}: {}", own.name);
                if own.tensor.grad().defined() {
                    assert!(apart(&own.tensor.grad(), &its.tensor.grad()) < 1e-10, "{fixture}: {}", own.name);
                    learnt += 1;
                }
            }
            assert!(learnt > usize::from(learns), "{fixture}: what is behind the blocks, and the head");
            let (same, none) = predict(&ours, &hidden, false, &mut |start, count, logits| {
                let slope = cross_entropy(logits, &next.narrow(0, start, count));
                vec![Weighted { name: "hard", slope, weights: weights.narrow(0, start, count) }]
            });
            assert!((same[0].1 - parts[0].1).abs() < 1e-9 && apart(&none, &hidden.zeros_like()) == 0.0, "{fixture}");
        }
    }
}
