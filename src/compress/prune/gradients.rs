//! Gradients of the calibration's loss with respect to weights.

use crate::compress::distil::divergence::cross_entropy;
use crate::compress::distil::head::{Weighted, predict};
use crate::compress::tensors::Compute;
use crate::compress::train::{Network, Recording, Tape, Trained};
use crate::error::Result;
use crate::progress::{Progress, Unit};
use crate::quant::WeightStore;
use std::collections::BTreeMap;
use tch::{Kind, Tensor};

/// Means over sequences, by canonical name of a matrix.
pub struct Gradients(BTreeMap<String, Of>);

struct Of {
    /// Of the gradient.
    first: Tensor,
    /// Of its square, where it is wanted: the diagonal of the empirical Fisher information.
    second: Option<Tensor>,
}

impl Gradients {
    /// Of the next-token loss of sequences, each by itself, with respect to the parameters
    /// of these names; `squares` tells whether their squares are wanted too.
    pub fn of(
        store: &dyn WeightStore,
        (names, squares): (Vec<String>, bool),
        sequences: &[Vec<u32>],
        compute: Compute,
        progress: &dyn Progress,
    ) -> Result<Self> {
        let spec = store.spec();
        let network = Network::trained(store, compute, &Trained::Parameters(names))?;
        let mut means: BTreeMap<String, Of> = BTreeMap::new();
        let share = 1.0 / sequences.len() as f64;
        progress.begin("prune_width: gradients", sequences.len() as u64, Unit::one("sequences"));
        for sequence in sequences {
            progress.may_go_on()?;
            let sequences = [sequence.as_slice()];
            let tape = Tape::record(&network, &sequences, Recording { checkpointing: true, ..Recording::whole(&network) });
            let next: Vec<i64> = sequence[1..].iter().map(|&id| id.into()).collect();
            let scored = next.len() as i64;
            // Nothing follows the last token.
            let next = Tensor::from_slice(&[&next[..], &[0]].concat()).to_device(compute.device);
            let shares = Tensor::full([scored + 1], 1.0 / scored as f64, (Kind::Float, compute.device));
            let _ = shares.get(scored).fill_(0.0);
            let (_, gradient) = predict(&network, tape.hidden(), true, &mut |start, count, logits| {
                let slope = cross_entropy(logits, &next.narrow(0, start, count));
                vec![Weighted { name: "loss", slope, weights: shares.narrow(0, start, count) }]
            });
            tape.backward(Some(gradient), &|_| false, &mut |_, _| None);
            let _no_grad = tch::no_grad_guard();
            for mut variable in network.variables() {
                let gradient = variable.tensor.grad();
                if !gradient.defined() {
                    continue;
                }
                let (first, second) = (&gradient * share, squares.then(|| gradient.square() * share));
                match means.get_mut(&variable.name) {
                    Some(of) => {
                        let _ = of.first.g_add_(&first);
                        if let Some((sum, second)) = of.second.as_mut().zip(second) {
                            let _ = sum.g_add_(&second);
                        }
                    }
                    None => drop(means.insert(variable.name.clone(), Of { first, second })),
                }
                variable.tensor.zero_grad();
            }
            progress.advance(1);
        }
        progress.end();
        Ok(Self(means))
    }

    /// What each weight is worth; `None` where it has no gradient.
    pub fn salience(&self, name: &str, weight: &Tensor) -> Option<Tensor> {
        let Of { first, second } = self.0.get(name)?;
        let linear = weight * first;
        let salience = match second {
            Some(second) => linear - weight.square() * second * 0.5,
            None => linear,
        };
        Some(salience.abs().to_kind(Kind::Float))
    }
}
