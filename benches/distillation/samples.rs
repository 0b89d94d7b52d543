//! What a model writes by itself behind the beginnings of texts that it has not seen: how
//! likely its teacher finds it, and whether it repeats itself.
//!
//! Everyone continues the same beginnings, about as long as those that students of their own
//! texts continue as they learn. With none, what a text turns out to be about decides how
//! likely it is.

use crate::stats::mean;
use crate::subject::{Subject, TEXTS, WINDOWS};
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use thimble::compress::{Compute, TorchLogits};
use thimble::eval::{Protocol, evaluate};
use thimble::model::Window;
use thimble::progress::Silent;
use thimble::random::Random;
use thimble::runtime::{Activations, Decoder, KvCache, Model, Sampler, Step};

/// Of each beginning, of which each text has [`WINDOWS`].
const TIMES: usize = 4;
pub const SAMPLES: usize = TEXTS.len() * WINDOWS * TIMES;
/// Tokens that are given, behind the beginning of text, and those that are written.
pub const GIVEN: usize = 16;
pub const LENGTH: usize = 128;
/// Lengths of what is looked at for repetitions.
pub const GRAMS: [usize; 3] = [1, 2, 4];

/// Stream of random numbers.
const STREAM: u64 = 0x5a3d;

#[derive(Deserialize, Serialize)]
pub struct Samples {
    /// The teacher's mean log-likelihood of a token, by beginning.
    likelihoods: Vec<f64>,
    /// Shares of [`GRAMS`] that are no repetition of another.
    pub distinct: [f64; GRAMS.len()],
}

impl Samples {
    /// The subject is the teacher.
    pub fn of(model: &Model, subject: &Subject) -> Self {
        let windows = subject.windows().flat_map(|window| std::iter::repeat_n(&window.ids[..=GIVEN], TIMES));
        let texts = write(model, windows.map(<[u32]>::to_vec).collect());
        let mut judge = TorchLogits::new(subject.original.store.clone(), Compute::CPU);
        let mut likelihood = |texts: &[Vec<u32>]| {
            let windows: Vec<Window> = texts.iter().map(|ids| Window { ids: ids.clone(), scored: GIVEN..ids.len() - 1 }).collect();
            -evaluate(&mut judge, None, &windows, (Protocol::Bos, 1 + GIVEN + LENGTH), &Silent).unwrap().model.loss
        };
        let likelihoods = texts.chunks_exact(TIMES).map(&mut likelihood).collect();
        Self { likelihoods, distinct: GRAMS.map(|n| distinct(&texts, n)) }
    }

    /// The teacher's mean log-likelihood of a token.
    pub fn likelihood(&self) -> f64 {
        mean(&self.likelihoods).0
    }

    /// How much likelier than another's, and the standard error of that: beginning by
    /// beginning, which are the same for both.
    pub fn likelier_than(&self, other: &Self) -> (f64, f64) {
        mean(&self.likelihoods.iter().zip(&other.likelihoods).map(|(own, its)| own - its).collect::<Vec<_>>())
    }
}

/// Continues texts by [`LENGTH`] tokens, at temperature 1.
fn write(model: &Model, mut texts: Vec<Vec<u32>>) -> Vec<Vec<u32>> {
    let spec = model.spec();
    let decoder = Decoder::new(&*model.store, Activations::F32, 0).unwrap();
    let random = Random::new(0, STREAM);
    let mut caches: Vec<KvCache> = texts.iter().map(|_| KvCache::new(spec)).collect();
    for place in 0..LENGTH {
        let mut steps: Vec<Step> = caches.iter_mut().zip(&texts).map(|(cache, ids)| Step { ids: &ids[cache.len()..], cache }).collect();
        // All beginnings are as long: the last token of each is what is continued.
        let unread = steps[0].ids.len();
        let hidden = decoder.forward(&mut steps).unwrap();
        let last: Vec<f32> = hidden.chunks_exact(spec.hidden_size).skip(unread - 1).step_by(unread).flatten().copied().collect();
        let logits = decoder.logits(&last);
        for (i, (text, logits)) in texts.iter_mut().zip(logits.chunks_exact(spec.vocab_size)).enumerate() {
            text.push(Sampler::new(1.0, 1.0, random.bits(i as u64)).sample(logits, place as u64));
        }
    }
    texts
}

fn distinct(texts: &[Vec<u32>], n: usize) -> f64 {
    let all: Vec<&[u32]> = texts.iter().flat_map(|text| text[1 + GIVEN..].windows(n)).collect();
    all.iter().collect::<HashSet<_>>().len() as f64 / all.len() as f64
}
