//! What a page says, and what its part misses.

use crate::rows::MULTIPLE;
use crate::subject::{self, Quality, Subject};
use crate::{Line, MODEL, student};
use std::fmt::Write as _;

pub fn page(subject: &Subject, lines: &[Line]) -> String {
    let [home, away] = subject::TEXTS;
    let tokens = lines.iter().map(|line| line.tokens).max().unwrap_or(0);
    let training = match tokens {
        0 => String::new(),
        tokens => format!(
            " Then {:.2} million tokens of distillation, forward KL from the unpruned model, by the defaults of `[stage.distil]`, on {}.",
            tokens as f64 / 1e6,
            student::TEXTS.join(", ")
        ),
    };
    let mut page = format!(
        "{MODEL}, whose blocks have {} parameters: what is asked for and taken out is of these. Feed-forwards and key-value heads with \
         their query heads, in multiples of {MULTIPLE}, on 64 sequences of {}.{training} First {} windows of {} tokens of {} (home) and {} \
         (away), protocol `bos`, activations in f32. The original: perplexity {:.4} and {:.3}. Speeds are of the device's runtime on \
         what is written, beside the original in 16 bits too, in one run; they are noisy (layers by block influence are one \
         model at 10 % and 20 %).\n\n\
         | way | asked for | taken out | weights that stay | perplexity at home | KL | perplexity away | decode, times | prefill, times |\n\
         |---|---|---|---|---|---|---|---|---|\n",
        subject.original.spec().block_parameter_count(),
        student::TEXTS[0],
        subject::WINDOWS,
        subject::WINDOW,
        home.1,
        away.1,
        subject.before[0],
        subject.before[1],
    );
    for Line { way, ratio, solved, left, quality: Quality { perplexity, kl }, speed, .. } in lines {
        let speed = speed.map_or_else(|| " | ".into(), |[decode, prefill]| format!("{decode:.2} | {prefill:.2}"));
        let solved = if *solved { "solved" } else { "as they were" };
        let (asked, out) = (100.0 * ratio, 100.0 * (1.0 - left));
        let quality = format!("{:.4} | {:.5} | {:.3}", perplexity[0], kl[0], perplexity[1]);
        writeln!(page, "| {} | {asked:.0} % | {out:.1} % | {solved} | {quality} | {speed} |", way.name).unwrap();
    }
    page
}

pub fn unsolved_is_better(_: &Subject, lines: &[Line]) -> Vec<String> {
    let kl = |line: &Line| line.quality.kl[0];
    let worse = |solved: &Line| {
        let same = |other: &&Line| !other.solved && other.way.name == solved.way.name && other.ratio == solved.ratio;
        let other = lines.iter().find(same).filter(|other| kl(other) <= kl(solved))?;
        Some(format!("{}, {}: KL {:.5} solved, {:.5} as it was", solved.way.name, solved.ratio, kl(solved), kl(other)))
    };
    lines.iter().filter(|line| line.solved).filter_map(worse).collect()
}

/// Where the target is, and perplexity there, of the original's, at most.
const RATIO: f64 = 0.3;
const GREATEST: f64 = 1.1;

pub fn far_from_the_original(subject: &Subject, lines: &[Line]) -> Vec<String> {
    let there = lines.iter().filter(|line| line.ratio == RATIO).map(|line| line.quality.perplexity[0]);
    let best = there.fold(f64::INFINITY, f64::min) / subject.before[0];
    let is_far = best.is_finite() && best > GREATEST;
    is_far.then(|| format!("the best is {best:.3} times the original's perplexity")).into_iter().collect()
}
