//! Distillation, each figure beside the target it answers.
//!
//! `cargo bench --features torch --bench distillation -- [PART…] [--tokens N] [--only TEXT] [--steps N]`
//! runs parts, all where none is named: `quality` (what students learn from equally
//! many tokens), `speed` (a training step beside Python's) and `memory` (with blocks
//! computed again, and without). All of them together make `benches/distillation.md`.
//! `--tokens`, of a row, `--only`, a part of rows' names, and `--steps`, of a timed
//! run, make a run small: it prints its page, and leaves the committed one as it is.
//! The last line is JSON.

#[path = "../common/found.rs"]
mod found;
#[path = "../common/made.rs"]
mod made;
mod memory;
mod process;
mod quality;
#[path = "../common/random_llama.rs"]
mod random_llama;
mod rows;
mod samples;
mod speed;
#[path = "../common/stats.rs"]
mod stats;
mod step;
#[path = "../common/student.rs"]
mod student;
#[path = "../common/subject.rs"]
mod subject;
mod work;

use clap::Parser;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// What a part leaves.
pub struct Found {
    pub page: String,
    pub json: Value,
    /// Targets, in words.
    pub missed: Vec<String>,
}

impl Found {
    /// A page with a word on its targets below it.
    pub fn new(page: String, json: Value, targets: &str, missed: Vec<String>) -> Self {
        let verdict = if missed.is_empty() { "All targets are met.".to_owned() } else { format!("Missed:\n\n- {}", missed.join("\n- ")) };
        Self { page: format!("{page}\nTargets: {targets} {verdict}\n"), json, missed }
    }
}

/// What is run.
#[derive(Parser)]
pub struct Choice {
    #[arg(value_parser = PARTS.map(|(part, _)| part))]
    parts: Vec<String>,
    /// What each student is trained on.
    #[arg(long)]
    tokens: Option<u64>,
    /// A part of the names of the rows that are run.
    #[arg(long)]
    only: Option<String>,
    /// Of a timed run.
    #[arg(long)]
    steps: Option<usize>,
    /// What cargo adds.
    #[arg(long, hide = true)]
    bench: bool,
}

impl Choice {
    /// Whether a row is asked for.
    pub fn has(&self, name: &str) -> bool {
        self.only.as_ref().is_none_or(|only| name.contains(only.as_str()))
    }

    fn is_small(&self) -> bool {
        self.tokens.is_some() || self.only.is_some() || self.steps.is_some()
    }
}

/// A part, and what runs it.
type Part = (&'static str, fn(&Choice) -> Found);

const PARTS: [Part; 3] = [("quality", quality::compare), ("speed", speed::compare), ("memory", memory::compare)];

fn main() {
    // A timed run of ours is this program again, so that it is a process of its own.
    if std::env::args().nth(1).as_deref() == Some(step::WORD) {
        return step::run();
    }
    let choice = Choice::parse();
    let start = Instant::now();
    let asked: Vec<Part> =
        PARTS.into_iter().filter(|(part, _)| choice.parts.is_empty() || choice.parts.iter().any(|p| p == part)).collect();
    let (mut figures, mut missed) = (serde_json::Map::new(), Vec::new());
    let mut page = "# Distillation\n\n`make bench-distillation`\n".to_owned();
    for (part, run) in &asked {
        let (begin, found) = (Instant::now(), run(&choice));
        let seconds = begin.elapsed().as_secs_f64();
        page += &format!("\n{}", found.page);
        figures.insert((*part).to_owned(), json!({ "figures": found.json, "seconds": seconds }));
        missed.extend(found.missed);
    }
    print!("{page}");
    if asked.len() == PARTS.len() && !choice.is_small() {
        std::fs::write(root().join("benches/distillation.md"), page).unwrap();
    }
    println!("{}", json!({ "parts": figures, "missed": missed, "seconds": start.elapsed().as_secs_f64() }));
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The middle one of some numbers.
fn median(numbers: impl IntoIterator<Item = f64>) -> f64 {
    let mut numbers: Vec<f64> = numbers.into_iter().collect();
    numbers.sort_by(f64::total_cmp);
    let half = numbers.len() / 2;
    if numbers.len().is_multiple_of(2) { 0.5 * (numbers[half - 1] + numbers[half]) } else { numbers[half] }
}

/// What this benchmark keeps from run to run.
fn kept() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("distillation")
}
