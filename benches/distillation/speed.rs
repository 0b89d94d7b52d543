//! A training step beside Python's: the same weights, ids and settings, one process
//! after the other, two of each. Losses that agree prove the step itself: the second
//! one follows from the first one's gradients, and so on.

use crate::benchmark::Found;
use crate::process::{numbers, said};
use crate::random_llama::Shape;
use crate::stats::median;
use crate::step::{WARMING, WORD};
use crate::subject::Subject;
use crate::work::{BATCH, LENGTH, Work};
use crate::{Choice, root};
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::process::Command;

/// As wide as the teacher, and half as deep.
const SHAPE: Shape = Shape { hidden: 256, ffn: 768, heads: 8, kv_heads: 4, vocab: 4096, layers: 3 };
const TEACHER: &str = "house-6m";
const STEPS: usize = 22;
const ROUNDS: usize = 2;

/// First steps whose losses are compared, and how far they may be apart, relatively.
const COMPARED: usize = 5;

struct Row {
    name: &'static str,
    taught: bool,
    dtype: &'static str,
    /// Of the losses; number formats of less than f32 are rounded elsewhere on each side.
    apart: f64,
}

/// A new comparison = one row.
const ROWS: [Row; 4] = [
    Row { name: "hard labels, f32", taught: false, dtype: "float32", apart: 1e-4 },
    Row { name: "forward KL, f32", taught: true, dtype: "float32", apart: 1e-4 },
    Row { name: "hard labels, bf16", taught: false, dtype: "bfloat16", apart: 1e-2 },
    Row { name: "forward KL, bf16", taught: true, dtype: "bfloat16", apart: 1e-2 },
];

pub fn compare(choice: &Choice) -> Found {
    let subject = Subject::open(TEACHER);
    let steps = choice.cut.steps.unwrap_or(STEPS).max(COMPARED);
    let work = Work::new(&subject, &SHAPE, steps);
    let mut page = format!(
        "## A training step beside Python's\n\n\
         A random Llama {} wide with {} layers and {} tokens in its vocabulary, batches of {BATCH} sequences of {LENGTH} tokens, AdamW; \
         the teacher of the forward KL is {TEACHER}. Python: transformers with sdpa attention, libtorch's fused AdamW, and autocast \
         where it is bf16. Median tokens a second of {steps} steps without the first {WARMING}, {ROUNDS} processes of each in turn; the \
         greatest relative difference of the first {COMPARED} losses.\n\n\
         | losses, forwards | ours | Python | times as fast | losses apart |\n|---|---|---|---|---|\n",
        SHAPE.hidden, SHAPE.layers, SHAPE.vocab
    );
    let (mut figures, mut missed) = (Vec::new(), Vec::new());
    for row in ROWS.iter().filter(|row| choice.has(row.name)) {
        let [ours, theirs] = row.run(&work, &subject);
        let speeds = [&ours, &theirs].map(|side| side.speed);
        let ratio = speeds[0] / speeds[1];
        let apart = ours.losses.iter().zip(&theirs.losses).take(COMPARED).map(|(a, b)| (a / b - 1.0).abs()).fold(0.0, f64::max);
        writeln!(page, "| {} | {:.0} | {:.0} | {ratio:.2} | {apart:.1e} |", row.name, speeds[0], speeds[1]).unwrap();
        eprintln!("{}", page.lines().last().unwrap());
        if ratio < 1.0 {
            missed.push(format!("{}: {ratio:.2} times as fast", row.name));
        }
        if apart.is_nan() || apart > row.apart {
            missed.push(format!("{}: losses are {apart:.1e} apart, {:.0e} is allowed", row.name, row.apart));
        }
        let losses = [ours.losses, theirs.losses];
        figures.push(json!({ "name": row.name, "tokens_per_s": speeds, "ratio": ratio, "apart": apart, "losses": losses }));
    }
    let targets = "at least as fast as Python; losses at most 1e-4 apart in f32, 1e-2 in bf16.";
    Found::new(page, json!(figures), targets, missed)
}

/// What a side's processes have said.
#[derive(Default)]
struct Side {
    losses: Vec<f64>,
    seconds: Vec<f64>,
    /// Tokens a second.
    speed: f64,
}

impl Side {
    fn hear(&mut self, said: &Value) {
        self.losses = numbers(said, "losses");
        self.seconds.extend(&numbers(said, "seconds")[WARMING..]);
        self.speed = (BATCH * LENGTH) as f64 / median(self.seconds.iter().copied());
    }
}

impl Row {
    /// Ours and theirs.
    fn run(&self, work: &Work, subject: &Subject) -> [Side; 2] {
        let mut arguments = work.arguments();
        arguments.extend(["--dtype".to_owned(), self.dtype.to_owned()]);
        if self.taught {
            arguments.extend(["--teacher".to_owned(), subject.dir.display().to_string()]);
        }
        let mut sides = [Side::default(), Side::default()];
        for _ in 0..ROUNDS {
            let mut ours = Command::new(std::env::current_exe().unwrap());
            ours.arg(WORD);
            let mut theirs = Command::new(root().join(".venv-compat/bin/python"));
            theirs.arg(root().join("python-compat/train_step.py"));
            for (side, mut run) in sides.iter_mut().zip([ours, theirs]) {
                run.args(&arguments);
                side.hear(&said(run));
            }
        }
        sides
    }
}
