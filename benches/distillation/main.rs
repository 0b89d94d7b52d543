//! Distillation, each figure beside the target it answers.
//!
//! `cargo bench --features torch --bench distillation -- [PART…] [--tokens N] [--only TEXT] [--steps N]`
//! runs parts ([`benchmark`]): `quality` (what students learn from equally many tokens),
//! `speed` (a training step beside Python's) and `memory` (with blocks computed again, and
//! without). All of them together make `benches/distillation.md`.

#[path = "../common/benchmark.rs"]
mod benchmark;
#[path = "../common/found.rs"]
mod found;
#[path = "../common/ids.rs"]
mod ids;
#[path = "../common/made.rs"]
mod made;
mod memory;
#[path = "../common/process.rs"]
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

use benchmark::Page;
use clap::Args;
use std::path::{Path, PathBuf};

/// How rows are cut short.
#[derive(Args, Default, PartialEq)]
pub struct Cut {
    /// What each student is trained on.
    #[arg(long)]
    tokens: Option<u64>,
    /// Of a timed run.
    #[arg(long)]
    steps: Option<usize>,
}

pub type Choice = benchmark::Choice<Cut>;

const PAGES: [Page<Cut>; 1] = [Page {
    name: "distillation",
    title: "Distillation",
    target: "bench-distillation",
    parts: &[("quality", quality::compare), ("speed", speed::compare), ("memory", memory::compare)],
}];

fn main() {
    // A timed run of ours is this program again, so that it is a process of its own.
    if std::env::args().nth(1).as_deref() == Some(step::WORD) {
        return step::run();
    }
    benchmark::run(&PAGES);
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// What this benchmark keeps from run to run.
fn kept() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("distillation")
}
