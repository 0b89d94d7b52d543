//! What ternary weights lose: perplexity and divergence from the original, on the device's
//! runtime with activations in int8 by tokens, as ternary models are trained.

use crate::Choice;
use crate::benchmark::Found;
use crate::found::{found, is_found};
use crate::made::key;
use crate::rows::{ROWS, Row, TOKENS};
use crate::student::{Student, TEXTS};
use crate::subject::{self, Quality, Subject, WINDOW, WINDOWS};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::fmt::Write as _;
use thimble::eval::Footprint;

const MODELS: [&str; 2] = ["house-6m", "babyllama-tok105/hf"];

/// Most that the best is to lose, of the original's perplexity at home.
const GREATEST: f64 = 1.15;

struct Line {
    row: &'static Row,
    found: Measured,
}

/// What is kept of a row.
#[derive(Deserialize, Serialize)]
struct Measured {
    footprint: Footprint,
    quality: Quality,
    tokens: u64,
}

pub fn compare(choice: &Choice) -> Found {
    let [home, away] = subject::TEXTS;
    let tokens = choice.cut.tokens.unwrap_or(TOKENS);
    let mut page = format!(
        "## What is lost\n\n\
         Linear layers are ternary where a row does not say otherwise, embeddings and head in 8 bits. Rows that are trained see {:.0} million tokens of {}, with the \
         recipe's defaults but for a learning rate that falls to 0 and for what their names say, forwards in bf16; the others are calibrated on 64 sequences of {}. First \
         {WINDOWS} windows of {WINDOW} tokens (of the context where it is shorter) of {} ({}) and {} ({}), protocol `bos`, activations in \
         int8 by tokens; KL is the mean divergence from the original, in nats. Bits are those of a weight, everything counted.\n",
        tokens as f64 / 1e6,
        TEXTS.join(", "),
        TEXTS[0],
        home.1,
        home.0,
        away.1,
        away.0,
    );
    let (mut figures, mut missed, mut unmade) = (Vec::new(), Vec::new(), Vec::new());
    for folder in MODELS {
        let subject = Subject::open(folder);
        let model = folder.split('/').next().expect("a name");
        let asked = ROWS.iter().filter(|row| choice.has(&format!("{model}, {}", row.name))).map(|row| Planned::new(&subject, row, tokens));
        let (planned, left): (Vec<_>, Vec<_>) = asked.partition(|planned| !choice.cut.found || is_found("ternary", &planned.key));
        unmade.extend(left.iter().map(|planned| format!("{model}, {}", planned.row.name)));
        let lines: Vec<Line> = planned.into_iter().map(|planned| planned.measure(&subject, tokens)).collect();
        if lines.is_empty() {
            continue;
        }
        write!(page, "\n### {model}\n\n{}", table(&subject, &lines)).unwrap();
        missed.extend(failed(&subject, &lines).into_iter().map(|reason| format!("{model}: {reason}")));
        let row = |line: &Line| json!({ "name": line.row.name, "found": line.found });
        figures.push(json!({ "model": model, "original": subject.before, "rows": lines.iter().map(row).collect::<Vec<_>>() }));
    }
    let targets = format!(
        "at home every distilled row has a lower perplexity than every ternary row that is not, and than the larger models of 2 bits; the \
         best is within {:.0} % of the original.",
        100.0 * (GREATEST - 1.0)
    );
    if !unmade.is_empty() {
        write!(page, "\nNot made yet:\n\n- {}\n", unmade.join("\n- ")).unwrap();
    }
    Found::new(page, json!(figures), &targets, missed)
}

/// A row, before it is made.
struct Planned {
    row: &'static Row,
    recipe: String,
    key: String,
}

impl Planned {
    fn new(subject: &Subject, row: &'static Row, tokens: u64) -> Self {
        let recipe = row.recipe(subject, tokens);
        Self { row, key: key(subject, &recipe, row.kind()), recipe }
    }

    fn measure(self, subject: &Subject, tokens: u64) -> Line {
        let Self { row, recipe, key } = self;
        let find = || {
            let Student { model, tokens, .. } = Student::make(subject, &recipe, row.kind());
            Measured { quality: subject.quality_on_device(&model), footprint: Footprint::of(&*model.store).unwrap(), tokens }
        };
        // Of small runs nothing is kept.
        let found = if tokens == TOKENS { found("ternary", key, subject, row.name, find) } else { find() };
        eprintln!("{}: perplexity {:.4}, KL {:.5}", row.name, found.quality.perplexity[0], found.quality.kl[0]);
        Line { row, found }
    }
}

fn table(subject: &Subject, lines: &[Line]) -> String {
    let [home, away] = subject::TEXTS.map(|(name, _)| name);
    let mut table = format!(
        "| | tokens | bits | bits of a linear weight | perplexity {home} | KL {home} | perplexity {away} | KL {away} |\n\
         |---|---|---|---|---|---|---|---|\n| full precision | | 32 | 32 | {:.4} | 0 | {:.3} | 0 |\n",
        subject.before[0], subject.before[1]
    );
    for Line { row, found: Measured { footprint, quality: Quality { perplexity, kl }, tokens } } in lines {
        let tokens = if *tokens > 0 { format!("{:.2} million", *tokens as f64 / 1e6) } else { String::new() };
        let bits = format!("{:.2} | {:.3}", footprint.bits_per_weight, footprint.bits_per_weight_linear);
        let quality = format!("{:.4} | {:.5} | {:.3} | {:.5}", perplexity[0], kl[0], perplexity[1], kl[1]);
        writeln!(table, "| {} | {tokens} | {bits} | {quality} |", row.name).unwrap();
    }
    table
}

fn failed(subject: &Subject, lines: &[Line]) -> Vec<String> {
    let perplexity = |line: &Line| line.found.quality.perplexity[0];
    let best = |wanted: &dyn Fn(&Row) -> bool| {
        let of = lines.iter().filter(|line| wanted(line.row));
        of.min_by(|a, b| perplexity(a).total_cmp(&perplexity(b)))
    };
    let mut failed = Vec::new();
    if let Some(other) = best(&|row| !row.is_distilled()) {
        let worse = lines.iter().filter(|line| line.row.is_distilled() && perplexity(line) >= perplexity(other));
        failed.extend(
            worse.map(|line| format!("{}: {:.4}, and {} has {:.4}", line.row.name, perplexity(line), other.row.name, perplexity(other))),
        );
    }
    if let Some(line) = best(&|row| row.is_distilled())
        && perplexity(line) > GREATEST * subject.before[0]
    {
        failed.push(format!("{}: {:.3} times the original's perplexity", line.row.name, perplexity(line) / subject.before[0]));
    }
    failed
}
