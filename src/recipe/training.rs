//! `[stage.….training]`: how a model is trained, whatever it is trained for.

use super::error::{Checked, RecipeError};
use crate::model::{ModelSpec, ParameterKind};
use crate::pattern::matches;
use serde::{Deserialize, Serialize, Serializer};
use std::path::{Path, PathBuf};

/// As it is written, and, once checked, as it is done.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Training {
    /// Texts, JSONL files, token files, or folders of them.
    #[serde(serialize_with = "names")]
    pub text: Vec<PathBuf>,
    /// Tokens of a sequence.
    pub length: usize,
    /// Tokens that are trained on, all steps together.
    pub tokens: u64,
    /// Sequences of a step.
    pub batch: usize,
    /// Sequences that go through the model together.
    pub micro_batch: usize,
    /// Of the order of the data, and of what starts at random.
    pub seed: u64,
    /// What gradients do.
    pub optimizer: Optimizer,
    /// AdamW: shares of the past in the running means of gradients and of their squares.
    pub betas: [f64; 2],
    /// AdamW: what keeps a quotient finite.
    pub epsilon: f64,
    /// SGD: share of the past in the velocity.
    pub momentum: f64,
    /// At its peak.
    pub learning_rate: f64,
    /// Share of the steps over which the learning rate rises.
    pub warmup: f64,
    /// How it falls.
    pub schedule: Decay,
    /// Final learning rate, as a share of its peak.
    #[serde(alias = "last")]
    pub min_lr_ratio: f64,
    /// Of matrices, relative to the learning rate.
    pub weight_decay: f64,
    /// Norm of the gradients at most; 0 = any.
    pub clip: f64,
    /// Decay of the exponential moving average of the weights, which is evaluated and kept;
    /// 0 = no average.
    #[serde(alias = "average")]
    pub ema_decay: f64,
    /// Parameters that are trained.
    #[serde(alias = "trains")]
    pub trainable: Trainable,
    /// Parameters that are not, by canonical name, * allowed.
    pub freeze: Vec<String>,
    /// Whether blocks are computed again for their gradients, in less memory.
    pub checkpointing: bool,
    /// Steps between evaluations; 0 = none.
    pub evaluate_every: u64,
    /// Sequences that are kept from training and evaluated on.
    pub held_out: usize,
    /// Evaluations without progress before training stops; 0 = it goes on.
    pub patience: u64,
    /// Minutes between savings of the state.
    pub save_minutes: f64,
}

impl Default for Training {
    fn default() -> Self {
        Self {
            text: Vec::new(),
            length: 256,
            tokens: 2_000_000,
            batch: 32,
            micro_batch: 8,
            seed: 0,
            optimizer: Optimizer::Adamw,
            betas: [0.9, 0.95],
            epsilon: 1e-8,
            momentum: 0.9,
            learning_rate: 1e-3,
            warmup: 0.05,
            schedule: Decay::Cosine,
            min_lr_ratio: 0.1,
            weight_decay: 0.1,
            clip: 1.0,
            ema_decay: 0.0,
            trainable: Trainable::Named(TrainableName::All),
            freeze: Vec::new(),
            checkpointing: false,
            evaluate_every: 50,
            held_out: 16,
            patience: 0,
            save_minutes: 5.0,
        }
    }
}

/// The optimisers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Optimizer {
    /// Adam with decoupled weight decay.
    Adamw,
    /// Gradient descent with momentum.
    Sgd,
}

/// How the learning rate falls behind the warm-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decay {
    /// It does not.
    Constant,
    /// In a line.
    Linear,
    /// As half a wave.
    Cosine,
    /// In a line, and from half of the steps on by a third less and without weight decay: what
    /// ternary weights want, which have to settle ("The Era of 1-bit LLMs: Training Tips, Code
    /// and FAQ", section 2).
    TwoStage,
}

/// What is trained: a name, or adapters.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged, expecting = "expected \"all\", \"norms\", or { rank = 8, alpha = 16, targets = [\"*\"] } for low-rank adapters")]
pub enum Trainable {
    /// By name.
    Named(TrainableName),
    /// Low-rank adapters, merged at the end.
    Adapters(Adapters),
}

/// What can be trained by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TrainableName {
    /// Every parameter.
    All,
    /// Weights of norms, biases, and the vectors of mixers.
    Norms,
}

/// Low-rank adapters (LoRA).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Adapters {
    /// Columns of the factors.
    pub rank: usize,
    /// The correction is alpha / rank · B A.
    pub alpha: f64,
    /// Linear layers by canonical name, * allowed.
    pub targets: Vec<String>,
}

impl Default for Adapters {
    fn default() -> Self {
        Self { rank: 8, alpha: 16.0, targets: vec!["*".into()] }
    }
}

/// Names alone: the folders of a machine are not recorded.
fn names<S: Serializer>(paths: &[PathBuf], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(paths.iter().map(|path| path.file_name().unwrap_or_default().to_string_lossy()))
}

impl Training {
    /// Steps of the optimiser.
    pub fn steps(&self) -> u64 {
        self.tokens.div_ceil((self.batch * self.length) as u64)
    }

    /// For a model, with paths relative to a folder.
    pub(super) fn checked(&self, what: &str, spec: &ModelSpec, folder: &Path) -> Checked<Self> {
        let fail = |error| Err(RecipeError::at(format!("{what}: training"))(error));
        let share = |x: f64| (0.0..1.0).contains(&x);
        let positive = |x: f64| x > 0.0 && x.is_finite();
        let length = self.length.min(spec.context);
        let (default, adamw) = (Self::default(), self.optimizer == Optimizer::Adamw);
        match () {
            () if adamw && self.momentum != default.momentum => {
                return fail(RecipeError::Unused { key: "momentum", only: "optimizer = \"sgd\"" });
            }
            () if !adamw && (self.betas, self.epsilon) != (default.betas, default.epsilon) => {
                return fail(RecipeError::Unused { key: "betas and epsilon", only: "optimizer = \"adamw\"" });
            }
            () if self.schedule == Decay::Constant && self.min_lr_ratio != default.min_lr_ratio => {
                let reason =
                    "min_lr_ratio is what the learning rate falls to, and with schedule = \"constant\" it does not fall; leave it out";
                return fail(RecipeError::conflict(&["min_lr_ratio", "schedule"], reason));
            }
            () if self.text.is_empty() => {
                let reason = "text names nothing to train on: text = [\"some.txt\", \"a-folder\"]";
                return fail(RecipeError::Missing { key: "text", reason });
            }
            () if length < 2 => return fail(RecipeError::must_be("length", "at least 2")),
            () if self.tokens == 0 => return fail(RecipeError::must_be("tokens", "at least 1")),
            () if self.batch == 0 || self.micro_batch == 0 => return fail(RecipeError::must_be("batch and micro_batch", "at least 1")),
            () if self.batch.checked_mul(length).is_none_or(|n| n > 1 << 30) => {
                return fail(RecipeError::LargeBatch(self.batch));
            }
            () if !positive(self.learning_rate) => {
                return fail(RecipeError::range("learning_rate", self.learning_rate, "a positive number"));
            }
            () if !(self.betas.iter().all(|&b| share(b)) && share(self.momentum) && share(self.ema_decay)) => {
                return fail(RecipeError::must_be("betas, momentum and ema_decay", "from 0 to below 1"));
            }
            () if !positive(self.epsilon) => return fail(RecipeError::must_be("epsilon", "a positive number, such as 1e-8")),
            () if !share(self.warmup) => {
                return fail(RecipeError::NoShare { key: "warmup", value: None, of: "the steps", range: "from 0 to below 1" });
            }
            () if !(0.0..=1.0).contains(&self.min_lr_ratio) => {
                return fail(RecipeError::NoShare { key: "min_lr_ratio", value: None, of: "the learning rate", range: "from 0 to 1" });
            }
            () if !(self.weight_decay >= 0.0 && self.weight_decay.is_finite()) => {
                return fail(RecipeError::must_be("weight_decay", "0 or more"));
            }
            () if !(self.clip >= 0.0 && self.clip.is_finite()) => return fail(RecipeError::must_be("clip", "a norm, or 0 for none")),
            () if !(positive(self.save_minutes) && self.save_minutes <= 1e6) => {
                return fail(RecipeError::must_be("save_minutes", "a positive number, a million at most"));
            }
            () if self.evaluate_every > 0 && self.held_out == 0 => {
                let reason = "evaluations need sequences: set held_out, or evaluate_every = 0";
                return fail(RecipeError::conflict(&["evaluate_every", "held_out"], reason));
            }
            () if self.patience > 0 && self.evaluate_every == 0 => {
                let reason = "patience counts evaluations, and there are none: set evaluate_every";
                return fail(RecipeError::conflict(&["patience", "evaluate_every"], reason));
            }
            () => (),
        }
        if let Trainable::Adapters(adapters) = &self.trainable
            && (!(1..=spec.hidden_size).contains(&adapters.rank) || !positive(adapters.alpha))
        {
            let range = format!("from 1 to the model's width of {}, and its alpha a positive number", spec.hidden_size);
            return fail(RecipeError::must_be("an adapter's rank", range));
        }
        let checked = Self { text: self.text.iter().map(|file| folder.join(file)).collect(), length, ..self.clone() };
        let targets: &[String] = match &self.trainable {
            Trainable::Adapters(adapters) => &adapters.targets,
            Trainable::Named(_) => &[],
        };
        let parameters = spec.parameters();
        if let Some(pattern) = self.freeze.iter().chain(targets).find(|pattern| !parameters.iter().any(|p| matches(pattern, &p.name))) {
            return fail(RecipeError::NoSuchName { pattern: format!("\"{pattern}\""), of: "parameter of this model" });
        }
        if checked.variables(spec).is_empty() {
            let reason = "everything is frozen: there is nothing left to train";
            return fail(RecipeError::conflict(&["freeze", "trainable"], reason));
        }
        Ok(checked)
    }

    /// Canonical names of what is trained, or has an adapter.
    pub fn variables(&self, spec: &ModelSpec) -> Vec<String> {
        let wanted = |kind: ParameterKind, name: &str| match &self.trainable {
            Trainable::Named(TrainableName::All) => true,
            Trainable::Named(TrainableName::Norms) => kind == ParameterKind::Vector,
            Trainable::Adapters(adapters) => kind == ParameterKind::Linear && adapters.targets.iter().any(|t| matches(t, name)),
        };
        let frozen = |name: &str| self.freeze.iter().any(|pattern| matches(pattern, name));
        spec.parameters().into_iter().filter(|p| wanted(p.kind, &p.name) && !frozen(&p.name)).map(|p| p.name).collect()
    }
}
