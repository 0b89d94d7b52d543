//! What a model writes by itself: how likely its teacher finds it, and whether it
//! repeats itself.

use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use thimble::compress::{Compute, TorchLogits};
use thimble::eval::{Protocol, evaluate};
use thimble::model::Window;
use thimble::progress::Silent;
use thimble::random::Random;
use thimble::runtime::{Activations, Decoder, KvCache, Model, Sampler, Step};

/// Many: what a text is about decides most of how likely it is.
pub const SAMPLES: usize = 512;
pub const LENGTH: usize = 128;
/// Lengths of what is looked at for repetitions.
pub const GRAMS: [usize; 3] = [1, 2, 4];

/// Stream of random numbers.
const STREAM: u64 = 0x5a3d;

#[derive(Deserialize, Serialize)]
pub struct Samples {
    /// The teacher's mean log-likelihood of a token.
    pub likelihood: f64,
    /// Shares of [`GRAMS`] that are no repetition of another.
    pub distinct: [f64; GRAMS.len()],
}

impl Samples {
    pub fn of(model: &Model, teacher: &Model) -> Self {
        let texts = write(model);
        let windows: Vec<Window> = texts.iter().map(|ids| Window { ids: ids.clone(), scored: 0..ids.len() - 1 }).collect();
        let mut judge = TorchLogits::new(teacher.store.clone(), Compute::CPU);
        let found = evaluate(&mut judge, None, &windows, (Protocol::Bos, LENGTH + 1), &Silent).unwrap();
        Self { likelihood: -found.model.loss, distinct: GRAMS.map(|n| distinct(&texts, n)) }
    }
}

/// Texts of [`LENGTH`] tokens behind a beginning, at temperature 1.
fn write(model: &Model) -> Vec<Vec<u32>> {
    let spec = model.spec();
    let decoder = Decoder::new(&*model.store, Activations::F32, 0).unwrap();
    let random = Random::new(0, STREAM);
    let mut texts = vec![vec![spec.special.bos.expect("a beginning of text")]; SAMPLES];
    let mut caches: Vec<KvCache> = texts.iter().map(|_| KvCache::new(spec)).collect();
    for place in 0..LENGTH {
        let last: Vec<[u32; 1]> = texts.iter().map(|text| [text[place]]).collect();
        let mut steps: Vec<Step> = caches.iter_mut().zip(&last).map(|(cache, ids)| Step { cache, ids }).collect();
        let logits = decoder.logits(&decoder.forward(&mut steps).unwrap());
        for (i, (text, logits)) in texts.iter_mut().zip(logits.chunks_exact(spec.vocab_size)).enumerate() {
            text.push(Sampler::new(1.0, 1.0, random.bits(i as u64)).sample(logits, place as u64));
        }
    }
    texts
}

fn distinct(texts: &[Vec<u32>], n: usize) -> f64 {
    let all: Vec<&[u32]> = texts.iter().flat_map(|text| text[1..].windows(n)).collect();
    all.iter().collect::<HashSet<_>>().len() as f64 / all.len() as f64
}
