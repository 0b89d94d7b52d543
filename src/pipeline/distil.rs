//! A stage that distils: the model it is handed is the student, and the recipe's own
//! model, or another, the teacher.

use super::journal::{Made, StageJournal};
use super::{Done, fingerprint};
use crate::checkpoint::{DenseTensor, write_atomically};
use crate::compress::Compute;
use crate::compress::distil::cache::{Contents, TopCache};
use crate::compress::distil::{Distillation, Matching, OnPolicyDistillation, Teacher};
use crate::compress::train::{Network, Objective, Trained, Trainer};
use crate::error::{Error, Result};
use crate::model::Part;
use crate::progress::Progress;
use crate::quant::{Weight, WeightStore};
use crate::recipe::{Distil, Training, Trains};
use crate::report::{End, StageReport, TrainingReport};
use crate::runtime::{self, Model};
use crate::text::corpus::{Corpus, Pieces};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

/// What the stage is run with.
pub struct Lessons<'a> {
    /// What is learnt, and how.
    pub plan: &'a Distil,
    /// The student as it is.
    pub student: Arc<dyn WeightStore>,
    /// The recipe's model: the tokenizer's owner, and the teacher unless the plan names
    /// another.
    pub original: &'a Model,
    /// Where and in what libtorch computes.
    pub compute: Compute,
    /// Threads of the device's runtime, which writes texts; 0 = one a core.
    pub threads: usize,
    /// What has been done so far.
    pub journal: &'a StageJournal,
    /// Hears how far it is.
    pub progress: &'a dyn Progress,
}

impl Lessons<'_> {
    /// Runs the stage.
    pub fn run(&self) -> Result<Done> {
        let start = Instant::now();
        let spec = self.student.spec();
        let mut trained = None;
        for part in spec.parts() {
            self.journal.part(spec, part, || {
                if trained.is_none() {
                    trained = Some(self.train()?);
                }
                Ok(parameters(trained.as_ref().expect("just trained"), part))
            })?;
        }
        let training = read_reports(&self.reports())?;
        for report in training.iter().filter(|report| report.end == End::Diverged) {
            tracing::warn!("distil: {}: {}; try a smaller learning_rate", report.name, report.end);
        }
        Ok(Done {
            report: StageReport { method: "distil".into(), seconds: start.elapsed().as_secs_f64(), layers: Vec::new(), training },
            model: self.journal.model(spec)?,
        })
    }

    fn reports(&self) -> PathBuf {
        self.journal.file("training.json")
    }

    /// The student once it has learnt.
    fn train(&self) -> Result<Network> {
        let training = &self.plan.training;
        let mut pieces = self.pieces()?;
        let network = Network::trained(&*self.student, self.compute, &trained(training, self.student.spec()))?;
        let all = network.spec().blocks.len() + 1;
        let teacher = if self.plan.needs_teacher() { Some(self.teacher(&mut pieces)?) } else { None };
        let mut objective: Box<dyn Objective> = match (&self.plan.on_policy, teacher) {
            (Some(on_policy), Some(Teacher::Network(teacher))) => {
                Box::new(OnPolicyDistillation::new(self.plan, on_policy, teacher, self.threads)?)
            }
            (_, teacher) => {
                let matching = self.matching(&teacher, None)?;
                Box::new(Distillation::new(self.plan, teacher, matching, all))
            }
        };
        let mut trainer = Trainer::new(&network, &*objective, training);
        let end = trainer.run(&mut *objective, &mut pieces, &self.journal.file("state.safetensors"), self.progress)?;
        let reports = [TrainingReport { name: "distillation".into(), end, lines: trainer.lines().to_vec() }];
        let text = serde_json::to_vec(&reports).expect("a report is JSON");
        write_atomically(&self.reports(), |out| out.write_all(&text))?;
        Ok(network)
    }

    fn tokens(&self) -> PathBuf {
        self.journal.file("tokens.safetensors")
    }

    /// What it is trained on.
    fn pieces(&self) -> Result<Pieces> {
        let Training { text, length, seed, held_out, .. } = &self.plan.training;
        let spec = self.student.spec();
        let corpus = Corpus::open_or_build(text, self.original.tokenizer.as_ref(), spec.vocab_size, &self.tokens(), self.progress)?;
        corpus.pieces(*length, spec.special.bos, *seed, *held_out)
    }

    fn matching(&self, teacher: &Option<Teacher>, only: Option<usize>) -> Result<Option<Matching>> {
        let Some(Teacher::Network(teacher)) = teacher else { return Ok(None) };
        let refuse = |reason: String| Error::Usage(format!("distil: {reason}"));
        let matching = Matching::new(self.plan, self.student.spec(), teacher.spec(), only, self.compute.device).map_err(refuse)?;
        Ok(Some(matching).filter(|matching| !matching.is_empty()))
    }

    fn teacher(&self, pieces: &mut Pieces) -> Result<Teacher> {
        let named = self.plan.teacher.as_ref().map(|path| runtime::open_weights(path)).transpose()?;
        let teacher = named.as_ref().unwrap_or(self.original);
        let (its, own) = (teacher.spec(), self.student.spec());
        let Training { length, held_out, batch, .. } = self.plan.training;
        if its.vocab_size != own.vocab_size {
            let reason = format!("the teacher knows {} tokens and the student {}: they must be the same", its.vocab_size, own.vocab_size);
            return Err(Error::format(&teacher.path, reason));
        }
        if its.context < length {
            let reason = format!("the teacher's context of {} tokens is shorter than a training sequence: set length = {0}", its.context);
            return Err(Error::format(&teacher.path, reason));
        }
        let load = || Network::frozen(&*teacher.store, self.compute);
        let Some(cache) = &self.plan.cache else { return Ok(Teacher::Network(load()?)) };
        let contents = Contents {
            key: fingerprint::teacher(teacher, &self.tokens(), &self.plan.training, self.progress)?,
            training: self.plan.training.steps() * batch as u64,
            held_out,
            length,
            top_k: cache.top_k,
            vocab_size: own.vocab_size,
            temperature: self.plan.temperature,
        };
        TopCache::open_or_make(&cache.file, contents, load, pieces, self.compute.device, self.progress).map(Teacher::Cache)
    }
}

/// What of a model is trained.
fn trained(training: &Training, spec: &crate::model::ModelSpec) -> Trained {
    let names = training.variables(spec);
    match &training.trains {
        Trains::Named(_) => Trained::Parameters(names),
        Trains::Adapters(adapters) => {
            Trained::Adapters { of: names, rank: adapters.rank, alpha: adapters.alpha, seed: training.seed }
        }
    }
}

fn parameters(network: &Network, part: Part) -> Made {
    let weight = |p: crate::model::Parameter| {
        let values = network.values(&p.name);
        (p.name.clone(), Weight::Dense(DenseTensor::from_f32(&p.name, Path::new(""), p.shape, &values)))
    };
    Made { weights: network.spec().parameters_of(part).map(weight).collect(), layers: Vec::new() }
}

fn read_reports(path: &Path) -> Result<Vec<TrainingReport>> {
    let text = std::fs::read(path).map_err(Error::io("read", path))?;
    serde_json::from_slice(&text).map_err(|e| Error::format(path, e.to_string()))
}
