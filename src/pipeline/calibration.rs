//! Calibration sequences: pieces of a text, or sampled from the model itself.

use crate::error::{Error, Result};
use crate::eval::Protocol;
use crate::model::{ModelSpec, expect_finite};
use crate::progress::{Progress, Unit};
use crate::random::Random;
use crate::recipe::{Calibration, Recipe};
use crate::runtime::{Activations, Decoder, KvCache, Model, Sampler, Step};
use crate::spec::Op;
use crate::text::Text;

/// Most sequences sampled together …
const BATCH: usize = 16;
/// … and most bytes of their keys and values, unless one sequence has more.
const CACHE_BYTES: usize = 256 << 20;
/// Windows of held-out text that are sampled where the recipe names none.
const SELF_WINDOWS: usize = 16;
/// Streams of random numbers, so that no draw depends on another.
const PLACES: u64 = 1;
const STARTS: u64 = 2;
const SAMPLES: u64 = 3;
const HELD_OUT: u64 = 4;

/// Sequences of `recipe.length` tokens, each with the tokens first that the tokenizer puts before
/// a text. Fewer than asked for where the text is too short.
pub fn sequences(
    model: &Model,
    text: Option<&Text>,
    recipe: &Calibration,
    threads: usize,
    progress: &dyn Progress,
) -> Result<Vec<Vec<u32>>> {
    let Some(text) = text else {
        return sample(model, recipe.sequences, recipe.length, recipe.seed, threads, progress);
    };
    let prefix = model.spec().special.prefix();
    let ids = text.ids(model.tokenizer()?, progress)?;
    let piece = recipe.length.checked_sub(prefix.len()).filter(|&piece| piece > 0).ok_or_else(|| {
        Error::Usage(format!("calibration length = {}: the tokenizer puts {} tokens before each sequence", recipe.length, prefix.len()))
    })?;
    let mut places: Vec<usize> = (0..ids.len() / piece).collect();
    if places.is_empty() {
        let reason = format!(
            "the calibration text has {} tokens, less than one sequence of {}: use a longer text or a shorter length",
            ids.len(),
            recipe.length
        );
        return Err(Error::Usage(reason));
    }
    if places.len() < recipe.sequences {
        tracing::warn!("the calibration text is enough for {} sequences of {}, not for {}", places.len(), recipe.length, recipe.sequences);
    }
    Random::new(recipe.seed, PLACES).shuffle(&mut places, recipe.sequences);
    places.truncate(recipe.sequences);
    let sequence = |p: usize| Ok([prefix, &ids.read(p * piece..(p + 1) * piece)?].concat());
    places.into_iter().map(sequence).collect()
}

/// A held-out stream from the model itself, of other random numbers than the
/// calibration's.
pub fn self_text(model: &Model, recipe: &Recipe, threads: usize, progress: &dyn Progress) -> Result<Vec<u32>> {
    let windows = recipe.evaluate.max_windows.unwrap_or(SELF_WINDOWS);
    let seed = Random::new(recipe.calibration.seed, HELD_OUT).bits(0);
    let sampled = sample(model, windows, recipe.evaluate.window, seed, threads, progress)?;
    // Each sample is to be one window: a protocol that puts a beginning of text
    // before each piece gets pieces without the sample's own.
    let skip = usize::from(recipe.evaluate.protocol == Protocol::Bos);
    Ok(sampled.iter().flat_map(|s| &s[skip..]).copied().collect())
}

/// Samples at temperature 1, each from what the tokenizer puts before a text, or else from a random token.
fn sample(model: &Model, count: usize, length: usize, seed: u64, threads: usize, progress: &dyn Progress) -> Result<Vec<Vec<u32>>> {
    let spec = model.spec();
    let decoder = Decoder::new(&*model.store, Activations::F32, threads)?;
    let (start, samples) = (Random::new(seed, STARTS), Random::new(seed, SAMPLES));
    let first = |i: usize| match spec.special.prefix() {
        [] => vec![start.below(spec.vocab_size as u64, i as u64) as u32],
        prefix => prefix[..prefix.len().min(length)].to_vec(),
    };
    let mut all: Vec<Vec<u32>> = (0..count).map(first).collect();
    progress.begin("sampling from the model", (count * length) as u64, Unit::one("tokens"));
    let at_a_time = batch(spec, length);
    for (batch, sequences) in all.chunks_mut(at_a_time).enumerate() {
        let mut caches: Vec<_> = sequences.iter().map(|_| KvCache::new(spec)).collect();
        // Of several tokens that come first, the last one begins the loop.
        for (cache, sequence) in caches.iter_mut().zip(&*sequences).filter(|(_, sequence)| sequence.len() > 1) {
            decoder.read(cache, &sequence[..sequence.len() - 1])?;
        }
        while sequences[0].len() < length {
            let last: Vec<[u32; 1]> = sequences.iter().map(|s| [s[s.len() - 1]]).collect();
            let mut steps: Vec<_> = caches.iter_mut().zip(&last).map(|(cache, ids)| Step { cache, ids }).collect();
            let logits = decoder.logits(&decoder.forward(&mut steps)?);
            for (i, (sequence, logits)) in sequences.iter_mut().zip(logits.chunks_exact(spec.vocab_size)).enumerate() {
                expect_finite(logits, sequence.len() - 1)?;
                let sampler = Sampler::new(1.0, 1.0, samples.bits((batch * at_a_time + i) as u64));
                sequence.push(sampler.sample(logits, sequence.len() as u64));
            }
            progress.advance(sequences.len() as u64);
            progress.may_go_on()?;
        }
    }
    progress.end();
    Ok(all)
}

/// Sequences of a length that are sampled together: keys and values grow with every block.
fn batch(spec: &ModelSpec, length: usize) -> usize {
    let width = |op: &Op| match op {
        Op::Attention(attention) => 2 * attention.kv_width(),
        Op::Wkv(_) | Op::FeedForward(_) => 0,
    };
    let widths = spec.blocks.iter().flat_map(|block| &block.sub_layers).map(|sub_layer| width(&sub_layer.op));
    let bytes = widths.sum::<usize>() * length * size_of::<f32>();
    (CACHE_BYTES / bytes.max(1)).clamp(1, BATCH)
}
