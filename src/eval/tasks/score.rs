//! Log-likelihoods of items.

use super::prompt::{Ask, Reader};
use super::read::{Item, Kind, Task};
use crate::checkpoint::check_unchanged;
use crate::error::{Error, Result};
use crate::eval::divergence::loss;
use crate::model::{LogitSource, Window};
use crate::progress::{Progress, Unit};
use crate::runtime::argmax;
use crate::text::Tokenizer;
use rayon::prelude::*;
use serde::Serialize;

/// A model that is asked: each reads the texts by its own tokenizer.
pub struct Subject<'a> {
    /// What predicts.
    pub source: &'a mut dyn LogitSource,
    /// What its tokens are.
    pub tokenizer: &'a Tokenizer,
}

/// A task's items, scored.
#[derive(Clone, Debug, PartialEq)]
pub struct TaskItems {
    /// Name of the task.
    pub name: String,
    /// What it asks.
    pub kind: Kind,
    /// In the order of the file.
    pub items: Vec<ItemScore>,
}

impl TaskItems {
    /// exp(−mean log-likelihood of the right answers).
    pub(super) fn perplexity(&self) -> f64 {
        let sum: f64 = self.items.iter().map(|item| item.loglikelihoods[item.gold]).sum();
        (-sum / self.items.len() as f64).exp()
    }
}

/// What a model makes of an item.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ItemScore {
    /// Where it stands in its file, from 1.
    pub line: usize,
    /// Of each answer: the sum over its tokens, in nats.
    pub loglikelihoods: Vec<f64>,
    /// Tokens of each answer's continuation.
    pub tokens: Vec<usize>,
    /// UTF-8 bytes of each answer's continuation, its leading blank counted.
    pub bytes: Vec<usize>,
    /// Whether each of an answer's tokens is the likeliest.
    pub greedy: Vec<bool>,
    /// The answer of the largest sum, the first of equal ones.
    pub chosen: usize,
    /// The answer of the largest sum a byte.
    pub chosen_norm: usize,
    /// The right one.
    pub gold: usize,
}

impl ItemScore {
    /// Whether it counts as right.
    pub fn right(&self, kind: Kind) -> bool {
        match kind {
            Kind::Choices | Kind::Reversed => self.chosen == self.gold,
            Kind::Cloze => self.greedy[self.gold],
        }
    }
}

/// Tokens whose windows are handed over at a time: so many that the short ones fill
/// what a decoder reads together.
const TOKENS_AT_A_TIME: usize = 2048;

/// Puts all tasks to a model.
pub fn measure(subject: &mut Subject, tasks: &[Task], ask: Ask, progress: &dyn Progress) -> Result<Vec<TaskItems>> {
    tasks.iter().try_for_each(|task| ask.check(task))?;
    tasks.iter().map(|task| measure_task(subject, task, ask, progress)).collect()
}

fn measure_task(subject: &mut Subject, task: &Task, ask: Ask, progress: &dyn Progress) -> Result<TaskItems> {
    let (items, reader) = (ask.items(task), Reader::new(subject.tokenizer));
    progress.begin(&task.name, items.len() as u64, Unit::one("items"));
    let (mut scored, mut waiting, mut tokens) = (Vec::with_capacity(items.len()), Vec::new(), 0);
    for (i, item) in items.iter().enumerate() {
        let windows = reader.windows(item, &ask.examples(task, i), subject.source.spec());
        let windows = windows.map_err(|reason| Error::format(&task.path, format!("line {}: {reason}", item.line)))?;
        tokens += windows.iter().map(|w| w.ids.len()).sum::<usize>();
        waiting.extend(windows);
        if tokens >= TOKENS_AT_A_TIME || i + 1 == items.len() {
            let mut found = likelihoods(subject.source, &waiting)?.into_iter();
            let before = scored.len();
            scored.extend(items[before..=i].iter().map(|item| score(item, found.by_ref().take(item.answers.len()))));
            progress.advance((scored.len() - before) as u64);
            progress.may_go_on()?;
            (waiting, tokens) = (Vec::new(), 0);
        }
    }
    progress.end();
    check_unchanged()?;
    Ok(TaskItems { name: task.name.clone(), kind: task.kind, items: scored })
}

/// What a model makes of a window's scored tokens.
#[derive(Clone, Copy)]
struct Likelihood {
    sum: f64,
    tokens: usize,
    greedy: bool,
}

fn likelihoods(source: &mut dyn LogitSource, windows: &[Window]) -> Result<Vec<Likelihood>> {
    let vocab = source.spec().vocab_size;
    let mut found = vec![Likelihood { sum: 0.0, tokens: 0, greedy: true }; windows.len()];
    source.run_windows(windows, &mut |places, logits| {
        let of_place = |(place, logits): (&crate::model::ScoredPosition, &[f32])| {
            let token = windows[place.window].ids[place.position + 1];
            (loss(logits, token), argmax(logits) == token)
        };
        let of_places: Vec<_> = places.par_iter().zip(logits.par_chunks_exact(vocab)).map(of_place).collect();
        for (place, (loss, greedy)) in places.iter().zip(of_places) {
            let found = &mut found[place.window];
            *found = Likelihood { sum: found.sum - loss, tokens: found.tokens + 1, greedy: found.greedy && greedy };
        }
    })?;
    if found.iter().any(|f| !f.sum.is_finite()) {
        return Err(Error::logits_overflow(None));
    }
    Ok(found)
}

fn score(item: &Item, found: impl Iterator<Item = Likelihood>) -> ItemScore {
    let found: Vec<_> = found.collect();
    let loglikelihoods: Vec<_> = found.iter().map(|f| f.sum).collect();
    let bytes: Vec<_> = item.answers.iter().map(|a| a.continuation.len()).collect();
    let by_byte: Vec<_> = loglikelihoods.iter().zip(&bytes).map(|(sum, &bytes)| sum / bytes as f64).collect();
    ItemScore {
        line: item.line,
        chosen: greatest(&loglikelihoods),
        chosen_norm: greatest(&by_byte),
        loglikelihoods,
        tokens: found.iter().map(|f| f.tokens).collect(),
        bytes,
        greedy: found.iter().map(|f| f.greedy).collect(),
        gold: item.gold,
    }
}

/// The place of the greatest, the first of equal ones.
fn greatest(values: &[f64]) -> usize {
    (1..values.len()).fold(0, |best, i| if values[i] > values[best] { i } else { best })
}
