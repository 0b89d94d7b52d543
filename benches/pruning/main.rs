//! Structured pruning: `cargo bench --features torch --bench pruning -- [PART…] [--tokens N] [--only TEXT]`
//! runs parts ([`benchmark`]), each of which makes its page: `pruning` (as models are pruned)
//! and `recovery` (once they are trained again). What is made is kept in the build folder, so
//! that a run that was stopped goes on.

#[path = "../common/benchmark.rs"]
mod benchmark;
#[path = "../common/made.rs"]
mod made;
mod page;
mod rows;
#[path = "../common/stats.rs"]
mod stats;
#[path = "../common/student.rs"]
mod student;
#[path = "../common/subject.rs"]
mod subject;

use benchmark::{Found, Page};
use clap::Args;
use rows::{BEST, DEPTH, RATIOS, WAYS, Way};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use student::Student;
use subject::{Quality, Subject};
use thimble::eval::speed;
use thimble::export::kept as kept_in_16_bits;
use thimble::model::Parameter;
use thimble::quant::{Assembled, WeightStore};
use thimble::runtime::{Activations, Decoder, Model};

const MODEL: &str = "house-6m";
/// Of a recovery.
const TOKENS: u64 = 500_000;
/// Timed in turns, original and pruned.
const ROUNDS: usize = 3;

/// How rows are cut short.
#[derive(Args, Default, PartialEq)]
struct Cut {
    /// What a recovery is trained on.
    #[arg(long)]
    tokens: Option<u64>,
}

type Choice = benchmark::Choice<Cut>;

const PAGES: [Page<Cut>; 2] = [
    Page { name: "pruning", title: "Pruning", target: "bench-pruning", parts: &[("pruning", |choice| PRUNING.run(choice))] },
    Page {
        name: "recovery",
        title: "Pruning, then training",
        target: "bench-pruning",
        parts: &[("recovery", |choice| RECOVERY.run(choice))],
    },
];

/// A page's only part.
struct Part {
    /// Its models: ways, and whether what stays is solved anew.
    models: fn() -> Vec<(&'static Way, bool)>,
    trained: bool,
    /// What it should show.
    target: &'static str,
    /// Where it does not.
    missed: fn(&Subject, &[Line]) -> Vec<String>,
}

const PRUNING: Part = Part {
    models: || WAYS.iter().flat_map(|way| if way.solves { vec![(way, false), (way, true)] } else { vec![(way, false)] }).collect(),
    trained: false,
    target: "solving beats not solving at every point, by KL at home.",
    missed: page::unsolved_is_better,
};

const RECOVERY: Part = Part {
    models: || WAYS.iter().filter(|way| [DEPTH, BEST].contains(&way.name)).map(|way| (way, way.solves)).collect(),
    trained: true,
    target: "of those that lack 30 %, the best is within 10 % of the original's perplexity at home.",
    missed: page::far_from_the_original,
};

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
    benchmark::run(&PAGES);
}

impl Part {
    fn run(&self, choice: &Choice) -> Found {
        let subject = Subject::open(MODEL);
        let tokens = if self.trained { choice.cut.tokens.unwrap_or(TOKENS) } else { 0 };
        let models: Vec<_> = (self.models)().into_iter().filter(|(way, _)| choice.has(way.name)).collect();
        let of_ratio = |ratio: f64| models.iter().map(move |&(way, solved)| (way, ratio, solved)).collect::<Vec<_>>();
        let lines: Vec<Line> =
            RATIOS.into_iter().flat_map(of_ratio).map(|(way, ratio, solved)| measure(&subject, way, ratio, solved, tokens)).collect();
        let figures = json!({ "original": subject.before, "rows": lines.iter().map(Line::json).collect::<Vec<_>>() });
        Found::new(page::page(&subject, &lines), figures, self.target, (self.missed)(&subject, &lines))
    }
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
    // As it would ship: the weights of what is pruned are in 16 bits too.
    let spec = original.spec();
    let weight = |p: Parameter| (p.name.clone(), kept_in_16_bits(original.store.weight(&p.name).unwrap(), p.kind));
    let original = Assembled::new(spec.clone(), spec.parameters().into_iter().map(weight));
    let rates = |store: &dyn WeightStore| {
        let decoder = Decoder::new(store, Activations::F32, 0).unwrap();
        let speed = speed::measure(&decoder, 256, 96, 1).unwrap();
        [speed.decode_tokens_per_s, speed.prefill_tokens_per_s]
    };
    let ratios: Vec<[f64; 2]> = (0..ROUNDS)
        .map(|_| {
            let (before, after) = (rates(&original), rates(&*pruned.store));
            [0, 1].map(|i| after[i] / before[i])
        })
        .collect();
    [0, 1].map(|i| stats::median(ratios.iter().map(|ratio| ratio[i])))
}

impl Line {
    fn json(&self) -> Value {
        json!({ "way": self.way.name, "ratio": self.ratio, "solved": self.solved, "tokens": self.tokens, "left": self.left,
                "quality": self.quality, "times_as_fast": self.speed })
    }
}

/// What this benchmark keeps from run to run.
fn kept() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("pruning")
}
