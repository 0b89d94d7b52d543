//! Ternary weights: `cargo bench --features torch --bench ternary -- [PART…] [--tokens N] [--found] [--only TEXT]`
//! runs parts ([`benchmark`]): `quality` (what is lost, solved and trained) and `speed` (of the
//! device's runtime, on a random model of 1.1 billion parameters). Both together make
//! `benches/ternary.md`. What is found of a row is kept in `benches/found/`, what is made in the
//! build folder, so that a run that was stopped goes on.

#[path = "../common/benchmark.rs"]
mod benchmark;
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

use benchmark::Page;
use clap::Args;
use std::path::{Path, PathBuf};

/// How rows are cut short.
#[derive(Args, Default, PartialEq)]
pub struct Cut {
    /// What each row that is trained is trained on.
    #[arg(long)]
    tokens: Option<u64>,
    /// Only rows that are found already; the page names those that are left.
    #[arg(long, conflicts_with = "tokens")]
    found: bool,
}

pub type Choice = benchmark::Choice<Cut>;

const PAGES: [Page<Cut>; 1] = [Page {
    name: "ternary",
    title: "Ternary weights",
    target: "bench-ternary",
    parts: &[("quality", quality::compare), ("speed", speed::compare)],
}];

fn main() {
    benchmark::run(&PAGES);
}

/// What this benchmark keeps from run to run.
fn kept() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("ternary")
}
