//! Runs a recipe on a model: calibrate, compress block by block, write, measure,
//! read back. Every finished block is on disk before the next begins, so a run
//! that was killed goes on where it stopped.

mod calibration;
mod distil;
mod fingerprint;
mod journal;
mod mixed_precision;
mod prune;
mod qat;
mod quantize;
mod round;
mod sparsify;
mod student;
mod verify;
mod walk;

use crate::checkpoint::{FolderLock, check_unchanged};
use crate::compress::{Compute, MallocTuning, TorchLogits};
use crate::error::{Error, Result};
use crate::eval::tasks::{self, Accuracy, Ask, Subject, Task};
use crate::eval::{Evaluation, Footprint, Measured, evaluate, speed, tokens_needed, windows};
use crate::export::{self, Format};
use crate::memory::AnonymousPeak;
use crate::model::Window;
use crate::model::families::CONFIG;
use crate::paths::Inputs;
use crate::progress::{Progress, Unit};
use crate::quant::WeightStore;
use crate::quant::native::Notes;
use crate::recipe::{Calibration, CalibrationUse, Gate, OutputFormat, RawRecipe, Recipe, Stage, TextSource};
use crate::report::{CompressReport, DecodeSpeed, GateResult, StageReport};
use crate::runtime::{self, Activations, Decoder, Model, NativeLogits};
use crate::text::Text;
use crate::text::read::STANDARD_INPUT;
use journal::Journal;
use serde_json::json;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use walk::{Sample, Walk};

/// What a run is asked for besides its recipe.
pub struct Options<'a> {
    /// The output folder.
    pub out: &'a Path,
    /// Where and in what libtorch computes.
    pub compute: Compute,
    /// Threads of the native runtime; 0 = one a core.
    pub threads: usize,
    /// What to do with an unfinished run of another recipe or model.
    pub unfinished: Unfinished,
}

pub use calibration::sequences as calibration_sequences;
pub use journal::Unfinished;

/// Compresses a model by a recipe into a folder.
pub fn compress(raw: &RawRecipe, mut model: Model, options: &Options, progress: &dyn Progress) -> Result<CompressReport> {
    let start = Instant::now();
    let memory = AnonymousPeak::watch();
    if model.native.is_some() {
        return Err(Error::format(&model.path, "this model is compressed already; start from the full-precision checkpoint"));
    }
    refuse_folder_of("the model", &model.path, options.out)?;
    let recipe = raw.resolve(model.spec())?;
    check_stages(&recipe, &model)?;
    let format = export::format(recipe.output, &model)?;
    recipe.example(0, model.spec()).map_or(Ok(()), |spec| format.check(&spec))?;
    let eos = model.spec().special.eos.first().copied();
    if let Some(tokenizer) = &mut model.tokenizer {
        tokenizer.default_eos(eos);
    }
    let texts = Texts::open(&recipe, &model, options.out)?;
    let tasks = read_tasks(&recipe, &model)?;
    check_inputs(&recipe, raw, &model, &tasks, &*format, options.out)?;
    let lock = FolderLock::take(options.out)?;
    format.check_folder(options.out)?;
    check_weights(&model, progress)?;
    let key = fingerprint::key(&recipe, &model, &texts.hashes()?, options.compute, progress)?;
    let journal = Journal::open(options.out, lock, &key, options.unfinished)?;

    let used = recipe.stages.iter().map(Stage::calibration_use).max().unwrap_or(CalibrationUse::Nothing);
    let (count, length) = used.shape(recipe.calibration.sequences, recipe.calibration.length);
    let sequences = journal.tokens("calibration", || match count {
        0 => Ok(Vec::new()),
        _ => {
            let calibration = Calibration { sequences: count, length, ..recipe.calibration.clone() };
            calibration::sequences(&model, texts.calibration.as_ref(), &calibration, options.threads, progress)
        }
    })?;
    let e = &recipe.evaluate;
    let held_out = journal.tokens("held-out", || match &texts.evaluation {
        Some(text) => Ok(vec![text.first_ids(model.tokenizer()?, tokens_needed(e.window, e.max_windows), progress)?]),
        None => calibration::self_text(&model, &recipe, options.threads, progress).map(|ids| vec![ids]),
    })?;
    // Cut before any work is done, so that a text that is too short is found now.
    let windows = windows(&held_out[0], model.spec(), e.protocol, e.window, e.max_windows)?;
    drop(held_out);

    let run = Run { recipe: &recipe, format: &*format, model: &model, options, journal: &journal, progress };
    let staged = run.stages(&sequences)?;
    let mut notes = Notes {
        recipe: serde_json::to_value(&recipe).expect("a recipe is JSON"),
        chat_template: model.notes.chat_template.clone(),
        provenance: json!({ "tool": format!("thimble {}", env!("CARGO_PKG_VERSION")), "source": source_name(&model.path), "fingerprint": key }),
        ..Notes::default()
    };
    let draft = run.write_measured(&staged, &windows, &tasks, &mut notes)?;
    let written = runtime::open(&draft.dir, None)?.store;
    let read_back = verify::read_back(&*written, &windows[0].ids, staged.store, options)?;
    check_unchanged()?;
    // Only what was read back and compared takes the place of an earlier model.
    let files = export::put_in_place(&draft.files, &draft.dir, options.out)?;
    let (footprint, original) = (Footprint::of(&*written)?, Footprint::of(&*model.store)?);
    let speed = |store| decode_speed(store, recipe.evaluate.activations, options);
    let speed = DecodeSpeed { before: speed(&*model.store)?, after: speed(&*written)? };
    let mut report = CompressReport {
        stages: staged.reports,
        before: draft.before,
        after: draft.after,
        size_bytes: draft.size_bytes,
        original_size_bytes: model.size_bytes(),
        footprint,
        original_bits_per_weight: original.bits_per_weight,
        decode_tokens_per_s: speed,
        max_read_back_difference: read_back,
        peak_memory_bytes: memory.bytes(),
        seconds: start.elapsed().as_secs_f64(),
        resumed_blocks: journal.resumed(),
        gate: draft.gate,
        files,
    };
    report.write(options.out, &recipe, written.spec())?;
    journal.remove()?;
    Ok(report)
}

/// Result of a stage.
struct StageResult {
    /// The model after the stage.
    model: Arc<dyn WeightStore>,
    /// For the report.
    report: StageReport,
}

/// What the steps of a run have in common.
struct Run<'a> {
    recipe: &'a Recipe,
    format: &'a dyn Format,
    model: &'a Model,
    options: &'a Options<'a>,
    journal: &'a Journal,
    progress: &'a dyn Progress,
}

/// What the stages leave.
struct Staged {
    store: Arc<dyn WeightStore>,
    reports: Vec<StageReport>,
}

/// A written model that is not yet in its place.
struct Draft {
    dir: PathBuf,
    /// Its files, as [`Format::write`] gives them.
    files: Vec<String>,
    before: Evaluation,
    after: Evaluation,
    gate: Option<GateResult>,
    size_bytes: u64,
}

impl Run<'_> {
    /// Each stage starts from what the one before it has left.
    fn stages(&self, sequences: &[Vec<u32>]) -> Result<Staged> {
        let mut reports = Vec::new();
        let mut store = self.model.store.clone();
        // What was known to come out of each stage when the format was checked for all of them.
        let mut expected = Some(store.spec().clone());
        for (i, stage) in self.recipe.stages.iter().enumerate() {
            let journal = self.journal.stage(i)?;
            let sample = Sample { sequences, importance: self.recipe.calibration.token_importance };
            let (compute, threads, progress) = (self.options.compute, self.options.threads, self.progress);
            let walk = Walk { store: &*store, sample, compute, journal: &journal, progress };
            let pruning = prune::Pruning { walk: &walk, activations: self.recipe.evaluate.activations, threads };
            let mut done = match stage {
                Stage::PruneDepth(plan) => pruning.depth(plan)?,
                Stage::PruneWidth(plan) => pruning.width(plan)?,
                Stage::Quantize(plan) => mixed_precision::run(plan, &walk, |plan| match &plan.qat {
                    None => quantize::run(plan, &walk),
                    Some(qat) => qat::run(plan, qat, &walk, (self.model, &store), threads),
                })?,
                Stage::Sparsify(plan) => sparsify::run(plan, &walk, self.recipe.output == OutputFormat::Native)?,
                Stage::Student(shape) => student::run(shape, &*store, &journal)?,
                Stage::Distil(plan) => {
                    let original = self.model;
                    distil::DistillationRun {
                        plan,
                        student: store.clone(),
                        original,
                        compute,
                        threads,
                        journal: &journal,
                        progress,
                        rounded: None,
                    }
                    .run()?
                }
            };
            let sparsified = self.sparsified_before(i);
            if stage.leaves_codes() && !sparsified.is_empty() {
                done.report.remarks.push(sparsify::left(&sparsified, &*done.model)?);
            }
            store = done.model;
            reports.push(done.report);
            // What a stage has searched for may not be what can be written.
            expected = expected.and_then(|spec| stage.example(&spec));
            if expected.as_ref() != Some(store.spec()) {
                self.recipe.example(i + 1, store.spec()).map_or(Ok(()), |spec| self.format.check(&spec))?;
                expected = Some(store.spec().clone());
            }
        }
        Ok(Staged { store: self.format.shipped(store)?, reports })
    }

    /// Layers that the stages before one have sparsified.
    fn sparsified_before(&self, stage: usize) -> BTreeSet<String> {
        let layers = |stage: &Stage| match stage {
            Stage::Sparsify(plan) => plan.layers.clone(),
            Stage::Quantize(_) | Stage::Student(_) | Stage::Distil(_) | Stage::PruneDepth(_) | Stage::PruneWidth(_) => BTreeSet::new(),
        };
        self.recipe.stages[..stage].iter().flat_map(layers).collect()
    }

    /// Measures what is written as it will ship, then writes it again with what was
    /// measured.
    fn write_measured(&self, staged: &Staged, windows: &[Window], tasks: &[Task], notes: &mut Notes) -> Result<Draft> {
        let dir = self.journal.empty_folder("draft")?;
        let write = |notes: &Notes| {
            let files = self.format.write(&*staged.store, notes, &dir)?;
            Ok::<_, Error>((files, runtime::open_weights(&dir)?.size_bytes()))
        };
        let (_, mut size_bytes) = write(notes)?;
        let Measured { model: mut after, reference } = self.measure(&dir, windows)?;
        let mut before = reference.expect("the original is the reference");
        if !tasks.is_empty() {
            (before.tasks, after.tasks) = self.measure_tasks(&dir, tasks)?;
        }
        let stages: Vec<_> = staged.reports.iter().map(StageReport::without_times).collect();
        // The verdict is in the file whose size it judges: until both stand.
        loop {
            let gate = judge(&self.recipe.gate, &before, &after, size_bytes);
            notes.quality = json!({ "before": before, "after": after, "gate": gate, "stages": stages });
            let judged = size_bytes;
            let files;
            (files, size_bytes) = write(notes)?;
            if size_bytes == judged {
                return Ok(Draft { dir, files, before, after, gate, size_bytes });
            }
        }
    }

    /// The original in full precision against what is written, with the recipe's
    /// activations.
    fn measure(&self, written: &Path, windows: &[Window]) -> Result<Measured> {
        let e = &self.recipe.evaluate;
        // Every block asks for the memory that the one before it has freed.
        let _tuning = MallocTuning::begin();
        let written = runtime::open_weights(written)?;
        let mut written = NativeLogits::new(Decoder::new(&*written.store, e.activations, self.options.threads)?);
        // The reference is never less than single precision, whatever calibration runs in.
        let compute = Compute { kind: tch::Kind::Float, ..self.options.compute };
        let mut original = TorchLogits::new(self.model.store.clone(), compute).keeping(TorchLogits::DECODED_BYTES);
        evaluate(&mut written, Some(&mut original), windows, (e.protocol, e.window), self.progress)
    }

    /// Accuracy of the original, whose weights the device's decoder takes in full
    /// precision, and of what is written, with the recipe's activations.
    fn measure_tasks(&self, written: &Path, tasks: &[Task]) -> Result<(Accuracy, Accuracy)> {
        let tokenizer = self.model.tokenizer()?;
        let ask = Ask { limit: self.recipe.evaluate.task_limit, shots: 0 };
        let measure = |store: &dyn WeightStore| {
            let mut source = NativeLogits::new(Decoder::new(store, self.recipe.evaluate.activations, self.options.threads)?);
            tasks::measure(&mut Subject { source: &mut source, tokenizer }, tasks, ask, self.progress)
        };
        let before = measure(&*self.model.store)?;
        // With its tokenizer, which says what goes before a text.
        let after = measure(&*runtime::open(written, None)?.store)?;
        Ok((tasks::compare(&before, None), tasks::compare(&after, Some(&before))))
    }
}

/// The texts a recipe names; `None` where tokens are sampled from the model.
struct Texts {
    calibration: Option<Text>,
    evaluation: Option<Text>,
}

impl Texts {
    fn open(recipe: &Recipe, model: &Model, out: &Path) -> Result<Self> {
        let input = TextSource::File(STANDARD_INPUT.into());
        if recipe.calibration.text == input && recipe.evaluate.text == input {
            let reason = "standard input (-) cannot be both the calibration text and the held-out text; name a file for one of them";
            return Err(Error::Usage(reason.into()));
        }
        let open = |source: &TextSource| -> Result<Option<Text>> {
            match source {
                TextSource::Model => Ok(None),
                TextSource::File(path) => {
                    model.tokenizer()?;
                    Ok(Some(Text::open(path)?.with_scratch(out)))
                }
            }
        };
        Ok(Self { calibration: open(&recipe.calibration.text)?, evaluation: open(&recipe.evaluate.text)? })
    }

    /// Hashes of their contents.
    fn hashes(&self) -> Result<[Option<blake3::Hash>; 2]> {
        let hash = |text: &Option<Text>| text.as_ref().map(Text::hash).transpose();
        Ok([hash(&self.calibration)?, hash(&self.evaluation)?])
    }
}

/// The tasks a recipe names, all of them checked before any work is done.
fn read_tasks(recipe: &Recipe, model: &Model) -> Result<Vec<Task>> {
    let Some(path) = &recipe.evaluate.tasks else { return Ok(Vec::new()) };
    model.tokenizer()?;
    tasks::read(path)
}

/// Fails where a run would write over a file that it reads.
fn check_inputs(recipe: &Recipe, raw: &RawRecipe, model: &Model, tasks: &[Task], format: &dyn Format, out: &Path) -> Result<()> {
    let mut inputs = Inputs::default();
    inputs.add("the recipe", &raw.path);
    inputs.add_all("the model", model.input_files());
    inputs.add_all("the calibration text", recipe.calibration.text.file());
    inputs.add_all("the held-out text", recipe.evaluate.text.file());
    inputs.add_all("a task", tasks.iter().map(|task| &task.path));
    let distils = || recipe.stages.iter().filter_map(Stage::distil);
    for plan in distils() {
        if let Some(teacher) = &plan.teacher {
            refuse_folder_of("the teacher", teacher, out)?;
            inputs.add("the teacher", teacher);
        }
        inputs.add_all("a training text", &plan.training.text);
    }
    for cache in distils().filter_map(|plan| plan.cache.as_ref()) {
        inputs.refuse_file("distil.cache.file", &cache.file)?;
    }
    let written = |name: &str| name == journal::FOLDER || format.writes(name) || CompressReport::writes(out, name);
    inputs.refuse_in_folder("--out", out, written)
}

/// Fails where `out` is the folder of a model that is read: what is written there would be
/// opened in its place.
fn refuse_folder_of(what: &str, model: &Path, out: &Path) -> Result<()> {
    let same = model.is_dir() && matches!((model.canonicalize(), out.canonicalize()), (Ok(a), Ok(b)) if a == b);
    match same {
        true => {
            Err(Error::Usage(format!("{} is {what}'s own folder: its files would be written over; choose another --out", out.display())))
        }
        false => Ok(()),
    }
}

/// Reads every weight once: a broken one in the last block must not be found
/// after hours of work.
fn check_weights(model: &Model, progress: &dyn Progress) -> Result<()> {
    let parameters = model.spec().parameters();
    progress.begin("checking the weights", parameters.len() as u64, Unit::one("tensors"));
    for parameter in parameters {
        model.store.weight(&parameter.name)?;
        progress.advance(1);
    }
    progress.end();
    Ok(())
}

/// Weights that are codes already can be kept, or rounded by a method that takes them; nothing
/// else.
fn check_stages(recipe: &Recipe, model: &Model) -> Result<()> {
    let rounds = |stage: &&Stage| matches!(stage, Stage::Quantize(plan) if plan.method.takes_codes());
    match recipe.stages.iter().find(|stage| !rounds(stage)) {
        Some(stage) if model.is_packed()? => {
            let reason = format!(
                "its weights are quantised already, and {} needs full-precision ones: start from those (where this checkpoint's are, \
                 and are rounded in use, take quantization_config out of its {CONFIG})",
                stage.method()
            );
            Err(Error::format(&model.path, reason))
        }
        _ => Ok(()),
    }
}

/// Tokens decoded per second by the native runtime. A few tokens: a hint, not a
/// benchmark; fewer still of a model that is slow.
fn decode_speed(store: &dyn WeightStore, activations: Activations, options: &Options) -> Result<f64> {
    /// A first try of a few tokens that takes longer is all there is.
    const SLOW: Duration = Duration::from_millis(250);
    let decoder = Decoder::new(store, activations, options.threads)?;
    let longest = decoder.spec().longest_sequence().unwrap_or(usize::MAX);
    let measure = |tokens: usize, repeat| Ok::<_, Error>(speed::measure(&decoder, 1, tokens.min(longest - 1), repeat)?.decode_tokens_per_s);
    let start = Instant::now();
    let first = measure(4, 1)?;
    if start.elapsed() > SLOW { Ok(first) } else { measure(16, 3) }
}

fn judge(gate: &Gate, before: &Evaluation, after: &Evaluation, size_bytes: u64) -> Option<GateResult> {
    let perplexity = gate.max_perplexity_increase.is_none_or(|limit| after.perplexity / before.perplexity - 1.0 <= limit);
    let size = gate.max_size_bytes.is_none_or(|limit| size_bytes <= limit);
    let accuracy = gate.min_accuracy.iter().all(|(task, least)| after.tasks.get(task).is_some_and(|score| score.acc >= *least));
    gate.is_set().then_some(if perplexity && size && accuracy { GateResult::Passed } else { GateResult::Missed })
}

/// The last part of a path: enough to know the model by, and no folder of the
/// machine it was made on. In the hub's cache it is the name of the repository.
fn source_name(path: &Path) -> String {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    if let Some(name) = crate::checkpoint::hub::repository_name(&path) {
        return name;
    }
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}
