//! The students that are compared: what each learns from its teacher, as a recipe says it.
//!
//! All of them are every second layer of the teacher, and all that are trained see as
//! many tokens, in however many stages; but for [`BEFORE`], which another goes on from.

use crate::student::TEXTS;
use crate::subject::Subject;
use std::fmt::Write as _;
use thimble::recipe::Training;

/// A student.
pub struct Row {
    pub name: &'static str,
    /// `[stage.distil]`, one after another.
    stages: &'static [DistilStage],
}

/// A stage: its share of the tokens, its keys, and those of its training.
struct DistilStage {
    share: f64,
    keys: &'static str,
    training: &'static str,
}

/// All tokens, trained as recipes train by default.
const fn alone(keys: &'static str) -> DistilStage {
    DistilStage { share: 1.0, keys, training: "" }
}

/// What students that learn from their own texts have learnt before: most of the tokens.
const FIRST: DistilStage = DistilStage { share: 0.8, ..alone("") };

/// Other texts than before, in the small steps that the first stage has ended with.
/// Nothing is held out: it would say nothing of what is learnt here.
const OWN_TEXTS: &str = "seed = 1\nlearning_rate = 1e-4\nevaluate_every = 0";

pub const UNTRAINED: &str = "no training";
pub const HARD: &str = "hard labels only";
/// What students of their own texts are set beside, at equal tokens.
pub const FORWARD: &str = "forward KL";
/// What students that learn from their own texts are before they do.
pub const BEFORE: &str = "forward KL, four fifths of the tokens";

/// A new comparison = one row.
pub const ROWS: [Row; 9] = [
    Row { name: UNTRAINED, stages: &[] },
    Row { name: HARD, stages: &[alone("kd_weight = 0.0\nce_weight = 1.0")] },
    Row { name: FORWARD, stages: &[alone("")] },
    Row { name: "reverse KL", stages: &[alone("divergence = 'reverse_kl'")] },
    Row { name: "Jensen-Shannon", stages: &[alone("divergence = { jensen_shannon = 0.5 }")] },
    Row { name: "skewed forward KL", stages: &[alone("divergence = { skewed_forward_kl = 0.1 }")] },
    Row {
        name: "TinyBERT's layers, then forward KL",
        stages: &[
            DistilStage {
                share: 0.5,
                ..alone(
                    "kd_weight = 0.0\nembedding = 1.0\nhidden = { loss = 'mean_square', weight = 1.0 }\n\
                     attention = { loss = 'scores', weight = 1.0 }",
                )
            },
            DistilStage { share: 0.5, training: "seed = 1", ..alone("") },
        ],
    },
    Row { name: BEFORE, stages: &[FIRST] },
    Row {
        name: "forward KL, then MiniLLM",
        stages: &[
            FIRST,
            DistilStage {
                share: 0.2,
                keys: "on_policy = { method = 'minillm' }\ndivergence = 'reverse_kl'\nce_weight = 0.1",
                training: OWN_TEXTS,
            },
        ],
    },
];

impl Row {
    /// Whether it learns from the teacher.
    pub fn is_distilled(&self) -> bool {
        ![UNTRAINED, HARD].contains(&self.name)
    }

    /// Whether it learns from its own texts.
    pub fn is_on_policy(&self) -> bool {
        self.stages.iter().any(|stage| stage.keys.contains("on_policy"))
    }

    /// Whether what it writes is looked at.
    pub fn writes(&self) -> bool {
        self.is_on_policy() || [BEFORE, FORWARD].contains(&self.name)
    }

    /// For so many tokens, whole steps of them.
    pub fn recipe(&self, subject: &Subject, tokens: u64) -> String {
        let Training { batch, length, .. } = Training::default();
        let step = (batch * length) as u64;
        let steps = tokens.div_ceil(step);
        let texts = TEXTS.map(|name| format!("'{}'", subject.text(name).display())).join(", ");
        let mut recipe = "[[stage]]\n[stage.student]\nlayers = 'every_second'\n".to_owned();
        let (mut share, mut done) = (0.0, 0);
        for stage in self.stages {
            share += stage.share;
            // So that stages have together what one has alone.
            let until = (share * steps as f64).round() as u64;
            let DistilStage { keys, training, .. } = stage;
            let tokens = (until - done) * step;
            writeln!(recipe, "[[stage]]\n[stage.distil]\n{keys}\n[stage.distil.training]\ntext = [{texts}]\ntokens = {tokens}\n{training}")
                .unwrap();
            done = until;
        }
        // The pipeline measures too: as little as it can.
        let text = subject.text(TEXTS[0]);
        writeln!(recipe, "[evaluate]\ntext = '{}'\nmax_windows = 1", text.display()).unwrap();
        recipe
    }
}
