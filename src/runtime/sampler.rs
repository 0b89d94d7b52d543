//! Choosing the next token.

use crate::random::Random;

/// Temperature and nucleus sampling; temperature 0 is greedy.
#[derive(Clone, Copy, Debug)]
pub struct Sampler {
    temperature: f32,
    top_p: f32,
    random: Random,
}

impl Sampler {
    /// `top_p` 1 keeps every token (Holtzman et al. 2020, section 3.1).
    pub fn new(temperature: f32, top_p: f32, seed: u64) -> Self {
        Self { temperature, top_p, random: Random::new(seed, 0) }
    }

    /// The token after position `counter`; the same for the same logits, seed and
    /// counter.
    pub fn sample(&self, logits: &[f32], counter: u64) -> u32 {
        if self.temperature <= 0.0 {
            return argmax(logits);
        }
        let greatest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let mut weights: Vec<(f32, u32)> = logits.iter().zip(0..).map(|(l, id)| (((l - greatest) / self.temperature).exp(), id)).collect();
        let total: f32 = weights.iter().map(|w| w.0).sum();
        let mut kept = total;
        if self.top_p < 1.0 {
            weights.sort_unstable_by(|a, b| b.0.total_cmp(&a.0));
            let mut sum = 0.0;
            let end = weights.iter().position(|w| {
                sum += w.0;
                sum >= self.top_p * total
            });
            weights.truncate(end.map_or(weights.len(), |end| end + 1));
            kept = weights.iter().map(|w| w.0).sum();
        }
        let mut left = self.random.uniform(counter) as f32 * kept;
        let chosen = weights.iter().find(|w| {
            left -= w.0;
            left < 0.0
        });
        chosen.or(weights.last()).map_or(0, |w| w.1)
    }
}

/// The first of the greatest logits.
pub fn argmax(logits: &[f32]) -> u32 {
    let best = logits.iter().enumerate().fold((0, f32::NEG_INFINITY), |best, (i, &l)| if l > best.1 { (i, l) } else { best });
    best.0 as u32
}
