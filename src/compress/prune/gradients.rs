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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compress::tensors::wide;
    use crate::model::{DenseModel, rows_at_a_time};
    use crate::progress::Silent;
    use tch::{Device, Reduction};

    /// Gradients through logits in chunks of rows are those of the loss over all rows.
    #[test]
    fn gradients_are_those_of_the_whole_loss() {
        let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/fixtures/llama-gqa-tied");
        let store = DenseModel::open_hugging_face(&dir).unwrap();
        let spec = store.spec();
        let rows = rows_at_a_time(spec);
        let tokens = 2 * rows + 3;
        assert!(tokens <= spec.context, "{tokens} tokens");
        let sequence: Vec<u32> = (0..tokens).map(|i| (i * 11 % spec.vocab_size) as u32).collect();
        let double = Compute { device: Device::Cpu, kind: Kind::Double };
        let names: Vec<String> =
            spec.parameters().into_iter().map(|p| p.name).filter(|name| name.ends_with("weight") || !name.contains("norm")).collect();
        let found = Gradients::of(&store, (names.clone(), false), std::slice::from_ref(&sequence), double, &Silent).unwrap();

        let network = Network::trained(&store, double, &Trained::Parameters(names)).unwrap();
        let sequences = [&sequence[..]];
        let tape = Tape::record(&network, &sequences, Recording::whole(&network));
        let hidden = tape.hidden().detach().set_requires_grad(true);
        let logits = wide(&network.lm_head().forward(&hidden)).squeeze_dim(0);
        let next: Vec<i64> = sequence[1..].iter().map(|&id| id.into()).collect();
        let scored = logits.narrow(0, 0, next.len() as i64);
        scored.cross_entropy_loss::<Tensor>(&Tensor::from_slice(&next), None, Reduction::Mean, -100, 0.0).backward();
        tape.backward(Some(hidden.grad()), &|_| false, &mut |_, _| None);
        let mut compared = 0;
        for variable in network.variables() {
            let expected = variable.tensor.grad();
            if expected.defined() {
                let (found, greatest) = (&found.0[&variable.name].first, expected.abs().max().double_value(&[]));
                let apart = (found - &expected).abs().max().double_value(&[]);
                // Shares of tokens are in f32.
                assert!(apart <= 1e-6 * greatest, "{}: {apart} of {greatest}", variable.name);
                compared += 1;
            }
        }
        assert!(compared > 5, "{compared} parameters");
    }
}
