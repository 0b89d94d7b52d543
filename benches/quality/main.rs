//! Quality of our methods on real models, each figure beside the target it answers.
//!
//! `cargo bench --features torch --bench quality -- PART… [--seeds N] [--only TEXT]`
//! runs parts: `methods` (ours alone) and `peers` (beside gptqmodel) make
//! `benches/quality.md`, `frontier` makes `benches/frontier.md` and its charts.
//! `--seeds` and `--only`, a part of rows' names, make a run small: it prints its
//! page, and leaves the committed one as it is. What is made is kept in the build folder,
//! so that a run that was stopped goes on; what was found of the library's models, which
//! our code does not make, is kept beside the pages. The last line is JSON.

mod calibration;
#[path = "../common/found.rs"]
mod found;
mod frontier;
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
#[derive(Default)]
pub struct Choice {
    parts: Vec<String>,
    /// Calibration seeds from 0, where it is not as many as each part has.
    pub seeds: Option<u64>,
    only: Option<String>,
}

impl Choice {
    fn read() -> Self {
        let mut choice = Self::default();
        // What cargo adds.
        let mut words = std::env::args().skip(1).filter(|word| word != "--bench");
        while let Some(word) = words.next() {
            let mut value = || words.next().unwrap_or_else(|| panic!("{word} needs a value"));
            match word.as_str() {
                "--seeds" => choice.seeds = Some(value().parse().expect("a number of seeds")),
                "--only" => choice.only = Some(value()),
                _ => choice.parts.push(word),
            }
        }
        choice
    }

    /// The rows that are asked for.
    pub fn of<T>(&self, rows: Vec<T>, name: impl Fn(&T) -> String) -> Vec<T> {
        rows.into_iter().filter(|row| self.only.as_ref().is_none_or(|only| name(row).contains(only))).collect()
    }

    /// Where a file goes: beside this, or, from a small run, into the build folder.
    pub fn output(&self, name: &str) -> PathBuf {
        let small = self.seeds.is_some() || self.only.is_some();
        if small {
            Path::new(env!("CARGO_TARGET_TMPDIR")).join(name)
        } else {
            Path::new(env!("CARGO_MANIFEST_DIR")).join("benches").join(name)
        }
    }
}

/// A page, its title, and the parts it is made of.
type Page = (&'static str, &'static str, &'static [(&'static str, fn(&Choice) -> Found)]);

const PAGES: [Page; 2] = [
    ("quality", "Quality", &[("methods", methods::compare), ("peers", peers::compare)]),
    ("frontier", "Bits and what they cost", &[("frontier", frontier::run)]),
];

/// What this benchmark keeps of ours from run to run.
fn kept() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("quality")
}

fn main() {
    let choice = Choice::read();
    let start = Instant::now();
    let (mut figures, mut missed) = (serde_json::Map::new(), Vec::new());
    for (name, title, parts) in PAGES {
        let asked: Vec<_> = parts.iter().filter(|(part, _)| choice.parts.iter().any(|p| p == part)).collect();
        let mut page = format!("# {title}\n\n`make bench-{name}`\n");
        for (part, run) in &asked {
            let (begin, found) = (Instant::now(), run(&choice));
            let seconds = begin.elapsed().as_secs_f64();
            page += &format!("\n{}\nThis part took {:.0} minutes.\n", found.page, seconds / 60.0);
            figures.insert((*part).to_owned(), json!({ "figures": found.json, "seconds": seconds }));
            missed.extend(found.missed);
        }
        if !asked.is_empty() {
            print!("{page}");
        }
        if asked.len() == parts.len() {
            std::fs::write(choice.output(&format!("{name}.md")), page).unwrap();
        }
    }
    println!("{}", json!({ "parts": figures, "missed": missed, "seconds": start.elapsed().as_secs_f64() }));
}
