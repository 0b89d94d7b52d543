//! Texts that a student writes, alone or with its teacher, by the device's runtime.

use crate::compress::train::Network;
use crate::error::Result;
use crate::quant::Assembled;
use crate::random::Random;
use crate::runtime::{Activations, Decoder, KvCache, Sampler, Step};
use crate::text::corpus::Piece;
use rayon::prelude::*;

/// How texts are written.
pub struct Writing {
    /// Tokens that are given.
    pub prompt: usize,
    /// What logits are divided by.
    pub temperature: f32,
    /// Share of the teacher in each choice, where there is one.
    pub teacher: f32,
    /// Tokens that may be chosen: those that student and teacher both have.
    pub vocabulary: usize,
    /// Of the random numbers: text i is written by number i of its stream.
    pub random: Random,
}

/// Texts with what sampling said of them.
pub struct Written {
    /// Of the length of those that were continued; what was given is not scored.
    pub pieces: Vec<Piece>,
    /// q / ((1 − share) q + share p) of each choice, q the student's probability and p the
    /// teacher's: what its part in a mean over the student's own texts is. `[pieces, tokens]`.
    pub importance: Vec<f32>,
}

/// A network as the runtime runs it.
pub fn decoder(network: &Network, threads: usize) -> Result<Decoder> {
    Decoder::new(&Assembled::new(network.spec().clone(), network.weights()), Activations::F32, threads)
}

impl Writing {
    /// Continues the beginnings of pieces to their length; `first` is the number of the
    /// first of them.
    pub fn write(&self, student: &Decoder, teacher: Option<&Decoder>, pieces: &[Piece], first: u64) -> Result<Written> {
        let whole = pieces[0].ids.len();
        let mut authors = vec![Author::new(student, pieces.len())];
        authors.extend(teacher.filter(|_| self.teacher > 0.0).map(|teacher| Author::new(teacher, pieces.len())));
        let mut texts: Vec<Vec<u32>> = pieces.iter().map(|piece| piece.ids[..self.prompt].to_vec()).collect();
        let mut importance = vec![1f32; pieces.len() * (whole - 1)];
        for place in self.prompt..whole {
            let said = authors.iter_mut().map(|author| author.next(&texts, self)).collect::<Result<Vec<_>>>()?;
            let of_texts = importance.par_chunks_exact_mut(whole - 1);
            texts.par_iter_mut().zip(of_texts).enumerate().for_each(|(i, (text, importance))| {
                let sampler = Sampler::new(1.0, 1.0, self.random.bits(first + i as u64));
                let own = &said[0][i];
                let chosen = match said.get(1) {
                    None => sampler.sample(own, place as u64),
                    Some(its) => {
                        let mixed: Vec<f32> = own.iter().zip(&its[i]).map(|(&q, &p)| self.mixture(q, p)).collect();
                        let chosen = sampler.sample(&mixed, place as u64);
                        importance[place - 1] = (own[chosen as usize] - mixed[chosen as usize]).exp();
                        chosen
                    }
                };
                text.push(chosen);
            });
        }
        let scored: Vec<bool> = (1..whole).map(|place| place >= self.prompt).collect();
        Ok(Written { pieces: texts.into_iter().map(|ids| Piece { ids, scored: scored.clone() }).collect(), importance })
    }

    /// Logarithm of the mixture of two probabilities, of their logarithms.
    fn mixture(&self, q: f32, p: f32) -> f32 {
        ((1.0 - self.teacher) * q.exp() + self.teacher * p.exp()).ln()
    }
}

/// A decoder on its way through all texts.
struct Author<'a> {
    decoder: &'a Decoder,
    caches: Vec<KvCache>,
}

impl<'a> Author<'a> {
    fn new(decoder: &'a Decoder, texts: usize) -> Self {
        Self { decoder, caches: (0..texts).map(|_| KvCache::new(decoder.spec())).collect() }
    }

    /// Logarithms of the probabilities of what follows each text.
    fn next(&mut self, texts: &[Vec<u32>], writing: &Writing) -> Result<Vec<Vec<f32>>> {
        let hidden_size = self.decoder.spec().hidden_size;
        let unread: Vec<&[u32]> = self.caches.iter().zip(texts).map(|(cache, text)| &text[cache.len()..]).collect();
        let ends: Vec<usize> = unread
            .iter()
            .scan(0, |end, ids| {
                *end += ids.len();
                Some(*end)
            })
            .collect();
        let mut steps: Vec<Step> = self.caches.iter_mut().zip(&unread).map(|(cache, ids)| Step { cache, ids }).collect();
        let hidden = self.decoder.read_all(&mut steps)?;
        let last: Vec<f32> = ends.iter().flat_map(|end| &hidden[(end - 1) * hidden_size..end * hidden_size]).copied().collect();
        let logits = self.decoder.logits(&last);
        let rows = logits.par_chunks_exact(self.decoder.spec().vocab_size);
        Ok(rows.map(|logits| log_softmax(&logits[..writing.vocabulary], writing.temperature)).collect())
    }
}

fn log_softmax(logits: &[f32], temperature: f32) -> Vec<f32> {
    let greatest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let total: f32 = logits.iter().map(|l| ((l - greatest) / temperature).exp()).sum();
    let log_total = total.ln();
    logits.iter().map(|l| (l - greatest) / temperature - log_total).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mixture_of_one_is_that_one() {
        let writing = |teacher| Writing { prompt: 1, temperature: 1.0, teacher, vocabulary: 4, random: Random::new(0, 0) };
        assert!((writing(0.25).mixture(0.5f32.ln(), 0.1f32.ln()) - 0.4f32.ln()).abs() < 1e-6);
        let flat = log_softmax(&[1.0, 1.0, 1.0, 1.0], 0.5);
        assert!(flat.iter().all(|x| (x - 0.25f32.ln()).abs() < 1e-6));
        let sharp = log_softmax(&[0.0, 2.0], 0.5);
        assert!((sharp[0] - sharp[1] + 4.0).abs() < 1e-5);
    }
}
