//! Quality of our methods on real models, each figure beside the target it answers.
//!
//! `cargo bench --features torch --bench quality -- [PART…] [--seeds N] [--only TEXT]`
//! runs parts ([`benchmark`]): `methods` (ours alone) and `peers` (beside gptqmodel) make
//! `benches/quality.md`, `frontier` makes `benches/frontier.md` and its charts. What is made
//! is kept in the build folder, so that a run that was stopped goes on; what was found of the
//! library's models, which our code does not make, is kept beside the pages.

#[path = "../common/benchmark.rs"]
mod benchmark;
mod calibration;
#[path = "../common/found.rs"]
mod found;
mod frontier;
#[path = "../common/ids.rs"]
mod ids;
mod layers;
#[path = "../common/made.rs"]
mod made;
mod methods;
mod ours;
mod peer;
mod peers;
mod plot;
#[path = "../common/stats.rs"]
mod stats;
#[path = "../common/subject.rs"]
mod subject;

use benchmark::Page;
use clap::Args;
use std::path::{Path, PathBuf};

/// How rows are cut short.
#[derive(Args, Default, PartialEq)]
pub struct Cut {
    /// Calibration seeds from 0, where it is not as many as each part has.
    #[arg(long)]
    pub seeds: Option<u64>,
}

pub type Choice = benchmark::Choice<Cut>;

const PAGES: [Page<Cut>; 2] = [
    Page { name: "quality", title: "Quality", target: "bench-quality", parts: &[("methods", methods::compare), ("peers", peers::compare)] },
    Page { name: "frontier", title: "Bits and what they cost", target: "bench-frontier", parts: &[("frontier", frontier::run)] },
];

fn main() {
    benchmark::run(&PAGES);
}

/// What this benchmark keeps of ours from run to run.
fn kept() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("quality")
}
