//! Structured pruning: `cargo bench --features torch --bench pruning -- [--tokens N] [--only TEXT]`
//! makes `benches/pruning.md`; `--tokens`, of a recovery, and `--only`, a part of ways'
//! names, make a run small: it prints its page, and leaves the committed one as it is.
//! What is made is kept in the build folder, so that a run that was stopped goes on. The
//! last line is JSON.

#[path = "../common/made.rs"]
mod made;
mod rows;
#[path = "../common/student.rs"]
mod student;
#[path = "../common/subject.rs"]
mod subject;

use clap::Parser;
use rows::{BEST, DEPTH, RATIOS, WAYS, Way};
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Instant;
use student::Student;
use subject::{Quality, Subject};
use thimble::eval::speed;
use thimble::runtime::{Activations, Decoder, Model};

const MODEL: &str = "house-6m";
/// Of a recovery.
const TOKENS: u64 = 500_000;
/// The point that a target is on.
const RATIO: f64 = 0.3;
/// Perplexity there, of the original's, at most.
const GREATEST: f64 = 1.1;
/// Timed in turns, original and pruned.
const ROUNDS: usize = 3;

#[derive(Parser)]
struct Choice {
    /// What a recovery is trained on.
    #[arg(long)]
    tokens: Option<u64>,
    /// A part of the names of the ways that are run.
    #[arg(long)]
    only: Option<String>,
    /// What cargo adds.
    #[arg(long, hide = true)]
    bench: bool,
}

/// One model.
struct Line {
    way: &'static Way,
    ratio: f64,
    solved: bool,
    tokens: u64,
    /// Of the parameters of blocks, what is left.
    left: f64,
    quality: Quality,
    /// Times as fast as the original: decode and prefill.
    speed: Option<[f64; 2]>,
}

fn main() {
    let choice = Choice::parse();
    let start = Instant::now();
    let subject = Subject::open(MODEL);
    let ways = || WAYS.iter().filter(|way| choice.only.as_ref().is_none_or(|only| way.name.contains(only.as_str())));
    let mut lines = Vec::new();
    for ratio in RATIOS {
        for way in ways() {
            for solved in if way.solves { vec![false, true] } else { vec![false] } {
                lines.push(measure(&subject, way, ratio, solved, 0));
            }
        }
    }
    let tokens = choice.tokens.unwrap_or(TOKENS);
    for ratio in RATIOS {
        for way in ways().filter(|way| [DEPTH, BEST].contains(&way.name)) {
            lines.push(measure(&subject, way, ratio, way.solves, tokens));
        }
    }
    let missed = missed(&subject, &lines);
    let page = page(&subject, &lines, &missed);
    print!("{page}");
    if choice.tokens.is_none() && choice.only.is_none() {
        std::fs::write(Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/pruning.md"), &page).unwrap();
    }
    let figures: Vec<Value> = lines.iter().map(Line::json).collect();
    println!("{}", json!({ "original": subject.before, "lines": figures, "missed": missed, "seconds": start.elapsed().as_secs_f64() }));
}

fn measure(subject: &Subject, way: &'static Way, ratio: f64, solved: bool, tokens: u64) -> Line {
    let Student { model, tokens, .. } = way.make(subject, ratio, solved, tokens);
    let count = |model: &Model| model.spec().block_parameter_count() as f64;
    let left = count(&model) / count(&subject.original);
    let quality = subject.quality(&model);
    // Widths decide it, and the same for all that are uniform.
    let speed = (way.name == DEPTH || way.name == BEST && solved).then(|| times_as_fast(&subject.original, &model));
    eprintln!("{}, {ratio}, solved {solved}, {tokens} tokens: {left:.3}, perplexity {:.4}, {speed:?}", way.name, quality.perplexity[0]);
    Line { way, ratio, solved, tokens, left, quality, speed }
}

/// Decode and prefill, medians of turns.
fn times_as_fast(original: &Model, pruned: &Model) -> [f64; 2] {
    let rates = |model: &Model| {
        let decoder = Decoder::new(&*model.store, Activations::F32, 0).unwrap();
        let speed = speed::measure(&decoder, 256, 96, 1).unwrap();
        [speed.decode_tokens_per_s, speed.prefill_tokens_per_s]
    };
    let mut ratios: Vec<[f64; 2]> = Vec::new();
    for _ in 0..ROUNDS {
        let (before, after) = (rates(original), rates(pruned));
        ratios.push([0, 1].map(|i| after[i] / before[i]));
    }
    [0, 1].map(|i| {
        ratios.sort_by(|a, b| a[i].total_cmp(&b[i]));
        ratios[ROUNDS / 2][i]
    })
}

impl Line {
    fn json(&self) -> Value {
        json!({ "way": self.way.name, "ratio": self.ratio, "solved": self.solved, "tokens": self.tokens, "left": self.left,
                "quality": self.quality, "times_as_fast": self.speed })
    }

    fn row(&self) -> String {
        let Quality { perplexity, kl } = &self.quality;
        let speed = self.speed.map_or_else(|| " | ".into(), |[decode, prefill]| format!("{decode:.2} | {prefill:.2}"));
        let solved = if self.solved { "solved" } else { "as they were" };
        format!(
            "| {} | {} % | {:.1} % | {solved} | {:.4} | {:.5} | {:.3} | {speed} |\n",
            self.way.name,
            100.0 * self.ratio,
            100.0 * (1.0 - self.left),
            perplexity[0],
            kl[0],
            perplexity[1]
        )
    }
}

fn page(subject: &Subject, lines: &[Line], missed: &[String]) -> String {
    let [home, away] = subject::TEXTS;
    let header = "| way | asked for | taken out | weights that stay | perplexity at home | KL | perplexity away | decode, times | prefill, times |\n\
                  |---|---|---|---|---|---|---|---|---|\n";
    let rows = |of: &dyn Fn(&Line) -> bool| lines.iter().filter(|line| of(line)).map(Line::row).collect::<String>();
    let tokens = lines.iter().map(|line| line.tokens).max().unwrap_or(0);
    let mut page = format!(
        "# Pruning\n\n`make bench-pruning`\n\n\
         {MODEL}, whose blocks have {} parameters: what is asked for and taken out is of these. Feed-forwards and key-value heads with \
         their query heads, in multiples of 16, on 64 sequences of {}; first {} windows of {} tokens of {} (home) and {} (away), protocol \
         `bos`, activations in f32. The original: {:.4} and {:.3}. Speeds are of the device's runtime in f32, beside the original in one \
         run.\n\n## Before any training\n\n{header}{}\n## After {:.2} million tokens of distillation\n\n\
         Forward KL from the unpruned model, by the defaults of `[stage.distil]`, on {}.\n\n{header}{}\n",
        subject.original.spec().block_parameter_count(),
        student::TEXTS[0],
        subject::WINDOWS,
        subject::WINDOW,
        home.1,
        away.1,
        subject.before[0],
        subject.before[1],
        rows(&|line| line.tokens == 0),
        tokens as f64 / 1e6,
        student::TEXTS.join(", "),
        rows(&|line| line.tokens > 0),
    );
    let verdict = if missed.is_empty() { "All are met.".to_owned() } else { format!("Missed:\n\n- {}", missed.join("\n- ")) };
    writeln!(
        page,
        "Targets: solving beats not solving at every point, by KL at home; behind the training the best of {} % is within {:.0} % of the \
         original's perplexity at home. {verdict}",
        100.0 * RATIO,
        100.0 * (GREATEST - 1.0)
    )
    .unwrap();
    page
}

fn missed(subject: &Subject, lines: &[Line]) -> Vec<String> {
    let kl = |line: &Line| line.quality.kl[0];
    let mut missed = Vec::new();
    for solved in lines.iter().filter(|line| line.solved && line.tokens == 0) {
        let same = |other: &&Line| !other.solved && other.tokens == 0 && other.way.name == solved.way.name && other.ratio == solved.ratio;
        if let Some(other) = lines.iter().find(same).filter(|other| kl(other) <= kl(solved)) {
            missed.push(format!("{}, {}: KL {:.5} solved, {:.5} as it was", solved.way.name, solved.ratio, kl(solved), kl(other)));
        }
    }
    let recovered = lines.iter().filter(|line| line.tokens > 0 && line.ratio == RATIO).map(|line| line.quality.perplexity[0]);
    let best = recovered.fold(f64::INFINITY, f64::min) / subject.before[0];
    if best.is_finite() && best > GREATEST {
        missed.push(format!("at {RATIO} the best is {best:.3} times the original's perplexity"));
    }
    missed
}

/// What this benchmark keeps from run to run.
fn kept() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("pruning")
}
