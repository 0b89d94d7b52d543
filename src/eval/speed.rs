//! How fast a decoder is: tokens per second, and memory bandwidth to compare with.

use crate::error::Result;
use crate::random::Random;
use crate::runtime::{Decoder, KvCache, Step};
use rayon::prelude::*;
use std::time::Instant;

/// Rates of one run.
#[derive(Clone, Copy, Debug)]
pub struct Speed {
    /// Prompt tokens per second, many at once.
    pub prefill_tokens_per_s: f64,
    /// Generated tokens per second, one by one.
    pub decode_tokens_per_s: f64,
}

/// Reads a random prompt, then decodes token by token; medians of `repeat` runs.
pub fn measure(decoder: &Decoder, prompt_tokens: usize, gen_tokens: usize, repeat: usize) -> Result<Speed> {
    let random = Random::new(0, 0);
    let vocab = decoder.spec().vocab_size as u64;
    let ids: Vec<u32> = (0..prompt_tokens + gen_tokens).map(|i| random.below(vocab, i as u64) as u32).collect();
    let (prompt, generated) = ids.split_at(prompt_tokens);
    let (mut prefill, mut decode) = (Vec::new(), Vec::new());
    for _ in 0..repeat {
        let mut cache = KvCache::new(decoder.spec());
        let start = Instant::now();
        std::hint::black_box(decoder.read(&mut cache, prompt)?);
        prefill.push(prompt.len() as f64 / start.elapsed().as_secs_f64());
        let start = Instant::now();
        for &id in generated {
            let hidden = decoder.forward(&mut [Step { cache: &mut cache, ids: &[id] }])?;
            std::hint::black_box(decoder.logits(&hidden));
        }
        decode.push(generated.len() as f64 / start.elapsed().as_secs_f64());
    }
    Ok(Speed { prefill_tokens_per_s: median(prefill), decode_tokens_per_s: median(decode) })
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 { values[middle] } else { (values[middle - 1] + values[middle]) / 2.0 }
}

/// Bytes per second that `threads` read from memory: the best of three passes
/// over 256 MiB, more than caches hold.
pub fn read_bandwidth(threads: usize) -> f64 {
    let buffer = vec![1u64; 32 << 20];
    let pass = || {
        let start = Instant::now();
        let sums = buffer.par_chunks(buffer.len() / threads).map(|part| part.iter().fold(0u64, |a, b| a ^ b));
        std::hint::black_box(sums.reduce(|| 0, |a, b| a ^ b));
        size_of_val(&buffer[..]) as f64 / start.elapsed().as_secs_f64()
    };
    (0..3).map(|_| pass()).fold(0.0, f64::max)
}
