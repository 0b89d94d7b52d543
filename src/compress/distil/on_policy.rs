//! Learning from what the student itself writes: it is taught where it goes, and not
//! only where texts go.
//!
//! Gu et al., "MiniLLM: Knowledge Distillation of Large Language Models" (2024), section 2.2 and
//! algorithm 1: the gradient of the reverse KL of whole texts by policy gradient, with
//! its single-step part exact, sampling mixed with the teacher, returns normalised by
//! length, and a language model's loss beside it. Agarwal et al., "On-Policy Distillation of
//! Language Models" (GKD, 2024), algorithm 1: any divergence on texts of the student's, with no
//! gradient through the sampling.

use super::divergence::{Slope, Targets, cross_entropy, divergence, first};
use super::head::{Weighted, predict};
use super::writer::{self, Writing};
use crate::compress::tensors::wide;
use crate::compress::to_vec;
use crate::compress::train::{Batch, Network, Objective, Part, Recording, Tape, run};
use crate::error::Result;
use crate::model::rows_at_a_time;
use crate::random::Random;
use crate::recipe::{Distil, Divergence, OnPolicy, OnPolicyMethod};
use crate::runtime::Decoder;
use tch::Tensor;

/// Random numbers of whether texts are the student's own, and of what it writes.
const WHOSE: u64 = 0x0901;
const SAMPLES: u64 = 0x0902;

/// The objective.
pub struct OnPolicyDistillation<'a> {
    plan: &'a Distil,
    on_policy: &'a OnPolicy,
    teacher: &'a Network,
    /// It writes along where samples are mixed.
    writer: Option<Decoder>,
    threads: usize,
}

impl<'a> OnPolicyDistillation<'a> {
    /// `threads` of the device's runtime, 0 = one a core.
    pub fn new(plan: &'a Distil, on_policy: &'a OnPolicy, teacher: &'a Network, threads: usize) -> Result<Self> {
        let writes = on_policy.method == OnPolicyMethod::MiniLlm && on_policy.teacher_mix > 0.0;
        let writer = writes.then(|| writer::decoder(teacher, threads)).transpose()?;
        Ok(Self { plan, on_policy, teacher, writer, threads })
    }

    fn recording(&self, network: &Network) -> Recording<'static> {
        Recording { checkpointing: self.plan.training.checkpointing, ..Recording::whole(network) }
    }

    /// Tokens that the student and its teacher both have.
    fn vocabulary(&self, network: &Network) -> i64 {
        network.spec().vocab_size.min(self.teacher.spec().vocab_size) as i64
    }

    fn writing(&self, network: &Network) -> Writing {
        Writing {
            vocabulary: self.vocabulary(network) as usize,
            prompt: self.on_policy.prompt,
            temperature: self.on_policy.temperature as f32,
            teacher: if self.writer.is_some() { self.on_policy.teacher_mix as f32 } else { 0.0 },
            random: Random::new(self.plan.training.seed, SAMPLES),
        }
    }

    /// The divergence on texts, and where the importance of their tokens is given, by which
    /// all is weighed, the policy's part.
    fn taught(&self, network: &Network, batch: &Batch, importance: Option<&[f32]>, learn: bool) -> Vec<Part> {
        let sequences = batch.sequences();
        let teacher_hidden = run(self.teacher, &sequences, Recording::whole(self.teacher), &mut |_, _| ());
        let teacher = |start, count| logits(self.teacher, &teacher_hidden, start, count);
        let Distil { divergence: kind, kd_weight, temperature, .. } = *self.plan;
        let kind = match self.on_policy.method {
            OnPolicyMethod::MiniLlm => Divergence::ReverseKl,
            OnPolicyMethod::Gkd => kind,
        };
        let vocabulary = self.vocabulary(network);
        let weighed = importance.map(|importance| Tensor::from_slice(importance).to_device(network.compute().device));
        through(network, batch, self.recording(network), learn, &mut |hidden, [next, shares]| {
            let shares = &weighed.as_ref().map_or_else(|| shares.shallow_clone(), |weighed| shares * weighed);
            let returns = importance.map(|_| self.returns(network, hidden, &teacher_hidden, batch, next));
            predict(network, hidden, learn, &mut |start, count, z| {
                let some = |of: &Tensor| of.narrow(0, start, count);
                let slope = divergence(kind, z, &Targets::Logits(teacher(start, count)), temperature);
                let step = Weighted { name: "soft", slope, weights: some(shares) * kd_weight };
                let policy = returns.as_ref().map(|returns| {
                    // A score function has a gradient, and no value to speak of.
                    let Slope { values, gradient } = cross_entropy(&first(z, vocabulary), &some(next));
                    let slope = Slope { values: values.zeros_like(), gradient }.padded_to(z.size()[1]);
                    Weighted { name: "policy", slope, weights: some(returns) * some(shares) * kd_weight }
                });
                std::iter::once(step).chain(policy).collect()
            })
        })
    }

    /// The text's own next tokens.
    fn language(&self, network: &Network, batch: &Batch, learn: bool) -> Vec<Part> {
        through(network, batch, self.recording(network), learn, &mut |hidden, [next, shares]| {
            predict(network, hidden, learn, &mut |start, count, z| {
                let slope = cross_entropy(z, &next.narrow(0, start, count));
                vec![Weighted { name: "hard", slope, weights: shares.narrow(0, start, count) * self.plan.ce_weight }]
            })
        })
    }

    /// Of each token, what it led to: the mean over the tokens behind it of log p / q,
    /// less that of all of them, which changes nothing in the mean (Williams 1992).
    /// `[batch · tokens]`.
    fn returns(&self, network: &Network, own: &Tensor, its: &Tensor, batch: &Batch, next: &Tensor) -> Tensor {
        let _no_grad = tch::no_grad_guard();
        let (tokens, vocabulary) = (batch.pieces[0].scored.len(), self.vocabulary(network));
        let rows = rows_at_a_time(network.spec()).min(rows_at_a_time(self.teacher.spec())) as i64;
        let mut ratios = Vec::new();
        for start in (0..next.size()[0]).step_by(rows as usize) {
            let count = rows.min(next.size()[0] - start);
            let loss = |network: &Network, hidden: &Tensor| {
                cross_entropy(&first(&logits(network, hidden, start, count), vocabulary), &next.narrow(0, start, count)).values
            };
            ratios.extend(to_vec(&(loss(network, own) - loss(self.teacher, its))));
        }
        let mut returns = vec![None; ratios.len()];
        for (i, piece) in batch.pieces.iter().enumerate() {
            let (mut sum, mut behind) = (0f32, 0f32);
            for place in (0..tokens).rev().filter(|&place| piece.scored[place]) {
                let at = i * tokens + place;
                returns[at] = (behind > 0.0).then(|| sum / behind);
                sum += ratios[at];
                behind += 1.0;
            }
        }
        let known: Vec<f32> = returns.iter().flatten().copied().collect();
        let mean = known.iter().sum::<f32>() / known.len().max(1) as f32;
        let centred: Vec<f32> = returns.iter().map(|r| r.map_or(0.0, |r| r - mean)).collect();
        Tensor::from_slice(&centred).to_device(own.device())
    }
}

/// Makes losses, and their gradient, of hidden states and the batch's targets.
type Losses<'a> = dyn FnMut(&Tensor, &[Tensor; 2]) -> (Vec<Part>, Tensor) + 'a;

/// A forward, losses of its prediction, and, where it is to learn, the way back.
fn through(network: &Network, batch: &Batch, recording: Recording, learn: bool, losses: &mut Losses) -> Vec<Part> {
    let sequences = batch.sequences();
    let targets = batch.targets(network.compute().device);
    if !learn {
        let _no_grad = tch::no_grad_guard();
        return losses(&run(network, &sequences, recording, &mut |_, _| ()), &targets).0;
    }
    let tape = Tape::record(network, &sequences, recording);
    let (parts, gradient) = losses(tape.hidden(), &targets);
    tape.backward(Some(gradient), &|_| false, &mut |_, _| None);
    parts
}

/// Of some tokens of hidden states `[batch, tokens, hidden]`, in single precision at least.
fn logits(network: &Network, hidden: &Tensor, start: i64, count: i64) -> Tensor {
    let _no_grad = tch::no_grad_guard();
    let flat = hidden.view([-1, *hidden.size().last().expect("[batch, tokens, hidden]")]);
    wide(&network.lm_head().forward(&flat.narrow(0, start, count)))
}

impl Objective for OnPolicyDistillation<'_> {
    /// The corpus's texts are not the student's own.
    fn is_judged_by_held_out(&self) -> bool {
        false
    }

    fn losses(&mut self, network: &Network, batch: &Batch, learn: bool) -> Result<Vec<Part>> {
        // What is held out is judged by as it is.
        let own = learn && Random::new(self.plan.training.seed, WHOSE).uniform(batch.step) < self.on_policy.share;
        let mut parts = if own {
            let student = writer::decoder(network, self.threads)?;
            let written = self.writing(network).write(&student, self.writer.as_ref(), batch.pieces, batch.numbers.start)?;
            let scored = written.pieces[0].scored.iter().filter(|&&scored| scored).count() as f64;
            let tokens = written.pieces[0].scored.len() as f64;
            // The others of the step are written too, and as long.
            let batch = Batch {
                pieces: &written.pieces,
                step: batch.step,
                numbers: batch.numbers.clone(),
                scored: batch.tokens * scored / tokens,
                tokens: batch.tokens,
            };
            let importance = match self.on_policy.method {
                OnPolicyMethod::MiniLlm => Some(&*written.importance),
                OnPolicyMethod::Gkd => None,
            };
            self.taught(network, &batch, importance, true)
        } else {
            self.taught(network, batch, None, learn)
        };
        if self.plan.ce_weight > 0.0 {
            parts.extend(self.language(network, batch, learn));
        }
        Ok(parts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compress::Compute;
    use crate::compress::train::Trained;
    use crate::model::DenseModel;
    use crate::text::corpus::Piece;
    use tch::{Device, Kind};

    /// Over all texts of two tokens, each weighed by its probability, the gradient is that
    /// of KL(q || p) of whole texts.
    #[test]
    fn the_policys_gradient_is_that_of_whole_texts() {
        let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/fixtures/llama-gqa-tied");
        let store = DenseModel::open_hugging_face(&dir).unwrap();
        let spec = store.spec().clone();
        let double = Compute { device: Device::Cpu, kind: Kind::Double };
        let names = Trained::Parameters(spec.parameters().into_iter().map(|p| p.name).collect());
        let [network, teacher] = [0, 1].map(|_| Network::trained(&store, double, &names).unwrap());
        tch::manual_seed(3);
        tch::no_grad(|| teacher.variables().iter().for_each(|v| drop(v.tensor.shallow_clone().g_add_(&(v.tensor.randn_like() * 0.1)))));
        let vocab = spec.vocab_size as u32;
        let texts = (0..vocab).flat_map(|a| (0..vocab).map(move |b| vec![1, a, b]));
        let pieces: Vec<Piece> = texts.map(|ids| Piece { ids, scored: vec![true; 2] }).collect();

        // log q of each text by both, `[texts]`.
        let all = Batch { pieces: &pieces, step: 0, numbers: 0..1, scored: 1.0, tokens: 1.0 };
        let [next, _] = all.targets(Device::Cpu);
        let log_likelihood = |of: &Network| {
            let hidden = run(of, &all.sequences(), Recording::whole(of), &mut |_, _| ());
            let values = cross_entropy(&logits(of, &hidden, 0, 2 * pieces.len() as i64), &next).values;
            -values.view([-1, 2]).sum_dim_intlist(1, false, None)
        };
        let log_p = log_likelihood(&teacher);
        let divergence = |network: &Network| {
            let log_q = log_likelihood(network);
            (log_q.exp() * (log_q - &log_p)).sum(None).double_value(&[])
        };

        let plan: Distil = toml::from_str("divergence = 'reverse_kl'\non_policy = { method = 'minillm' }").unwrap();
        let objective = OnPolicyDistillation::new(&plan, plan.on_policy.as_ref().unwrap(), &teacher, 1).unwrap();
        let probabilities = to_vec(&log_likelihood(&network).exp());
        let importance: Vec<f32> = probabilities.iter().flat_map(|&q| [q, q]).collect();
        objective.taught(&network, &all, Some(&importance), true);

        let mut greatest = 0f64;
        for variable in network.variables() {
            let gradient = variable.tensor.grad();
            for place in [0, variable.tensor.numel() as i64 / 2] {
                let moved = |by: f64| {
                    tch::no_grad(|| drop(variable.tensor.view(-1).get(place).g_add_scalar_(by)));
                    let value = divergence(&network);
                    tch::no_grad(|| drop(variable.tensor.view(-1).get(place).g_add_scalar_(-by)));
                    value
                };
                let difference = (moved(1e-4) - moved(-1e-4)) / 2e-4;
                let found = gradient.view(-1).double_value(&[place]);
                assert!((difference - found).abs() < 1e-5 * (1.0 + difference.abs()), "{}[{place}]: {difference}, {found}", variable.name);
                greatest = greatest.max(found.abs());
            }
        }
        assert!(greatest > 1e-2);
    }
}
