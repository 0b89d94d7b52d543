//! Peak memory of a training step with blocks computed again for their gradients, and
//! without, each in a process of its own.

use crate::Choice;
use crate::benchmark::Found;
use crate::process::{numbers, said};
use crate::random_llama::Shape;
use crate::stats::median;
use crate::step::{WARMING, WORD};
use crate::subject::Subject;
use crate::work::{BATCH, LENGTH, Work};
use serde_json::json;
use std::fmt::Write as _;
use std::process::Command;

const SHAPE: Shape = Shape { hidden: 512, ffn: 1536, heads: 8, kv_heads: 4, vocab: 4096, layers: 12 };
const STEPS: usize = 5;

/// What becomes of the memory beyond the weights', and of the time.
const SHARE: f64 = 0.5;
const LONGER: f64 = 1.5;

struct Cost {
    bytes: f64,
    seconds: f64,
}

pub fn compare(choice: &Choice) -> Found {
    let subject = Subject::open("house-6m");
    let work = Work::new(&subject, &SHAPE, choice.cut.steps.unwrap_or(STEPS).max(WARMING + 1));
    let [without, with] = [&[][..], &["--checkpointing"]].map(|words| cost(&work, words));
    // Weights, gradients and two running means, in f32.
    let weights = 16.0 * parameters(&SHAPE) as f64;
    let mut page = format!(
        "## Memory of a training step\n\n\
         A random Llama {} wide, feed-forward {}, {} layers, {BATCH} sequences of {LENGTH} tokens, f32, hard labels. Weights, gradients \
         and AdamW's means are {:.0} MB of each peak.\n\n\
         | blocks | peak of anonymous memory | beyond those | a step |\n|---|---|---|---|\n",
        SHAPE.hidden,
        SHAPE.ffn,
        SHAPE.layers,
        weights / 1e6
    );
    for (name, Cost { bytes, seconds }) in [("kept", &without), ("computed again", &with)] {
        writeln!(page, "| {name} | {:.0} MB | {:.0} MB | {seconds:.2} s |", bytes / 1e6, (bytes - weights) / 1e6).unwrap();
    }
    let share = (with.bytes - weights) / (without.bytes - weights);
    let longer = with.seconds / without.seconds;
    let mut missed = Vec::new();
    if share > SHARE {
        missed.push(format!("computed again: {share:.2} of the memory"));
    }
    if longer > LONGER {
        missed.push(format!("computed again: {longer:.2} times as long"));
    }
    let targets = format!("computed again, at most {SHARE} of the memory beyond the weights', and {LONGER} times the time.");
    let figures = json!({ "bytes": [without.bytes, with.bytes], "weights": weights, "seconds": [without.seconds, with.seconds] });
    Found::new(page, figures, &targets, missed)
}

fn cost(work: &Work, words: &[&str]) -> Cost {
    let mut run = Command::new(std::env::current_exe().unwrap());
    run.arg(WORD).args(work.arguments()).args(words);
    let said = said(run);
    let seconds = median(numbers(&said, "seconds")[WARMING..].iter().copied());
    Cost { bytes: said["peak_anonymous_bytes"].as_f64().unwrap(), seconds }
}

fn parameters(shape: &Shape) -> usize {
    let &Shape { hidden, ffn, heads, kv_heads, vocab, layers } = shape;
    let kv = hidden / heads * kv_heads;
    let block = 2 * hidden * hidden + 2 * hidden * kv + 3 * hidden * ffn + 2 * hidden;
    vocab * hidden + layers * block + hidden
}
