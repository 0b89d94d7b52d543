//! What benchmarks of several parts have in common: how parts and rows are asked for, what
//! a part leaves, and how pages are made of parts. A part by itself is printed; all parts of
//! a page write it. A small run, of some rows only or of rows that are cut short, writes into
//! the build folder and leaves the committed page as it is. The last line is JSON.

use clap::{Args, Parser};
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

    /// Of a part that has none.
    #[allow(dead_code)] // not every benchmark has such
    pub fn without_targets(page: String, json: Value) -> Self {
        Self { page, json, missed: Vec::new() }
    }
}

/// What a benchmark is told, and how its rows are cut short, which is the default where they
/// are not.
#[derive(Parser)]
pub struct Choice<C: Args> {
    /// Parts that are run, all where none is named.
    parts: Vec<String>,
    /// A part of the names of the rows that are run.
    #[arg(long)]
    only: Option<String>,
    #[command(flatten)]
    pub cut: C,
    /// What cargo adds.
    #[arg(long, hide = true)]
    bench: bool,
}

impl<C: Args + Default + PartialEq> Choice<C> {
    /// Whether a row is asked for.
    pub fn has(&self, name: &str) -> bool {
        self.only.as_ref().is_none_or(|only| name.contains(only.as_str()))
    }

    /// Where a file of a page goes.
    pub fn output(&self, name: &str) -> PathBuf {
        let small = self.only.is_some() || self.cut != C::default();
        if small {
            Path::new(env!("CARGO_TARGET_TMPDIR")).join(name)
        } else {
            Path::new(env!("CARGO_MANIFEST_DIR")).join("benches").join(name)
        }
    }
}

/// A part's name, and what runs it.
pub type Part<C> = (&'static str, fn(&Choice<C>) -> Found);

/// A page, `{name}.md`, and what it is made of.
pub struct Page<C: Args + 'static> {
    pub name: &'static str,
    pub title: &'static str,
    /// The target of the Makefile.
    pub target: &'static str,
    pub parts: &'static [Part<C>],
}

/// Runs what is asked for.
pub fn run<C: Args + Default + PartialEq>(pages: &[Page<C>]) {
    let choice = Choice::<C>::parse();
    let start = Instant::now();
    let wanted = &choice.parts;
    let known: Vec<&str> = pages.iter().flat_map(|page| page.parts).map(|(name, _)| *name).collect();
    if let Some(other) = wanted.iter().find(|part| !known.contains(&part.as_str())) {
        eprintln!("{other}: parts are {}", known.join(", "));
        std::process::exit(2);
    }
    let (mut figures, mut missed) = (serde_json::Map::new(), Vec::new());
    for Page { name, title, target, parts } in pages {
        let asked: Vec<_> = parts.iter().filter(|(part, _)| wanted.is_empty() || wanted.iter().any(|p| p == part)).collect();
        let mut page = format!("# {title}\n\n`make {target}`\n");
        for (part, run) in &asked {
            let (begin, found) = (Instant::now(), run(&choice));
            page += &format!("\n{}", found.page);
            figures.insert((*part).to_owned(), json!({ "figures": found.json, "seconds": begin.elapsed().as_secs_f64() }));
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
