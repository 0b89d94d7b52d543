//! Distillation: a student learns a teacher's distribution over the next token, and,
//! where it is told to, its hidden states and attention.

pub mod cache;
pub mod divergence;
pub mod head;
mod matching;
mod on_policy;
mod teacher;
mod writer;

pub use matching::Matching;
pub use on_policy::OnPolicyDistillation;
pub use teacher::Teacher;

use super::train::{Batch, Network, Objective, Part, Recording, Segment, Tape, Variable, run};
use crate::error::Result;
use crate::recipe::Distil;
use divergence::{cross_entropy, divergence};
use head::{Weighted, predict};
use tch::Tensor;
use teacher::TeacherOutput;

/// What a student is trained for.
pub struct Distillation<'a> {
    plan: &'a Distil,
    teacher: Option<&'a Teacher>,
    matching: Option<Matching>,
    /// Segments that are run: all, or up to what is compared.
    depth: usize,
}

impl<'a> Distillation<'a> {
    /// By a plan, from a teacher where it needs one. Hidden states and attention are
    /// matched where `matching` says how; segments behind `depth` are not run, and then
    /// there is no prediction to learn.
    pub fn new(plan: &'a Distil, teacher: Option<&'a Teacher>, matching: Option<Matching>, depth: usize) -> Self {
        Self { plan, teacher, matching, depth }
    }

    /// Losses of the prediction, and their gradient with respect to hidden states behind
    /// the last block.
    fn predict(
        &self,
        network: &Network,
        batch: &Batch,
        hidden: &Tensor,
        output: Option<&TeacherOutput>,
        learn: bool,
    ) -> (Vec<Part>, Tensor) {
        let [next, shares] = batch.targets(hidden.device());
        let Distil { kd_weight, ce_weight, divergence: kind, temperature, .. } = *self.plan;
        let output = output.filter(|_| kd_weight > 0.0);
        predict(network, hidden, learn, &mut |start, count, z| {
            let some = |of: &Tensor| of.narrow(0, start, count);
            let weighted = |name, weight: f64, slope| Weighted { name, slope, weights: some(&shares) * weight };
            let hard = (ce_weight > 0.0).then(|| weighted("hard", ce_weight, cross_entropy(z, &some(&next))));
            let soft = output.map(|output| weighted("soft", kd_weight, divergence(kind, z, &output.targets(start, count), temperature)));
            hard.into_iter().chain(soft).collect()
        })
    }
}

impl Objective for Distillation<'_> {
    fn variables(&self) -> Vec<Variable> {
        self.matching.as_ref().map_or(Vec::new(), Matching::variables)
    }

    fn losses(&mut self, network: &Network, batch: &Batch, learn: bool) -> Result<Vec<Part>> {
        let sequences = batch.sequences();
        let predicts = self.depth > network.spec().blocks.len() && (self.plan.kd_weight > 0.0 || self.plan.ce_weight > 0.0);
        let output = self.teacher.map(|teacher| teacher.output(batch, &sequences, self.matching.as_ref(), self.depth)).transpose()?;
        let observe = self.matching.as_ref().map_or(&[][..], Matching::observed);
        let recording = Recording { depth: self.depth, observe, checkpointing: self.plan.training.checkpointing };
        // Of the whole step's, by tokens.
        let share = batch.pieces.iter().map(|piece| piece.scored.len()).sum::<usize>() as f64 / batch.tokens;
        let mut parts: Vec<Part> = Vec::new();
        let mut beside = |segment: usize, own: &Segment| {
            let its = output.as_ref()?.segments.get(&segment)?;
            let losses = self.matching.as_ref()?.losses(network.spec(), segment, own, its);
            parts.extend(losses.iter().map(|(name, loss)| (*name, share * loss.double_value(&[]))));
            losses.into_iter().map(|(_, loss)| loss * share).reduce(|a, b| a + b)
        };
        let predicted = if learn {
            let tape = Tape::record(network, &sequences, recording);
            let predicted = predicts.then(|| self.predict(network, batch, tape.hidden(), output.as_ref(), true));
            let (predicted, gradient) = predicted.map_or((Vec::new(), None), |(parts, gradient)| (parts, Some(gradient)));
            let judged = |segment: usize| self.matching.as_ref().is_some_and(|matching| matching.teachers(segment).is_some());
            tape.backward(gradient, &judged, &mut beside);
            predicted
        } else {
            let hidden = run(network, &sequences, recording, &mut |segment, made| drop(beside(segment, &made)));
            let _no_grad = tch::no_grad_guard();
            if predicts { self.predict(network, batch, &hidden, output.as_ref(), false).0 } else { Vec::new() }
        };
        parts.extend(predicted);
        Ok(parts)
    }
}
