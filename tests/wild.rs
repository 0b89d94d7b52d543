//! Every family's default configuration, and each of its keys changed, as transformers 4 and
//! 5 save them (`python-compat/write_wild.py`): the logits of transformers, or a refusal when
//! the model is opened, never other logits.
//!
//! By default a fixed tenth of the changes; `THIMBLE_WILD=all` (`make test-all`) takes all of
//! them and compares the table of verdicts with `tests/data/wild/README.md`, which
//! `THIMBLE_BLESS=1` writes.

#[path = "common/wild.rs"]
mod wild;

use std::path::Path;
use thimble::model::LogitSource;
use thimble::runtime::{self, Activations, Decoder, NativeLogits};
use wild::{Case, Group, groups};

/// Greatest difference of a logit, relative to the greatest logit where that is above 1.
const TOLERANCE: f32 = 1e-4;
/// Share of the changes that is taken by default: one in so many.
const SHARE: u64 = 10;

const TORCHSCRIPT: &str = "torchscript=true";
const UNTIED: &str = "tie_word_embeddings=false";

/// Files that the two versions read differently, and that we read as the newer does, with a
/// warning: the case of the older version, and the case whose logits are right.
const AS_THE_NEWER: [(&str, &str, &str); 10] = [
    // What Gemma's first releases call gelu is the tanh approximation, says transformers 5.
    ("gemma-v4", "hidden_act=\"gelu\"", "default"),
    // transformers 4 writes a tied head beside the embedding for TorchScript, and overwrites it when it
    // reads; here its numbers are drawn, so that it differs: transformers 5 reads it as it is.
    ("bloom-v4", TORCHSCRIPT, UNTIED),
    ("gemma-v4", TORCHSCRIPT, UNTIED),
    ("gemma2-v4", TORCHSCRIPT, UNTIED),
    ("gemma3_text-v4", TORCHSCRIPT, UNTIED),
    ("gpt2-v4", TORCHSCRIPT, UNTIED),
    ("gpt_neo-v4", TORCHSCRIPT, UNTIED),
    ("opt-v4", TORCHSCRIPT, UNTIED),
    ("smollm3-v4", TORCHSCRIPT, UNTIED),
    ("xglm-v4", TORCHSCRIPT, UNTIED),
];

enum Verdict {
    Equal,
    /// Opening failed, for this reason.
    Refused(String),
    /// Other logits: by how much, and by how much transformers' differ from the default's.
    Other(f32),
    /// Opened, and then an error.
    Failed(String),
}

fn verdict(group: &Group, case: &Case) -> Verdict {
    let dir = tempfile::tempdir().unwrap();
    group.write(case, dir.path());
    let model = match runtime::open_weights(dir.path()) {
        Ok(model) => model,
        Err(error) => return Verdict::Refused(error.to_string().replace(&format!("{}/", dir.path().display()), "")),
    };
    let newer = AS_THE_NEWER.iter().find(|(name, case_name, _)| *name == group.name && *case_name == case.name);
    let right = newer.map_or(case, |(_, _, right)| group.cases.iter().find(|case| case.name == *right).expect("a case"));
    match logits(&model, &group.ids) {
        Err(error) => Verdict::Failed(error.to_string()),
        Ok(ours) => {
            let difference = relative_difference(&ours, group.expected(right));
            if difference <= TOLERANCE { Verdict::Equal } else { Verdict::Other(difference) }
        }
    }
}

fn logits(model: &runtime::Model, ids: &[u32]) -> thimble::Result<Vec<f32>> {
    let mut source = NativeLogits::new(Decoder::new(&*model.store, Activations::F32, 1)?);
    source.run_window(ids)?;
    source.logits(0..ids.len())
}

/// NaN where the numbers of logits differ.
fn relative_difference(ours: &[f32], theirs: &[f32]) -> f32 {
    if ours.len() != theirs.len() {
        return f32::NAN;
    }
    let scale = theirs.iter().fold(1.0f32, |m, x| m.max(x.abs()));
    ours.iter().zip(theirs).map(|(a, b)| (a - b).abs() / scale).fold(0.0, |m, x| if x <= m { m } else { x })
}

/// Whether a change is in the tenth that is always taken, by its name alone.
fn is_sampled(group: &Group, case: &Case) -> bool {
    let letters = group.name.bytes().chain(case.name.bytes());
    letters.fold(0xcbf2_9ce4_8422_2325u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3)) % SHARE == 0
}

#[test]
fn configurations_give_the_logits_of_transformers_or_are_refused() {
    let all = std::env::var("THIMBLE_WILD").is_ok_and(|v| v == "all");
    let (mut wrong, mut rows, mut counts, mut taken) = (Vec::new(), Vec::new(), [0usize; 2], 0);
    for group in groups() {
        for (number, case) in group.cases.iter().enumerate().filter(|(i, case)| all || *i == 0 || is_sampled(&group, case)) {
            let verdict = verdict(&group, case);
            let effect = case.effect.map_or("other size".to_owned(), |effect| format!("{effect:.3}"));
            match &verdict {
                Verdict::Equal => counts[0] += 1,
                Verdict::Refused(reason) if number == 0 => wrong.push(format!("{}: the default is refused: {reason}", group.name)),
                Verdict::Refused(_) => counts[1] += 1,
                Verdict::Other(by) => {
                    wrong.push(format!("{}: {}: other logits, by {by:.2e} (effect of the change: {effect})", group.name, case.name))
                }
                Verdict::Failed(reason) => wrong.push(format!("{}: {}: opened, then: {reason}", group.name, case.name)),
            }
            taken += 1;
            rows.extend(row(&group, case, &verdict));
        }
    }
    println!("{} equal, {} refused, {} wrong", counts[0], counts[1], wrong.len());
    assert!(wrong.is_empty(), "{} of {taken}:\n{}", wrong.len(), wrong.join("\n"));
    assert!(counts[0] > 150, "only {} cases were compared", counts[0]);
    if all {
        in_table(&rows, counts);
    }
}

/// A row of the table: changes that move no logit, and are equal, are only counted.
fn row(group: &Group, case: &Case, verdict: &Verdict) -> Option<String> {
    let verdict = match verdict {
        Verdict::Equal if case.effect == Some(0.0) => return None,
        Verdict::Equal => "equal".to_owned(),
        Verdict::Refused(reason) => {
            format!("refused: {}", reason.trim_start_matches("config.json: ").chars().take(110).collect::<String>())
        }
        Verdict::Other(by) => format!("other logits, by {by:.1e}"),
        Verdict::Failed(reason) => format!("failed: {reason}"),
    };
    let effect = case.effect.map_or(String::new(), |effect| format!("{effect:.2}"));
    let cell = |text: &str| text.replace('|', "\\|").replace('\n', " ");
    Some(format!("| {} | `{}` | {effect} | {} |", group.name, cell(&case.name), cell(&verdict)))
}

/// The table must be that of the file, or becomes it where that is asked for.
fn in_table(rows: &[String], [equal, refused]: [usize; 2]) {
    let table = format!(
        "# Configurations as transformers saves them\n\n\
         Written by `THIMBLE_BLESS=1 THIMBLE_WILD=all cargo test --test wild`; the configurations and the logits beside it by\n\
         `make wild` (`python-compat/write_wild.py`). Effect: greatest difference of transformers' logits from those of the family's\n\
         default configuration, empty for the default and for another vocabulary size. Equal: the same logits to {TOLERANCE:.0e}.\n\n\
         {} configurations: {equal} equal, {refused} refused, 0 with other logits. Changes that move no logit and are equal have no row.\n\n\
         | family and version | change | effect | verdict |\n|---|---|---|---|\n{}\n",
        equal + refused,
        rows.join("\n")
    );
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/wild/README.md");
    if std::env::var_os("THIMBLE_BLESS").is_some() {
        std::fs::write(&path, table).unwrap();
    } else {
        let found = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(found == table, "{} is not what passes; THIMBLE_BLESS=1 writes it", path.display());
    }
}
