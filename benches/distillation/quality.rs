//! What students learn from equally many tokens: perplexity and divergence from the
//! teacher at home and away; of those that learn from their own texts, what these are
//! like.

use crate::Choice;
use crate::benchmark;
use crate::found::found;
use crate::made::key;
use crate::rows::{BEFORE, FORWARD, HARD, ROWS, Row};
use crate::samples::{GIVEN, GRAMS, LENGTH, SAMPLES, Samples};
use crate::student::{Student, TEXTS};
use crate::subject::{self, Quality, Subject, WINDOW, WINDOWS};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::fmt::Write as _;
use tch::Kind;

const TEACHER: &str = "house-6m";
const TOKENS: u64 = 2_000_000;

/// Of the distinct 4-grams that were written before, what must be left of them.
const LEFT: f64 = 0.8;

/// A row and what was found of it.
struct Line {
    row: &'static Row,
    found: Found,
}

/// What is kept of a row.
#[derive(Deserialize, Serialize)]
struct Found {
    quality: Quality,
    tokens: u64,
    diverged: bool,
    /// Where what it writes is looked at.
    samples: Option<Samples>,
}

pub fn compare(choice: &Choice) -> benchmark::Found {
    let subject = Subject::open(TEACHER);
    let rows: Vec<&Row> = ROWS.iter().filter(|row| choice.has(row.name)).collect();
    let lines: Vec<Line> = rows.into_iter().map(|row| measure(row, &subject, choice.cut.tokens.unwrap_or(TOKENS))).collect();
    let teacher = Samples::of(&subject.original, &subject);
    let [home, away] = subject::TEXTS;
    let tokens = lines.iter().map(|line| line.found.tokens).max().unwrap_or(0);
    let page = format!(
        "## What students learn\n\n\
         Every second layer of {TEACHER}, trained on {:.2} million tokens of {} in the ways below (four fifths of them where a row says so), \
         each with the recipe's defaults of `[stage.distil]` but for what `benches/distillation/rows.rs` says. First {WINDOWS} windows of {WINDOW} tokens of {} ({}) and {} ({}), protocol `bos`, \
         activations in f32; KL is the mean divergence from the teacher, in nats.\n\n{}\n\
         What they write by themselves, {SAMPLES} samples of {LENGTH} tokens at temperature 1 behind the first {GIVEN} tokens of these \
         windows: the teacher's mean log-likelihood of a token, how much more it is than before a student's own texts, beginning by beginning with its standard error, \
         and shares of distinct {}-grams.\n\n{}",
        tokens as f64 / 1e6,
        TEXTS.join(", "),
        home.1,
        home.0,
        away.1,
        away.0,
        table(&subject, &lines),
        GRAMS.map(|n| n.to_string()).join(", "),
        written(&teacher, &lines),
    );
    let figures: Vec<_> = lines.iter().map(|Line { row, found }| json!({ "name": row.name, "found": found })).collect();
    let targets = format!(
        "at home every distilled student has a lower perplexity and a lower KL than one of hard labels only; what the students of their \
         own texts write is likelier to the teacher, by more than two standard errors, than what they wrote before and than what one of the \
         forward KL writes, with at least {LEFT} of the distinct 4-grams that were written before."
    );
    benchmark::Found::new(
        page,
        json!({ "teacher": { "perplexity": subject.before, "samples": teacher }, "rows": figures }),
        &targets,
        missed(&lines),
    )
}

fn measure(row: &'static Row, subject: &Subject, tokens: u64) -> Line {
    let recipe = row.recipe(subject, tokens);
    let find = || {
        let Student { model, tokens, diverged } = Student::make(subject, &recipe, Kind::Float);
        let samples = row.writes().then(|| Samples::of(&model, subject));
        Found { quality: subject.quality(&model), tokens, diverged, samples }
    };
    // Of small runs nothing is kept.
    let found = if tokens == TOKENS { found("distillation", key(subject, &recipe, Kind::Float), subject, row.name, find) } else { find() };
    eprintln!("{}: perplexity {:.4}, KL {:.5}", row.name, found.quality.perplexity[0], found.quality.kl[0]);
    Line { row, found }
}

fn table(subject: &Subject, lines: &[Line]) -> String {
    let [home, away] = subject::TEXTS.map(|(name, _)| name);
    let mut table = format!(
        "| student | perplexity {home} | KL {home} | perplexity {away} | KL {away} |\n\
         |---|---|---|---|---|\n\
         | the teacher | {:.4} | 0 | {:.3} | 0 |\n",
        subject.before[0], subject.before[1]
    );
    for Line { row, found: Found { quality: Quality { perplexity, kl }, .. } } in lines {
        writeln!(table, "| {} | {:.4} | {:.5} | {:.3} | {:.5} |", row.name, perplexity[0], kl[0], perplexity[1], kl[1]).unwrap();
    }
    table
}

fn written(teacher: &Samples, lines: &[Line]) -> String {
    let before = samples_of(lines, BEFORE);
    let grams = GRAMS.map(|n| format!("distinct {n}-grams"));
    let mut table =
        format!("| writer | log-likelihood | more than before | {} |\n|---|---|---|{}\n", grams.join(" | "), "---|".repeat(GRAMS.len()));
    let own = lines.iter().filter_map(|line| Some((line.row.name, line.found.samples.as_ref()?)));
    for (name, samples) in [("the teacher", teacher)].into_iter().chain(own) {
        let (more, error) = before.map_or((f64::NAN, f64::NAN), |before| samples.likelier_than(before));
        let more = if name == BEFORE { String::new() } else { format!("{more:.4} ± {error:.4}") };
        writeln!(
            table,
            "| {name} | {:.4} | {more} | {} |",
            samples.likelihood(),
            samples.distinct.map(|share| format!("{share:.3}")).join(" | ")
        )
        .unwrap();
    }
    table
}

fn samples_of<'a>(lines: &'a [Line], name: &str) -> Option<&'a Samples> {
    lines.iter().find(|line| line.row.name == name)?.found.samples.as_ref()
}

fn missed(lines: &[Line]) -> Vec<String> {
    let of = |name: &str| lines.iter().find(|line| line.row.name == name);
    let mut missed: Vec<String> =
        lines.iter().filter(|line| line.found.diverged).map(|line| format!("{}: training diverged", line.row.name)).collect();
    if let Some(hard) = of(HARD) {
        for Line { row, found: Found { quality, .. } } in lines.iter().filter(|line| line.row.is_distilled()) {
            let figures =
                [("perplexity", quality.perplexity[0], hard.found.quality.perplexity[0]), ("KL", quality.kl[0], hard.found.quality.kl[0])];
            let worse = figures.into_iter().filter(|(_, own, its)| own >= its);
            missed.extend(worse.map(|(what, own, its)| format!("{}: {what} {own:.4} at home, hard labels only have {its:.4}", row.name)));
        }
    }
    if let (Some(before), Some(forward)) = (samples_of(lines, BEFORE), samples_of(lines, FORWARD)) {
        for (row, own) in
            lines.iter().filter(|line| line.row.is_on_policy()).filter_map(|line| Some((line.row, line.found.samples.as_ref()?)))
        {
            for (name, other) in [(BEFORE, before), (FORWARD, forward)] {
                let (more, error) = own.likelier_than(other);
                if more <= 2.0 * error {
                    missed.push(format!("{}: log-likelihood {more:+.4} ± {error:.4} from that of {name}", row.name));
                }
            }
            let [left, all] = [own, before].map(|samples| samples.distinct[GRAMS.len() - 1]);
            if left < LEFT * all {
                missed.push(format!("{}: {left:.3} distinct 4-grams, {all:.3} before", row.name));
            }
        }
    }
    missed
}
