//! A stage that distils: the model it is handed is the student, and the recipe's own
//! model, or another, the teacher.

use super::journal::StageJournal;
use super::{StageResult, fingerprint};
use crate::compress::distil::cache::{Contents, TopCache};
use crate::compress::distil::{Distillation, Matching, OnPolicyDistillation, Teacher};
use crate::compress::train::{Network, Objective, Rounded, Trained, Trainer};
use crate::compress::{Compute, MallocTuning};
use crate::error::{Error, Result};
use crate::model::ModelSpec;
use crate::progress::Progress;
use crate::quant::{Weight, WeightStore};
use crate::recipe::{Distil, Phase, Trainable, Training};
use crate::report::{End, StageReport, TrainingReport};
use crate::runtime::{self, CommonVocabulary, Model};
use crate::spec::SpecialTokens;
use crate::text::corpus::{Corpus, Pieces};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

/// Inputs of one distillation run.
pub struct DistillationRun<'a> {
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
    /// What forwards round, where they do.
    pub rounded: Option<Rounded>,
}

/// Corpus and teacher that the phases of a run share.
struct DistillationContext {
    pieces: Pieces,
    teacher: Option<Teacher>,
}

impl DistillationRun<'_> {
    /// Runs the stage: one phase after the other, each finished one on disk before the
    /// next begins.
    pub fn run(&self) -> Result<StageResult> {
        let start = Instant::now();
        let spec = self.student.spec();
        let named = self.plan.teacher.as_ref().map(|path| runtime::open(path, None)).transpose()?;
        let teacher = named.as_ref().unwrap_or(self.original);
        let vocabulary = self.check(teacher)?;
        let mut remarks = differences(&spec.special, &teacher.spec().special);
        remarks.iter().for_each(|remark| tracing::warn!("distil: {}: {remark}", teacher.path.display()));
        remarks.extend(vocabulary.remark.clone());
        let (mut context, mut student, mut training) = (None, self.student.clone(), Vec::new());
        let mut first = 0;
        for (i, phase) in self.plan.phases(spec.blocks.len()).iter().enumerate() {
            // Where a block is frozen there is nothing to do.
            if trained(&phase.plan.training, spec, phase.only).is_nothing() {
                continue;
            }
            let (made, report) = self.journal.phase(&format!("phase-{i}"), spec, || {
                if context.is_none() {
                    context = Some(self.context(teacher, vocabulary.size)?);
                }
                let state = self.journal.file(&format!("phase-{i}.state.safetensors"));
                self.train(phase, &*student, context.as_mut().expect("just made"), (&state, first))
            })?;
            first += phase.plan.training.steps() * phase.plan.training.batch as u64;
            if report.end == End::Diverged {
                tracing::warn!("distil: {}: {}; try a smaller learning_rate", report.name, report.end);
            }
            training.push(report);
            student = Arc::new(made);
        }
        let report = StageReport { training, remarks, ..StageReport::of("distil", start.elapsed().as_secs_f64()) };
        Ok(StageResult { report, model: student })
    }

    /// The student once it has learnt, by canonical name.
    fn train(
        &self,
        phase: &Phase,
        student: &dyn WeightStore,
        DistillationContext { pieces, teacher }: &mut DistillationContext,
        (state, first): (&Path, u64),
    ) -> Result<(Vec<(String, Weight)>, TrainingReport)> {
        let Phase { name, only, plan } = phase;
        let spec = student.spec();
        // Before all that it is to give back, so that it goes last.
        let _malloc_tuning = MallocTuning::begin();
        let network = Network::trained(student, self.compute, &trained(&plan.training, spec, *only))?.rounding(self.rounded.clone());
        let depth = only.map_or(spec.blocks.len() + 1, |block| block + 2);
        let mut objective: Box<dyn Objective> = match (&plan.on_policy, &*teacher) {
            (Some(on_policy), Some(Teacher::Network(teacher))) => {
                Box::new(OnPolicyDistillation::new(plan, on_policy, teacher, self.threads)?)
            }
            (_, teacher) => {
                let matching = self.matching(plan, teacher, *only)?;
                Box::new(Distillation::new(plan, teacher.as_ref(), matching, depth))
            }
        };
        let mut trainer = Trainer::new(&network, &*objective, &plan.training);
        let end = trainer.run(&mut *objective, pieces, first, state, self.progress)?;
        Ok((network.weights(), TrainingReport { name: name.clone(), end, lines: trainer.lines().to_vec() }))
    }

    fn tokens(&self) -> PathBuf {
        // By their bytes: paths need not be UTF-8.
        let paths = self.plan.training.text.iter().map(|path| path.as_os_str().as_encoded_bytes()).collect::<Vec<_>>();
        self.journal.shared(&format!("tokens-{}.safetensors", blake3::hash(&paths.join(&b'\n')).to_hex()))
    }

    /// Training corpus, limited to the tokens that teacher and student both have.
    fn corpus(&self, vocabulary: usize) -> Result<Corpus> {
        let tokenizer = self.original.tokenizer.as_ref();
        Corpus::open_or_build(&self.plan.training.text, tokenizer, vocabulary, &self.tokens(), self.progress)
    }

    fn matching(&self, plan: &Distil, teacher: &Option<Teacher>, only: Option<usize>) -> Result<Option<Matching>> {
        let Some(Teacher::Network(teacher)) = teacher else { return Ok(None) };
        let refuse = |reason: String| Error::Usage(format!("distil: {reason}"));
        let matching = Matching::new(plan, self.student.spec(), teacher.spec(), only, self.compute.device).map_err(refuse)?;
        Ok(Some(matching).filter(|matching| !matching.is_empty()))
    }

    /// Fails where the student cannot learn from a teacher.
    fn check(&self, teacher: &Model) -> Result<CommonVocabulary> {
        let (path, spec) = (&teacher.path, teacher.spec());
        if let (Some(own), Some(its)) = (&self.original.tokenizer, &teacher.tokenizer) {
            own.check_same(its)?;
        }
        let own = self.student.spec().vocab_size;
        let vocabulary = CommonVocabulary::of(own, self.original.tokenizer.as_ref(), teacher, ["student", "teacher"])?;
        if let Some(cache) = self.plan.cache.as_ref().filter(|cache| cache.top_k >= vocabulary.size) {
            let (top_k, size) = (cache.top_k, vocabulary.size);
            return Err(Error::format(path, format!("cache: top_k {top_k} must be below the {size} tokens that teacher and student have")));
        }
        if spec.context < self.plan.training.length {
            let reason = format!("the teacher's context is shorter than a training sequence: set training.length = {}", spec.context);
            return Err(Error::format(path, reason));
        }
        if let Some(remark) = &vocabulary.remark {
            tracing::warn!("distil: {remark}");
        }
        Ok(vocabulary)
    }

    fn context(&self, teacher: &Model, vocab_size: usize) -> Result<DistillationContext> {
        let Training { length, seed, held_out, batch, .. } = self.plan.training;
        let spec = self.student.spec();
        let mut pieces = self.corpus(vocab_size)?.pieces(length, spec.special.prefix(), seed, held_out)?;
        let load = || Network::frozen(&*teacher.store, self.compute);
        let teacher = match &self.plan.cache {
            _ if !self.plan.needs_teacher() => None,
            None => Some(Teacher::Network(Box::new(load()?))),
            Some(cache) => {
                let contents = Contents {
                    key: fingerprint::teacher(
                        teacher,
                        &self.tokens(),
                        &self.plan.training,
                        spec.special.prefix(),
                        self.compute,
                        self.progress,
                    )?,
                    training: self.plan.training.steps() * batch as u64,
                    held_out: pieces.validation().len(),
                    length,
                    top_k: cache.top_k,
                    vocab_size,
                    temperature: self.plan.temperature,
                };
                let made = TopCache::open_or_make(&cache.file, contents, load, &mut pieces, self.compute.device, self.progress);
                Some(Teacher::Cache(made?))
            }
        };
        Ok(DistillationContext { pieces, teacher })
    }
}

/// Differences between the tokens that begin and end texts for teacher and student. A student that learns from
/// a teacher that ends texts with another token learns not to end them with its own.
fn differences(student: &SpecialTokens, teacher: &SpecialTokens) -> Vec<String> {
    let tokens = |ids: &[u32]| match ids {
        [] => "no token".to_owned(),
        [one] => format!("token {one}"),
        several => format!("tokens {}", several.iter().map(u32::to_string).collect::<Vec<_>>().join(", ")),
    };
    let sorted = |ids: &[u32]| ids.iter().copied().collect::<BTreeSet<_>>();
    let mut found = Vec::new();
    if sorted(&student.eos) != sorted(&teacher.eos) {
        found.push(format!("the teacher ends texts with {} and the student with {}", tokens(&teacher.eos), tokens(&student.eos)));
    }
    if student.prefix() != teacher.prefix() {
        let (its, own) = (tokens(teacher.prefix()), tokens(student.prefix()));
        found.push(format!("the teacher's tokenizer puts {its} before a text and the student's {own}; both are given the student's"));
    }
    found
}

/// What of a model is trained; of one block alone where it is.
fn trained(training: &Training, spec: &ModelSpec, only: Option<usize>) -> Trained {
    let of_block: Option<Vec<String>> =
        only.map(|block| spec.roles(block).into_iter().map(|(role, ..)| spec.block_name(block, &role)).collect());
    let wanted = |name: &String| of_block.as_ref().is_none_or(|names| names.contains(name));
    let names = training.variables(spec).into_iter().filter(wanted).collect();
    match &training.trainable {
        Trainable::Named(_) => Trained::Parameters(names),
        Trainable::Adapters(adapters) => Trained::Adapters { of: names, rank: adapters.rank, alpha: adapters.alpha, seed: training.seed },
    }
}
