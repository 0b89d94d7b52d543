//! Ternary weights: `cargo bench --features torch --bench ternary -- [PART…] [--tokens N] [--only TEXT]`
//! runs parts, all where none is named: `quality` (what is lost, solved and trained) and
//! `speed` (of the device's runtime, on a random model of 1.1 billion parameters). All of
//! them together make `benches/ternary.md`. `--tokens`, of a row that is trained, and
//! `--only`, a part of rows' names, make a run small: it prints its page, and leaves the
//! committed one as it is. What is found of a row is kept in `benches/found/`, what is made
//! in the build folder, so that a run that was stopped goes on. The last line is JSON.

#[path = "../common/found.rs"]
mod found;
#[path = "../common/made.rs"]
mod made;
mod quality;
#[path = "../common/random_llama.rs"]
mod random_llama;
mod rows;
mod speed;
#[path = "../common/student.rs"]
mod student;
#[path = "../common/subject.rs"]
mod subject;

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

/// What is run.
#[derive(Parser)]
pub struct Choice {
    #[arg(value_parser = PARTS.map(|(part, _)| part))]
    parts: Vec<String>,
    /// What each row that is trained is trained on.
    #[arg(long)]
    tokens: Option<u64>,
    /// A part of the names of the rows that are run.
    #[arg(long)]
    only: Option<String>,
    /// What cargo adds.
    #[arg(long, hide = true)]
    bench: bool,
}

impl Choice {
    /// Whether a row is asked for.
    pub fn has(&self, name: &str) -> bool {
        self.only.as_ref().is_none_or(|only| name.contains(only.as_str()))
    }
}

/// A part, and what runs it.
type Part = (&'static str, fn(&Choice) -> Found);

const PARTS: [Part; 2] = [("quality", quality::compare), ("speed", speed::compare)];

fn main() {
    let choice = Choice::parse();
    let start = Instant::now();
    let asked: Vec<Part> =
        PARTS.into_iter().filter(|(part, _)| choice.parts.is_empty() || choice.parts.iter().any(|p| p == part)).collect();
    let (mut figures, mut missed) = (serde_json::Map::new(), Vec::new());
    let mut page = "# Ternary weights\n\n`make bench-ternary`\n".to_owned();
    for (part, run) in &asked {
        let found = run(&choice);
        page += &format!("\n{}", found.page);
        figures.insert((*part).to_owned(), found.json);
        missed.extend(found.missed);
    }
    print!("{page}");
    if asked.len() == PARTS.len() && choice.tokens.is_none() && choice.only.is_none() {
        std::fs::write(Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/ternary.md"), page).unwrap();
    }
    println!("{}", json!({ "parts": figures, "missed": missed, "seconds": start.elapsed().as_secs_f64() }));
}

/// What this benchmark keeps from run to run.
fn kept() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("ternary")
}
