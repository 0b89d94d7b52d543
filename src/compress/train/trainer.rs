//! Step after step: gradients of a batch, a step of the optimiser, a look at what was
//! held out, a saved state.

use super::network::{Network, Variable};
use super::optimizer::Optimizer;
use super::rounded::Rounded;
use super::schedule::{learning_rate, weight_decay};
use super::state;
use crate::error::{Error, Result};
use crate::progress::{Progress, Silent, Unit};
use crate::recipe::Training;
use crate::report::{End, Line};
use crate::text::corpus::{Piece, Pieces};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};
use tch::{Device, Tensor};

/// Sequences that go through the network together.
pub struct Batch<'a> {
    /// Each with one token more than is read.
    pub pieces: &'a [Piece],
    /// The step that it is a part of.
    pub step: u64,
    /// The number of each in the order of training, from which it can be known again;
    /// held-out pieces are numbered by [`Batch::HELD_OUT`] and on.
    pub numbers: std::ops::Range<u64>,
    /// Scored tokens of the whole step, over which losses are means.
    pub scored: f64,
    /// All its tokens.
    pub tokens: f64,
}

impl Batch<'_> {
    /// Number of the first piece that was held out.
    pub const HELD_OUT: u64 = 1 << 63;

    /// What is read of each piece.
    pub fn sequences(&self) -> Vec<&[u32]> {
        self.pieces.iter().map(|piece| &piece.ids[..piece.ids.len() - 1]).collect()
    }

    /// Next tokens, i64, and how much each counts, both `[batch · tokens]`: its share of the
    /// step's mean, or nothing where it is not scored.
    pub fn targets(&self, device: Device) -> [Tensor; 2] {
        let next: Vec<i64> = self.pieces.iter().flat_map(|piece| piece.ids[1..].iter().map(|&id| i64::from(id))).collect();
        let share = |&scored: &bool| if scored { (1.0 / self.scored) as f32 } else { 0.0 };
        let shares: Vec<f32> = self.pieces.iter().flat_map(|piece| piece.scored.iter().map(share)).collect();
        [Tensor::from_slice(&next), Tensor::from_slice(&shares)].map(|tensor| tensor.to_device(device))
    }
}

/// A part of a loss: its name, and its share of the step's mean, weighted.
pub type Part = (&'static str, f64);

/// What a network is trained for.
pub trait Objective {
    /// Variables of its own, which are trained along.
    fn variables(&self) -> Vec<Variable> {
        Vec::new()
    }

    /// Whether it is the loss on held-out pieces that it makes small, so that the state
    /// where that was least is the one to keep.
    fn is_judged_by_held_out(&self) -> bool {
        true
    }

    /// Losses of a batch; where it is to learn, gradients are added to the variables'.
    fn losses(&mut self, network: &Network, batch: &Batch, learn: bool) -> Result<Vec<Part>>;
}

/// A run.
pub struct Trainer<'a> {
    network: &'a Network,
    training: &'a Training,
    optimizer: Optimizer,
    /// Running means of the variables, by name.
    average: BTreeMap<String, Tensor>,
    /// Variables where what was held out was best, or where all was well.
    best: BTreeMap<String, Tensor>,
    notes: Notes,
}

/// What is saved beside tensors.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Notes {
    step: u64,
    lines: Vec<Line>,
    best_loss: Option<f64>,
    /// Evaluations since.
    since_best: u64,
}

/// Lines that are kept at most: of older ones every second goes.
const LINES: usize = 20_000;

impl Notes {
    fn thin(&mut self) {
        if self.lines.len() >= LINES {
            let recent = self.lines.split_off(LINES - RECENT - BEFORE);
            self.lines = std::mem::take(&mut self.lines).into_iter().step_by(2).chain(recent).collect();
        }
    }
}

/// A loss is a sudden rise where the mean of so many steps
const RECENT: usize = 5;
/// is so many times the greatest
const RISE: f64 = 2.0;
/// of so many before them.
const BEFORE: usize = 50;

impl<'a> Trainer<'a> {
    /// Nothing is learnt yet.
    pub fn new(network: &'a Network, objective: &dyn Objective, training: &'a Training) -> Self {
        let optimizer = Optimizer::new(training, network.variables().into_iter().chain(objective.variables()).collect());
        let mut trainer = Self { network, training, optimizer, average: BTreeMap::new(), best: BTreeMap::new(), notes: Notes::default() };
        trainer.best = trainer.values();
        if training.ema_decay > 0.0 {
            trainer.average = trainer.values();
        }
        trainer
    }

    /// Trains to the end on pieces from number `first` on; it goes on from where `file` was
    /// saved, where it is there. What comes of it is in the network.
    pub fn run(
        &mut self,
        objective: &mut dyn Objective,
        pieces: &mut Pieces,
        first: u64,
        file: &Path,
        progress: &dyn Progress,
    ) -> Result<End> {
        if file.exists() {
            self.notes = state::restore(file, &mut self.tensors())?;
        }
        let steps = self.training.steps();
        progress.begin("training", steps * (self.training.batch * self.training.length) as u64, Unit::one("tokens"));
        progress.advance(self.notes.step * (self.training.batch * self.training.length) as u64);
        if self.notes.step == 0 && self.notes.best_loss.is_none() && self.training.evaluate_every > 0 {
            self.evaluate(objective, pieces)?;
        }
        let save_every = Duration::from_secs_f64(60.0 * self.training.save_minutes);
        let mut saved = Instant::now();
        let mut end = End::Finished;
        while self.notes.step < steps {
            if progress.is_interrupted() {
                state::save(file, &self.tensors(), &self.notes)?;
                return Err(Error::Interrupted);
            }
            self.step(objective, pieces, (first, steps), progress)?;
            progress.tell(&self.notes.lines.last().map_or(String::new(), |line| format!("loss {:.4}", line.loss)));
            if self.diverges() {
                end = End::Diverged;
                break;
            }
            let every = self.training.evaluate_every;
            if every > 0 && (self.notes.step.is_multiple_of(every) || self.notes.step == steps) {
                self.evaluate(objective, pieces)?;
                if self.training.patience > 0 && self.notes.since_best >= self.training.patience {
                    end = End::NoProgress;
                    break;
                }
            }
            if saved.elapsed() >= save_every {
                state::save(file, &self.tensors(), &self.notes)?;
                saved = Instant::now();
            }
            self.keep_a_sound_state();
            self.notes.thin();
        }
        progress.end();
        self.settle(end);
        Ok(end)
    }

    /// What was seen, a line a step.
    pub fn lines(&self) -> &[Line] {
        &self.notes.lines
    }

    fn step(
        &mut self,
        objective: &mut dyn Objective,
        pieces: &mut Pieces,
        (first, steps): (u64, u64),
        progress: &dyn Progress,
    ) -> Result<()> {
        let begin = Instant::now();
        let Training { batch, micro_batch, length, .. } = *self.training;
        self.optimizer.zero_grad();
        let first = first + self.notes.step * batch as u64;
        let drawn: Vec<Piece> = (first..first + batch as u64).map(|n| pieces.training(n)).collect();
        self.blend(self.notes.step);
        let parts = losses(self.network, objective, (self.notes.step, &drawn), (first, micro_batch), true, progress)?;
        let gradient_norm = self.optimizer.clip();
        let rate = learning_rate(self.training, self.notes.step, steps);
        let decay = weight_decay(self.training, self.notes.step, steps);
        let loss = parts.values().sum::<f64>();
        self.notes.step += 1;
        // What is not finite must not reach the weights.
        if loss.is_finite() && gradient_norm.is_finite() {
            self.optimizer.step(self.notes.step, rate, decay);
            self.follow();
        }
        self.notes.lines.push(Line {
            step: self.notes.step,
            tokens: self.notes.step * (batch * length) as u64,
            loss: if gradient_norm.is_finite() { loss } else { f64::NAN },
            parts: parts.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
            gradient_norm,
            learning_rate: rate,
            tokens_per_s: (batch * length) as f64 / begin.elapsed().as_secs_f64(),
            held_out: None,
        });
        Ok(())
    }

    /// Moves the running mean.
    fn follow(&mut self) {
        let _no_grad = tch::no_grad_guard();
        // Short at first: the weights that training starts from are soon forgotten.
        let steps = self.notes.step as f64;
        let past = self.training.ema_decay.min((1.0 + steps) / (10.0 + steps));
        for variable in self.optimizer.variables() {
            if let Some(mean) = self.average.get_mut(&variable.name) {
                let _ = mean.lerp_(&variable.tensor, 1.0 - past);
            }
        }
    }

    /// Loss on what was held out, and whether it is the best so far.
    fn evaluate(&mut self, objective: &mut dyn Objective, pieces: &mut Pieces) -> Result<()> {
        let own = self.values();
        self.assign(&self.average);
        self.blend(self.notes.step);
        let rises = self.network.rounded().is_some_and(Rounded::is_rising);
        // What is kept is what is good once all is rounded.
        self.blend(self.training.steps());
        let held_out = pieces.validation();
        let found =
            losses(self.network, objective, (self.notes.step, &held_out), (Batch::HELD_OUT, self.training.micro_batch), false, &Silent);
        let loss = found?.values().sum::<f64>();
        if let Some(line) = self.notes.lines.last_mut() {
            line.held_out = Some(loss);
        }
        // While rounding sets in, that is not what is learnt.
        self.notes.since_best += u64::from(!rises);
        if objective.is_judged_by_held_out() && loss.is_finite() && self.notes.best_loss.is_none_or(|best| loss < best) {
            (self.notes.best_loss, self.notes.since_best) = (Some(loss), 0);
            self.best = self.values();
        }
        self.assign(&own);
        Ok(())
    }

    /// Rounds as much as a step does.
    fn blend(&self, step: u64) {
        if let Some(rounded) = self.network.rounded() {
            rounded.at(step, self.training.steps());
        }
    }

    /// Whether the loss is no number or has risen suddenly.
    fn diverges(&self) -> bool {
        let lines = &self.notes.lines;
        // The more is rounded, the more the loss rises.
        if self.network.rounded().is_some_and(Rounded::is_rising) {
            return lines.last().is_some_and(|line| !line.loss.is_finite());
        }
        let (before, recent) = lines.split_at(lines.len().saturating_sub(RECENT));
        let before = &before[before.len().saturating_sub(BEFORE)..];
        let mean = recent.iter().map(|line| line.loss).sum::<f64>() / RECENT as f64;
        let greatest = before.iter().map(|line| line.loss).fold(0.0, f64::max);
        !lines.last().is_none_or(|line| line.loss.is_finite()) || before.len() == BEFORE && mean > RISE * greatest
    }

    /// Where nothing is judged by what was held out, now and then what there is takes the
    /// place of the best.
    fn keep_a_sound_state(&mut self) {
        if self.notes.best_loss.is_none() && self.notes.step.is_multiple_of(BEFORE as u64) {
            self.best = self.values();
        }
    }

    /// Leaves in the network what is kept: the best that was held out, or the average, or
    /// the last.
    fn settle(&mut self, end: End) {
        let best = self.notes.best_loss.is_some() || end == End::Diverged;
        self.assign(if best { &self.best } else { &self.average });
    }

    /// Copies of the variables, by name.
    fn values(&self) -> BTreeMap<String, Tensor> {
        self.optimizer.variables().map(|v| (v.name.clone(), v.tensor.detach().copy())).collect()
    }

    /// Gives variables the values there are for them.
    fn assign(&self, values: &BTreeMap<String, Tensor>) {
        let _no_grad = tch::no_grad_guard();
        for variable in self.optimizer.variables() {
            if let Some(value) = values.get(&variable.name) {
                variable.tensor.shallow_clone().copy_(value);
            }
        }
    }

    /// Everything that is saved, by name; the very tensors.
    fn tensors(&self) -> BTreeMap<String, Tensor> {
        let of = |what: &'static str, tensors: &BTreeMap<String, Tensor>| {
            tensors.iter().map(move |(name, tensor)| (format!("{name}:{what}"), tensor.shallow_clone())).collect::<Vec<_>>()
        };
        let mut all = self.optimizer.state();
        all.extend(of("average", &self.average));
        all.extend(of("best", &self.best));
        all
    }
}

/// Losses by name over pieces that are numbered from `first`, so many at a time.
fn losses(
    network: &Network,
    objective: &mut dyn Objective,
    (step, pieces): (u64, &[Piece]),
    (first, at_a_time): (u64, usize),
    learn: bool,
    progress: &dyn Progress,
) -> Result<BTreeMap<&'static str, f64>> {
    let scored = pieces.iter().flat_map(|piece| &piece.scored).filter(|&&scored| scored).count() as f64;
    let tokens = pieces.iter().map(|piece| piece.scored.len()).sum::<usize>() as f64;
    let mut sums = BTreeMap::new();
    for (i, pieces) in pieces.chunks(at_a_time).enumerate() {
        let from = first + (i * at_a_time) as u64;
        let batch = Batch { pieces, step, numbers: from..from + pieces.len() as u64, scored, tokens };
        for (name, value) in objective.losses(network, &batch, learn)? {
            *sums.entry(name).or_insert(0.0) += value;
        }
        progress.advance(pieces.iter().map(|piece| piece.scored.len() as u64).sum());
    }
    Ok(sums)
}
