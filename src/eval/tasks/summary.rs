//! From items to figures.

use super::mcnemar::mcnemar;
use super::read::Kind;
use super::score::{ItemScore, TaskItems};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Scores by the names of tasks.
pub type Accuracy = BTreeMap<String, TaskScore>;

/// What a task says of a model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TaskScore {
    /// Share of items that are right.
    pub acc: f64,
    /// The same by likelihood a byte, where continuations differ and one is chosen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acc_norm: Option<f64>,
    /// Standard error of `acc`: √(p(1 − p)/(n − 1)). One item has none.
    pub stderr: Option<f64>,
    /// Of `acc_norm`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acc_norm_stderr: Option<f64>,
    /// Items.
    pub n: usize,
    /// exp(−mean log-likelihood of a continuation), where a word is to be found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub perplexity: Option<f64>,
    /// Against the reference, where there is one.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub against: Option<Against>,
}

/// A reference on the same items.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Against {
    /// Its own score.
    pub reference: Box<TaskScore>,
    /// `acc` item by item.
    pub paired: Paired,
    /// `acc_norm` item by item.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paired_norm: Option<Paired>,
}

/// Two models on the same items.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Paired {
    /// Score of the model less that of the reference.
    pub difference: f64,
    /// Items that only the model has right.
    pub gained: usize,
    /// Items that only the reference has right.
    pub lost: usize,
    /// McNemar's exact test, two-sided: how often models of equal accuracy would
    /// differ so much on these items.
    pub p_value: f64,
}

impl TaskScore {
    fn of(task: &TaskItems) -> Self {
        let n = task.items.len();
        let (acc, stderr) = share(task.right());
        let norm = task.right_norm().map(share);
        Self {
            acc,
            acc_norm: norm.map(|(acc, _)| acc),
            stderr,
            acc_norm_stderr: norm.and_then(|(_, stderr)| stderr),
            n,
            // Of continuations of many hundred tokens it may be beyond what a number holds.
            perplexity: (task.kind == Kind::Cloze).then(|| task.perplexity()).filter(|perplexity| perplexity.is_finite()),
            against: None,
        }
    }
}

impl TaskItems {
    fn right(&self) -> Vec<bool> {
        self.items.iter().map(|item| item.right(self.kind)).collect()
    }

    fn right_norm(&self) -> Option<Vec<bool>> {
        let right = |item: &ItemScore| item.chosen_norm == item.gold;
        (self.kind == Kind::Choices).then(|| self.items.iter().map(right).collect())
    }
}

/// A share, and its standard error.
fn share(right: Vec<bool>) -> (f64, Option<f64>) {
    let n = right.len();
    let p = right.iter().filter(|right| **right).count() as f64 / n as f64;
    (p, (n > 1).then(|| (p * (1.0 - p) / (n - 1) as f64).sqrt()))
}

fn paired(model: &[bool], reference: &[bool]) -> Paired {
    let count = |of_model: bool| model.iter().zip(reference).filter(|(m, r)| m != r && **m == of_model).count();
    let (gained, lost) = (count(true), count(false));
    let difference = (gained as f64 - lost as f64) / model.len() as f64;
    Paired { difference, gained, lost, p_value: mcnemar(gained, lost) }
}

/// Scores of a model, against a reference on the same tasks where there is one.
pub fn compare(model: &[TaskItems], reference: Option<&[TaskItems]>) -> Accuracy {
    let score = |(i, task): (usize, &TaskItems)| {
        let against = reference.map(|reference| &reference[i]).map(|other| Against {
            reference: Box::new(TaskScore::of(other)),
            paired: paired(&task.right(), &other.right()),
            paired_norm: task.right_norm().zip(other.right_norm()).map(|(model, other)| paired(&model, &other)),
        });
        (task.name.clone(), TaskScore { against, ..TaskScore::of(task) })
    };
    model.iter().enumerate().map(score).collect()
}
