//! The ways to prune that are compared, as recipes say them.

use crate::student::{Student, TEXTS};
use crate::subject::Subject;
use tch::Kind;

/// What widths are a multiple of.
pub const MULTIPLE: usize = 16;

/// Shares of the blocks' parameters that go.
pub const RATIOS: [f64; 4] = [0.1, 0.2, 0.3, 0.5];

/// A way to prune.
pub struct Way {
    pub name: &'static str,
    /// The stage without its ratio.
    stage: &'static str,
    /// Whether it takes widths, and what stays can be solved anew.
    pub solves: bool,
}

const fn width(name: &'static str, stage: &'static str) -> Way {
    Way { name, stage, solves: true }
}

pub const DEPTH: &str = "layers by block influence";
pub const BEST: &str = "width by the optimal brain";

/// A new way = one row.
pub const WAYS: [Way; 7] = [
    Way { name: DEPTH, stage: "[stage.prune_depth]", solves: false },
    width("width by magnitude", "[stage.prune_width]\nsaliency = 'magnitude'"),
    width("width by Wanda", "[stage.prune_width]\nsaliency = 'wanda'"),
    width("width by Taylor expansion", "[stage.prune_width]\nsaliency = 'taylor'"),
    width("width by mean activations", "[stage.prune_width]\nsaliency = 'activation'"),
    width(BEST, "[stage.prune_width]"),
    width("the same, widths by layer", "[stage.prune_width]\nuniform = false"),
];

impl Way {
    /// Pruned so far, solved or not, then trained on so many tokens.
    pub fn make(&self, subject: &Subject, ratio: f64, solved: bool, tokens: u64) -> Student {
        let text = |name: &str| subject.text(name).display().to_string();
        let multiple = if self.solves { format!("multiple = {MULTIPLE}\n") } else { String::new() };
        let unsolved = if self.solves && !solved { "reconstruct = false\n" } else { "" };
        let training = match tokens {
            0 => String::new(),
            _ => format!(
                "[[stage]]\n[stage.distil]\n[stage.distil.training]\ntext = [{}]\ntokens = {tokens}\n",
                TEXTS.map(|name| format!("'{}'", text(name))).join(", ")
            ),
        };
        Student::make(
            subject,
            &format!(
                "[calibration]\ntext = '{0}'\nsequences = 64\n[[stage]]\n{1}\nratio = {ratio}\n{multiple}{unsolved}{training}\
                 [evaluate]\ntext = '{0}'\nmax_windows = 1\n",
                text(TEXTS[0]),
                self.stage
            ),
            Kind::Float,
        )
    }
}
