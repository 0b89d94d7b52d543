//! The models that are compared, as recipes say them.

use crate::student::TEXTS;
use crate::subject::Subject;
use tch::Kind;

/// Of a row that is trained.
pub const TOKENS: u64 = 3_000_000;

pub struct Row {
    pub name: &'static str,
    /// The stage's name and keys.
    stage: &'static str,
    /// What it learns and how, where it is trained.
    distil: Option<&'static str>,
    /// How it is trained, beyond what all are told.
    training: &'static str,
    /// Times [`TOKENS`].
    longer: u64,
}

const fn untrained(name: &'static str, stage: &'static str) -> Row {
    Row { name, stage, distil: None, training: "", longer: 1 }
}

/// With a learning rate that falls to 0, as in `recipes/ternary.toml`.
const fn trained(name: &'static str, stage: &'static str, distil: &'static str) -> Row {
    Row { distil: Some(distil), training: "min_lr_ratio = 0.0\n", ..untrained(name, stage) }
}

/// With a learning rate that ends at a tenth of its peak, as in other training.
const fn to_a_tenth(name: &'static str, stage: &'static str, distil: &'static str) -> Row {
    Row { training: "", ..trained(name, stage, distil) }
}

/// A new comparison = one row.
pub const ROWS: [Row; 20] = [
    untrained("GPTQ, 2 bits, groups of 64", "gptq\nbits = 2\ntrue_sequential = true"),
    untrained("AWQ, 2 bits, groups of 64", "awq\nbits = 2"),
    untrained("mean magnitudes, a scale a tensor", "ternary\nscale = 'tensor'\nsolver = 'absmean'"),
    untrained("mean magnitudes, a scale a row", "ternary\nsolver = 'absmean'"),
    untrained("solved, a scale a tensor", "ternary\nscale = 'tensor'"),
    untrained("solved, a scale a row", "ternary"),
    untrained("solved, groups of 64", "ternary\nscale = 64"),
    // As large as 2 bits in groups of 64, orders of columns aside.
    untrained("solved, a scale a row, some layers in 4 bits", "ternary\nmixed_precision = { bits_per_weight = 2.375 }"),
    to_a_tenth("hard labels, a scale a row, learning rate to a tenth", "ternary", "kd_weight = 0.0\nce_weight = 1.0"),
    to_a_tenth("distilled, a scale a tensor, learning rate to a tenth", "ternary\nscale = 'tensor'", ""),
    to_a_tenth("distilled, a scale a row, learning rate to a tenth", "ternary", ""),
    to_a_tenth("distilled, a scale a row, sub-norms, learning rate to a tenth", "ternary\nsub_norms = true", ""),
    Row { longer: 4, ..to_a_tenth("distilled, a scale a row, learning rate to a tenth, four times as long", "ternary", "") },
    trained("distilled, a scale a row", "ternary", ""),
    trained("distilled, groups of 64", "ternary\nscale = 64", ""),
    trained("distilled, a scale a row, sub-norms", "ternary\nsub_norms = true", ""),
    trained("distilled, a scale a row, from what was solved", "ternary\nstart = 'gptq'", ""),
    trained("distilled, a scale a row, some layers in 4 bits", "ternary\nmixed_precision = { bits_per_weight = 2.375 }", ""),
    trained("distilled, a scale a row, relations too", "ternary", "attention = { loss = 'relations', weight = 1.0 }"),
    Row { longer: 4, ..trained("distilled, a scale a row, four times as long", "ternary", "") },
];

impl Row {
    /// Tokens that it is trained on, of a row with a length of one `tokens`; none where it is not trained.
    fn tokens(&self, tokens: u64) -> u64 {
        if self.is_trained() { tokens * self.longer } else { 0 }
    }

    fn is_trained(&self) -> bool {
        self.distil.is_some()
    }

    /// What forwards are in: a third faster in bf16 where they are many, and as good (house-6m
    /// with 65 536 tokens: perplexity 12.749 in f32, 12.768 in bf16).
    pub fn kind(&self) -> Kind {
        if self.is_trained() { Kind::BFloat16 } else { Kind::Float }
    }

    pub fn is_distilled(&self) -> bool {
        self.distil.is_some_and(|keys| !keys.contains("kd_weight = 0.0"))
    }

    pub fn recipe(&self, subject: &Subject, tokens: u64) -> String {
        let (method, keys) = self.stage.split_once('\n').unwrap_or((self.stage, ""));
        let text = |name: &str| format!("'{}'", subject.text(name).display());
        let training = self.distil.map_or(String::new(), |distil| {
            format!(
                "[stage.ternary.distil]\n{distil}\n[stage.ternary.distil.training]\ntext = [{}]\ntokens = {}\nlength = {}\n{}",
                TEXTS.map(text).join(", "),
                self.tokens(tokens),
                subject.window().min(256),
                self.training,
            )
        });
        format!(
            "[calibration]\ntext = {0}\nsequences = 64\nlength = {1}\n[[stage]]\n[stage.{method}]\n{keys}\n{training}\
             [evaluate]\ntext = {0}\nmax_windows = 1\n",
            text(TEXTS[0]),
            subject.window(),
        )
    }
}
