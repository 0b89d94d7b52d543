//! Streams windows through a model, and a reference beside it, and keeps
//! statistics of each token only.

use super::Protocol;
use super::divergence::{kl, loss};
use super::tasks::Accuracy;
use crate::checkpoint::check_unchanged;
use crate::error::{Error, Result};
use crate::model::{LogitSource, Window, rows_at_a_time};
use crate::progress::{Progress, Unit};
use crate::runtime::argmax;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

/// What a text says of a model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// exp(loss)
    pub perplexity: f64,
    /// Mean negative log-likelihood, in nats.
    pub loss: f64,
    /// Tokens scored.
    pub tokens: usize,
    /// Windows read.
    pub windows: usize,
    /// Tokens of a window.
    pub window: usize,
    /// How they were cut.
    pub protocol: Protocol,
    /// The token that the protocol puts before each window, where it puts one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bos_token_id: Option<u32>,
    /// Against the reference, where there is one.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub divergence: Option<Divergence>,
    /// Accuracy, where tasks were put too.
    #[serde(default, skip_serializing_if = "Accuracy::is_empty")]
    pub tasks: Accuracy,
}

/// Distance from a reference over the scored positions.
///
/// Where the two have different numbers of rows (see [`crate::runtime::CommonVocabulary`]),
/// both distributions are those over the ids that both have, renormalised. Perplexity is that
/// of one model, over all its rows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Divergence {
    /// Mean KL(reference ‖ model), in nats.
    pub kl_mean: f64,
    /// Its 99th percentile.
    pub kl_p99: f64,
    /// Its greatest value.
    pub kl_max: f64,
    /// Share of positions where both put the same token first.
    pub top1_agreement: f64,
    /// Ids that were compared, where they are not all of both.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vocabulary_compared: Option<usize>,
}

/// What [`evaluate`] found.
pub struct Measured {
    /// The model, with its divergence where there is a reference.
    pub model: Evaluation,
    /// The reference on the same windows.
    pub reference: Option<Evaluation>,
}

struct Position {
    loss: f64,
    reference_loss: f64,
    kl: f64,
    agrees: bool,
}

/// Runs all windows. `window` and `protocol` are recorded as they are.
pub fn evaluate(
    model: &mut dyn LogitSource,
    mut reference: Option<&mut dyn LogitSource>,
    windows: &[Window],
    (protocol, window): (Protocol, usize),
    progress: &dyn Progress,
) -> Result<Measured> {
    let vocab = model.spec().vocab_size;
    let reference_vocab = reference.as_ref().map_or(vocab, |reference| reference.spec().vocab_size);
    let common = vocab.min(reference_vocab);
    let bos_token_id = protocol.bos(model.spec());
    let rows = reference.as_ref().map_or(usize::MAX, |reference| rows_at_a_time(reference.spec())).min(rows_at_a_time(model.spec()));
    let mut positions = Vec::new();
    progress.begin("evaluating", windows.len() as u64, Unit::one("windows"));
    for window in windows {
        progress.may_go_on()?;
        model.run_window(&window.ids)?;
        if let Some(reference) = reference.as_mut() {
            reference.run_window(&window.ids)?;
        }
        let mut start = window.scored.start;
        while start < window.scored.end {
            let some = start..(start + rows).min(window.scored.end);
            let logits = model.logits(some.clone())?;
            let targets = &window.ids[some.start + 1..some.end + 1];
            let ours = logits.par_chunks_exact(vocab).zip(targets);
            match reference.as_mut() {
                None => {
                    positions.par_extend(ours.map(|(l, &id)| Position { loss: loss(l, id), reference_loss: 0.0, kl: 0.0, agrees: true }))
                }
                Some(reference) => {
                    let theirs = reference.logits(some.clone())?;
                    positions.par_extend(ours.zip(theirs.par_chunks_exact(reference_vocab)).map(|((l, &id), r)| Position {
                        loss: loss(l, id),
                        reference_loss: loss(r, id),
                        kl: kl(&r[..common], &l[..common]),
                        agrees: argmax(&l[..common]) == argmax(&r[..common]),
                    }));
                }
            }
            start = some.end;
        }
        progress.advance(1);
    }
    progress.end();
    let mean = |of: fn(&Position) -> f64| positions.iter().map(of).sum::<f64>() / positions.len() as f64;
    let summary = |which: &str, loss: f64| {
        if !loss.is_finite() {
            return Err(Error::logits_overflow(None));
        }
        // A loss of 710 nats is of no language model.
        let perplexity = Error::expect_finite(&format!("the perplexity of the {which}, at a loss of {loss:.3e} nats,"), loss.exp())?;
        let (tokens, windows) = (positions.len(), windows.len());
        let (divergence, tasks) = (None, Accuracy::new());
        Ok(Evaluation { perplexity, loss, tokens, windows, window, protocol, bos_token_id, divergence, tasks })
    };
    check_unchanged()?;
    // First, since what is made from a broken reference is broken too.
    let reference = reference.is_some().then(|| summary("reference", mean(|p| p.reference_loss))).transpose()?;
    let mut model = summary("model", mean(|p| p.loss))?;
    if reference.is_some() {
        let kl_mean = Error::expect_finite("the KL divergence from the reference", mean(|p| p.kl))?;
        model.divergence = Some(divergence(&positions, kl_mean, (vocab != reference_vocab).then_some(common)));
    }
    Ok(Measured { model, reference })
}

fn divergence(positions: &[Position], kl_mean: f64, vocabulary_compared: Option<usize>) -> Divergence {
    let mut kl: Vec<f64> = positions.iter().map(|p| p.kl).collect();
    kl.sort_unstable_by(f64::total_cmp);
    // The nearest rank: the least value that 99 % of positions do not exceed.
    let rank = (0.99 * kl.len() as f64).ceil() as usize;
    Divergence {
        kl_mean,
        kl_p99: kl[rank - 1],
        kl_max: kl[kl.len() - 1],
        top1_agreement: positions.iter().filter(|p| p.agrees).count() as f64 / positions.len() as f64,
        vocabulary_compared,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{DenseModel, ModelSpec};
    use crate::progress::Silent;
    use std::ops::Range;

    /// Logits by a formula of position and token, of no more rows at once than are allowed.
    struct Formula {
        spec: ModelSpec,
        phase: usize,
        most_rows: usize,
    }

    impl Formula {
        fn row(&self, position: usize) -> impl Iterator<Item = f32> {
            let phase = self.phase;
            (0..self.spec.vocab_size).map(move |token| ((position * 7 + token * 13 + phase) % 29) as f32 / 5.0)
        }
    }

    impl LogitSource for Formula {
        fn spec(&self) -> &ModelSpec {
            &self.spec
        }
        fn run_window(&mut self, _ids: &[u32]) -> Result<()> {
            Ok(())
        }
        fn logits(&mut self, positions: Range<usize>) -> Result<Vec<f32>> {
            self.most_rows = self.most_rows.max(positions.len());
            Ok(positions.flat_map(|position| self.row(position).collect::<Vec<_>>()).collect())
        }
    }

    /// Loss and KL of a window whose logits are asked for in several chunks are those by the
    /// formulas over all rows, in f64.
    #[test]
    fn windows_are_scored_by_chunks_of_rows() {
        let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/fixtures/llama-gqa-tied");
        let spec = DenseModel::open_hugging_face(&dir).unwrap().spec().clone();
        let rows = rows_at_a_time(&spec);
        let (vocab, tokens) = (spec.vocab_size, 3 * rows + 5);
        let ids: Vec<u32> = (0..tokens).map(|i| (i * 11 % vocab) as u32).collect();
        let windows = [Window { ids: ids.clone(), scored: 0..tokens - 1 }];
        let [mut model, mut reference] = [0, 3].map(|phase| Formula { spec: spec.clone(), phase, most_rows: 0 });
        let found = evaluate(&mut model, Some(&mut reference), &windows, (Protocol::Plain, tokens), &Silent).unwrap();
        assert_eq!((model.most_rows, reference.most_rows), (rows, rows));

        let log_softmax = |source: &Formula, position: usize| {
            let row: Vec<f64> = source.row(position).map(f64::from).collect();
            let log_sum = row.iter().map(|logit| logit.exp()).sum::<f64>().ln();
            row.into_iter().map(|logit| logit - log_sum).collect::<Vec<_>>()
        };
        let (mut loss, mut kl) = (0.0, 0.0);
        for position in 0..tokens - 1 {
            let (q, p) = (log_softmax(&model, position), log_softmax(&reference, position));
            loss -= q[ids[position + 1] as usize];
            kl += p.iter().zip(&q).map(|(p, q)| p.exp() * (p - q)).sum::<f64>();
        }
        let scored = (tokens - 1) as f64;
        assert!((found.model.loss - loss / scored).abs() < 1e-5, "{}, not {}", found.model.loss, loss / scored);
        let kl_mean = found.model.divergence.unwrap().kl_mean;
        assert!((kl_mean - kl / scored).abs() < 1e-5, "{kl_mean}, not {}", kl / scored);
    }
}
