//! Teachers: a network that runs on every batch, or its cached predictions.

use super::cache::TopCache;
use super::divergence::Targets;
use super::matching::Matching;
use crate::compress::train::{Batch, Network, Recording, Segment, run};
use crate::error::Result;
use std::collections::BTreeMap;
use tch::Tensor;

/// A teacher.
pub enum Teacher {
    /// Runs on every batch.
    Network(Box<Network>),
    /// Cached predictions for the pieces of the corpus.
    Cache(TopCache),
}

/// Output of the teacher for a batch.
pub struct TeacherOutput<'a> {
    predictions: Predictions<'a>,
    /// What the student's segments are compared with, by the student's.
    pub segments: BTreeMap<usize, Segment>,
}

enum Predictions<'a> {
    /// Hidden states behind the last block `[tokens, hidden]`, of which logits are made as
    /// they are wanted.
    Hidden { network: &'a Network, hidden: Tensor },
    /// All of it.
    Top { ids: Tensor, log_probabilities: Tensor, log_rest: Tensor, vocabulary: i64 },
}

impl Teacher {
    /// Of a batch, whose sequences are what is read; `depth` segments of the student are
    /// compared, and where that is not all of them its prediction is not asked for.
    pub fn output(&self, batch: &Batch, sequences: &[&[u32]], matching: Option<&Matching>, depth: usize) -> Result<TeacherOutput<'_>> {
        match self {
            Teacher::Network(network) => {
                // Of the student's and of its own.
                let wanted: Vec<(usize, usize)> = (0..depth).filter_map(|own| matching?.teachers(own).map(|its| (own, its))).collect();
                let all = network.spec().blocks.len() + 1;
                let last = wanted.iter().map(|(_, its)| its + 1).max().unwrap_or(1);
                let whole = matching.is_none_or(|m| depth > m.map.len());
                let recording = Recording {
                    depth: if whole { all } else { last },
                    observe: matching.map_or(&[], Matching::observed),
                    checkpointing: false,
                };
                let mut segments = BTreeMap::new();
                let hidden = run(network, sequences, recording, &mut |segment, made| {
                    segments.extend(wanted.iter().filter(|(_, its)| *its == segment).map(|&(own, _)| (own, made.shallow_clone())));
                });
                let hidden = hidden.view([-1, *hidden.size().last().expect("[batch, tokens, hidden]")]);
                Ok(TeacherOutput { predictions: Predictions::Hidden { network, hidden }, segments })
            }
            Teacher::Cache(cache) => {
                let [ids, log_probabilities, log_rest] = cache.read(batch)?;
                Ok(TeacherOutput {
                    predictions: Predictions::Top { ids, log_probabilities, log_rest, vocabulary: cache.vocabulary() },
                    segments: BTreeMap::new(),
                })
            }
        }
    }
}

impl TeacherOutput<'_> {
    /// Of some of the batch's tokens.
    pub fn targets(&self, start: i64, count: i64) -> Targets {
        match &self.predictions {
            Predictions::Hidden { network, hidden } => {
                let _no_grad = tch::no_grad_guard();
                Targets::Logits(network.lm_head().forward(&hidden.narrow(0, start, count)))
            }
            Predictions::Top { ids, log_probabilities, log_rest, vocabulary } => {
                let some = |t: &Tensor| t.narrow(0, start, count);
                let [ids, log_probabilities, log_rest] = [ids, log_probabilities, log_rest].map(some);
                Targets::Top { ids, log_probabilities, log_rest, vocabulary: *vocabulary }
            }
        }
    }
}
