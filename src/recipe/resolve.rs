//! From what is written to what will be done to one model.

use super::data_type::{RawDataType, codes, symmetric};
use super::error::{Checked, RecipeError};
use super::raw::{
    GridName, OrderName, RawActOrder, RawGptq, RawGrid, RawLlmInt8, RawOthers, RawRecipe, RawRescale, RawRtn, RawScheme, RawStage,
    RescaleName, RescaleTold, SELF,
};
use super::{
    ActOrder, AwqOptions, AwqScales, Calibration, Evaluate, Gate, GptqOptions, LlmInt8Options, Method, OutputFormat, Quantize, Recipe,
    Rescale, RtnOptions, Stage, TextSource,
};
use crate::error::{Error, Result};
use crate::eval::tasks::names;
use crate::eval::{MIN_WINDOW, default_window};
use crate::model::{ModelSpec, ParameterKind};
use crate::pattern::matches;
use crate::quant::Scheme;
use crate::quant::quant_params::{GridChoice, GridSearch};
use crate::quant::scheme::GROUP_MULTIPLE;
use crate::text::read::STANDARD_INPUT;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Range of `damp_percent`, for messages.
pub(super) const DAMP_RANGE: &str = "above 0 and at most 1 (0.01 = 1 % of the mean diagonal)";

/// Tokens of calibration or evaluation at most.
const MAX_TOKENS: usize = 1 << 30;

impl RawRecipe {
    /// Checks the recipe against a model, of which nothing but its spec is needed.
    pub fn resolve(&self, spec: &ModelSpec) -> Result<Recipe> {
        self.checked(spec).map_err(|error| Error::Recipe { path: self.path.clone(), reason: error.to_string() })
    }

    fn checked(&self, spec: &ModelSpec) -> Checked<Recipe> {
        let (calibration, evaluate) = (RecipeError::at("[calibration]"), RecipeError::at("[evaluate]"));
        let c = &self.calibration;
        let length = c.length.min(spec.context);
        if c.sequences == 0 || length < 2 {
            return Err(calibration(RecipeError::must_be("sequences", "at least 1 and length at least 2")));
        }
        at_most_max_tokens(c.sequences, length).map_err(calibration)?;
        if self.stage.is_empty() {
            return Err(RecipeError::Missing { key: "stage", reason: "it has no [[stage]]: say what to do, such as [stage.gptq]" });
        }
        // A stage is checked against the model that the stages before it leave.
        let (mut stages, mut left) = (Vec::new(), spec.clone());
        for raw in &self.stage {
            let stage = resolve_stage(raw, &left, self.folder())?;
            left = stage.reshape(left);
            stages.push(stage);
        }
        let first = stages.iter().position(Stage::leaves_codes);
        if let Some(after) = first.and_then(|first| stages.get(first + 1)) {
            return Err(RecipeError::Order { method: after.method(), before: "quantises, which must be the last" });
        }
        let mut from_sparse = stages.iter().skip_while(|s| !matches!(s, Stage::Sparsify(_)));
        let keeps_zeros = |s: &&Stage| matches!(s, Stage::Sparsify(_)) || s.leaves_codes() && s.distil().is_none();
        if let Some(after) = from_sparse.find(|s| !keeps_zeros(s)) {
            let before = "sparsifies, which only quantising without training may follow; put it before";
            return Err(RecipeError::Order { method: after.method(), before });
        }
        let window = self.evaluate.window.unwrap_or_else(|| default_window(spec));
        if window > spec.context {
            return Err(evaluate(RecipeError::LongWindow { window, context: spec.context }));
        }
        if window < MIN_WINDOW {
            return Err(evaluate(RecipeError::ShortWindow { window, least: MIN_WINDOW }));
        }
        if self.evaluate.max_windows == Some(0) {
            return Err(evaluate(RecipeError::must_be("max_windows", "at least 1")));
        }
        at_most_max_tokens(self.evaluate.max_windows.unwrap_or(1), window).map_err(evaluate)?;
        if self.gate.max_perplexity_increase.is_some_and(|x| !x.is_finite()) {
            return Err(RecipeError::at("[gate]")(RecipeError::must_be("max_perplexity_increase", "a number; 0.05 means 5 %")));
        }
        let tasks = self.evaluate.tasks.as_ref().map(|name| self.relative(name));
        check_tasks(tasks.as_deref(), self.evaluate.task_limit, &self.gate.min_accuracy)?;
        let output = output_format(&self.output.format, &stages).map_err(RecipeError::at("[output]"))?;
        Ok(Recipe {
            calibration: Calibration {
                text: self.text(&self.texts.calibration, &c.text),
                sequences: c.sequences,
                length,
                seed: c.seed,
                token_importance: c.token_importance,
            },
            stages,
            evaluate: Evaluate {
                text: self.text(&self.texts.evaluation, &self.evaluate.text),
                protocol: self.evaluate.protocol,
                window,
                max_windows: self.evaluate.max_windows,
                activations: self.evaluate.activations,
                tasks,
                task_limit: self.evaluate.task_limit,
            },
            gate: Gate {
                max_perplexity_increase: self.gate.max_perplexity_increase,
                max_size_bytes: self.gate.max_size_bytes,
                min_accuracy: self.gate.min_accuracy.clone(),
            },
            output,
        })
    }

    /// Names a calibration text from the command line, relative to the current folder.
    pub fn set_calibration_text(&mut self, file: &Path) {
        self.texts.calibration = Some(absolute(file));
    }

    /// The same for the held-out text.
    pub fn set_evaluation_text(&mut self, file: &Path) {
        self.texts.evaluation = Some(absolute(file));
    }

    fn text(&self, named: &Option<PathBuf>, name: &str) -> TextSource {
        match (named, name) {
            (Some(file), _) => TextSource::File(file.clone()),
            (None, SELF) => TextSource::Model,
            (None, STANDARD_INPUT) => TextSource::File(STANDARD_INPUT.into()),
            (None, file) => TextSource::File(self.relative(file)),
        }
    }

    fn relative(&self, file: &str) -> PathBuf {
        self.folder().join(file)
    }

    fn folder(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new(""))
    }
}

/// A format without codes takes nothing that was quantised.
fn output_format(name: &str, stages: &[Stage]) -> Checked<OutputFormat> {
    let Some((_, format)) = OutputFormat::NAMES.into_iter().find(|(known, _)| *known == name) else {
        let known = OutputFormat::NAMES.map(|(known, _)| known).join(", ");
        return Err(RecipeError::Unknown { key: "format", value: format!("\"{name}\""), of: "", known });
    };
    match stages.iter().find(|stage| stage.leaves_codes()) {
        Some(stage) if !format.is_packed() => Err(RecipeError::FormatWithoutCodes { format: name.to_owned(), method: stage.method() }),
        _ => Ok(format),
    }
}

/// A limit of accuracy must be on a task that is measured.
fn check_tasks(tasks: Option<&Path>, limit: Option<usize>, least: &BTreeMap<String, f64>) -> Checked<()> {
    let (evaluate, gate) = (RecipeError::at("[evaluate]"), RecipeError::at("[gate]"));
    if limit == Some(0) {
        return Err(evaluate(RecipeError::must_be("task_limit", "at least 1")));
    }
    let Some(tasks) = tasks else {
        return match (least.keys().next(), limit) {
            (Some(_), _) => {
                let reason = "min_accuracy needs tasks to measure: name a folder of *.jsonl with tasks = … in [evaluate]";
                Err(gate(RecipeError::Missing { key: "tasks", reason }))
            }
            (None, Some(_)) => {
                let reason = "task_limit needs tasks: name a folder of *.jsonl with tasks = …";
                Err(evaluate(RecipeError::Missing { key: "tasks", reason }))
            }
            (None, None) => Ok(()),
        };
    };
    let known = match names(tasks) {
        Ok(known) => known,
        // No fault of the recipe: reading the tasks fails with the same.
        Err(error) if error.exit_code() == 4 => return Ok(()),
        Err(error) => return Err(evaluate(RecipeError::Tasks(Box::new(error)))),
    };
    let min_accuracy = RecipeError::at("[gate]: min_accuracy");
    for (name, value) in least {
        if !known.contains(name) {
            let (folder, known) = (tasks.display().to_string(), known.join(", "));
            return Err(min_accuracy(RecipeError::NoTask { name: name.clone(), folder, known }));
        }
        if !(0.0..=1.0).contains(value) {
            return Err(min_accuracy(RecipeError::NoFraction { name: name.clone(), value: *value }));
        }
    }
    Ok(())
}

fn at_most_max_tokens(count: usize, length: usize) -> Checked<()> {
    match count.checked_mul(length) {
        Some(..=MAX_TOKENS) => Ok(()),
        _ => Err(RecipeError::TooManyTokens { count, length, max: MAX_TOKENS }),
    }
}

fn absolute(file: &Path) -> PathBuf {
    if file == Path::new(STANDARD_INPUT) {
        return STANDARD_INPUT.into();
    }
    std::path::absolute(file).unwrap_or_else(|_| file.to_owned())
}

/// For the model that the stages before it leave; paths are relative to a folder.
fn resolve_stage(stage: &RawStage, spec: &ModelSpec, folder: &Path) -> Checked<Stage> {
    let (method, rescale, linear, others) = match stage {
        RawStage::Student(raw) => return Ok(Stage::Student(raw.checked(spec)?)),
        RawStage::Distil(raw) => return Ok(Stage::Distil(Box::new(raw.checked(spec, folder)?))),
        RawStage::PruneDepth(raw) => return Ok(Stage::PruneDepth(raw.checked(spec)?)),
        RawStage::PruneWidth(raw) => return Ok(Stage::PruneWidth(Box::new(raw.checked(spec)?))),
        RawStage::Sparsify(raw) => return Ok(Stage::Sparsify(raw.checked(spec)?)),
        RawStage::Rtn(raw) => (Method::Rtn(rtn(raw)?), raw.rescale.map(told), raw.linear(), raw.others()),
        RawStage::Gptq(raw) => (Method::Gptq(gptq(raw)?), raw.rescale.map(told), raw.linear(), raw.others()),
        RawStage::Awq(raw) => {
            let scales = AwqScales { points: raw.points, duo_scaling: raw.duo_scaling };
            (Method::Awq(AwqOptions { clip: raw.clip }), Some(Rescale::Awq(scales)), raw.linear(), raw.others())
        }
        RawStage::LlmInt8(raw) => (Method::LlmInt8(llm_int8(raw)?), None, raw.linear(), raw.others()),
        RawStage::Ternary(raw) => return raw.checked(spec, folder).map(Stage::Quantize),
    };
    if let Some(rescale) = rescale {
        check_rescale(rescale).map_err(RecipeError::at(method.name()))?;
    }
    let linear = scheme(method.name(), linear)?;
    Ok(Stage::Quantize(Quantize {
        schemes: schemes(method.name(), linear, &others, spec)?,
        method,
        rescale,
        mixed_precision: None,
        qat: None,
    }))
}

fn told(raw: RawRescale) -> Rescale {
    match raw {
        RawRescale::Named(RescaleName::Awq) => Rescale::Awq(AwqScales::default()),
        RawRescale::Named(RescaleName::Smooth) => Rescale::Smooth { alpha: 0.5 },
        RawRescale::Told(RescaleTold::Awq(scales)) => Rescale::Awq(scales),
        RawRescale::Told(RescaleTold::Smooth(alpha)) => Rescale::Smooth { alpha },
    }
}

fn check_rescale(rescale: Rescale) -> Checked<()> {
    match rescale {
        Rescale::Awq(AwqScales { points, .. }) if !(1..=1000).contains(&points) => {
            Err(RecipeError::range("points", points, "from 1 to 1000"))
        }
        Rescale::Smooth { alpha } if !(0.0..=1.0).contains(&alpha) => {
            let range = "from 0 (all difficulty stays with the activations) to 1";
            Err(RecipeError::at("rescale")(RecipeError::range("smooth =", alpha, range)))
        }
        Rescale::Awq(_) | Rescale::Smooth { .. } => Ok(()),
    }
}

fn rtn(raw: &RawRtn) -> Checked<RtnOptions> {
    let options = RtnOptions { grid: grid("rtn", raw.grid, raw.linear())?, importance: raw.importance };
    if options.importance && options.grid == GridChoice::MinMax {
        let reason = "importance weighs the errors of a search, and there is none; set grid = \"least_error\"";
        return Err(RecipeError::at("rtn")(RecipeError::conflict(&["importance", "grid"], reason)));
    }
    Ok(options)
}

fn gptq(raw: &RawGptq) -> Checked<GptqOptions> {
    if !(raw.damp_percent > 0.0 && raw.damp_percent <= 1.0) {
        return Err(RecipeError::at("gptq")(RecipeError::range("damp_percent", raw.damp_percent, DAMP_RANGE)));
    }
    Ok(GptqOptions {
        act_order: match raw.act_order {
            RawActOrder::Switch(true) => ActOrder::On,
            RawActOrder::Switch(false) => ActOrder::Off,
            RawActOrder::Named(OrderName::GroupAware) => ActOrder::GroupAware,
        },
        damp_percent: raw.damp_percent,
        grid: grid("gptq", raw.grid, raw.linear())?,
        static_groups: raw.static_groups,
        true_sequential: raw.true_sequential,
        precision: raw.precision,
    })
}

fn llm_int8(raw: &RawLlmInt8) -> Checked<LlmInt8Options> {
    if !(raw.threshold > 0.0 && raw.threshold.is_finite()) {
        let range = "a positive number (the paper's is 6); for no outliers at all, use [stage.rtn]";
        return Err(RecipeError::at("llm_int8")(RecipeError::range("threshold", raw.threshold, range)));
    }
    Ok(LlmInt8Options { threshold: raw.threshold })
}

fn grid(method: &str, raw: RawGrid, linear: RawScheme) -> Checked<GridChoice> {
    let search = match raw {
        RawGrid::Named(GridName::MinMax) => return Ok(GridChoice::MinMax),
        RawGrid::Named(GridName::LeastError) => GridSearch::default(),
        RawGrid::Search(search) => search,
    };
    let GridSearch { shrink, steps, norm, zero_points } = search;
    let fail = |error| Err(RecipeError::at(format!("{method}: grid"))(error));
    match () {
        () if !(0.0..1.0).contains(&shrink) => fail(RecipeError::range("shrink", shrink, "from 0 to below 1")),
        () if !(1..=10_000).contains(&steps) => fail(RecipeError::range("steps", steps, "from 1 to 10000")),
        () if !(norm > 0.0 && norm.is_finite()) => fail(RecipeError::range("norm", norm, "a positive number; 2 is the mean square")),
        () if zero_points > 0 && (linear.symmetric || !matches!(linear.data_type, RawDataType::Int)) => {
            let reason = "zero_points are for asymmetric integers; leave them out";
            fail(RecipeError::conflict(&["zero_points", "symmetric", "data_type"], reason))
        }
        () if zero_points > 8 => fail(RecipeError::range("zero_points", zero_points, "at most 8")),
        () => Ok(GridChoice::LeastError(search)),
    }
}

/// The scheme of each matrix that is not skipped.
pub(super) fn schemes(method: &str, linear: Scheme, others: &RawOthers, spec: &ModelSpec) -> Checked<BTreeMap<String, Scheme>> {
    let parameters = spec.parameters();
    let matrices = || parameters.iter().filter(|p| !matches!(p.kind, ParameterKind::Kept | ParameterKind::Vector));
    check_skip(others.skip, matrices().map(|p| &p.name)).map_err(RecipeError::at(method))?;
    let (embeddings, head) =
        (scheme(&format!("{method}: embeddings"), others.embeddings)?, scheme(&format!("{method}: head"), others.head)?);
    let kept = matrices().filter(|p| !others.skip.iter().any(|pattern| matches(pattern, &p.name)));
    let schemes = kept.map(|p| {
        let scheme = match p.kind {
            ParameterKind::Embedding => embeddings,
            ParameterKind::Head => head,
            ParameterKind::Linear | ParameterKind::Kept | ParameterKind::Vector => linear,
        };
        (p.name.clone(), scheme)
    });
    Ok(schemes.collect())
}

pub(super) fn scheme(what: &str, raw: RawScheme) -> Checked<Scheme> {
    let place = RecipeError::at(what);
    let (code, data_type) = codes(raw.bits, raw.data_type).map_err(&place)?;
    check_group_size("group_size", raw.group_size, "0 for a whole row").map_err(&place)?;
    let symmetric = symmetric(data_type, raw.symmetric, raw.centred).map_err(&place)?;
    Ok(Scheme { code, group_size: raw.group_size, symmetric, data_type })
}

/// Refuses groups that lines of the packed layout would straddle; `or` is what a row is.
pub(super) fn check_group_size(key: &'static str, size: usize, or: &'static str) -> Checked<()> {
    if size.is_multiple_of(GROUP_MULTIPLE) {
        return Ok(());
    }
    let (below, above) = (size / GROUP_MULTIPLE * GROUP_MULTIPLE, size.next_multiple_of(GROUP_MULTIPLE));
    Err(RecipeError::GroupSize { key, size, multiple: GROUP_MULTIPLE, near: if below == 0 { above } else { below }, or })
}

/// Refuses patterns that none of the names of what a stage changes fits.
pub(super) fn check_skip<'a>(skip: &[String], names: impl Iterator<Item = &'a String> + Clone) -> Checked<()> {
    let none = |pattern: &&String| !names.clone().any(|name| matches(pattern, name));
    match skip.iter().find(none) {
        Some(pattern) => {
            Err(RecipeError::NoSuchName { pattern: format!("skip = \"{pattern}\""), of: "matrix of this model that it changes" })
        }
        None => Ok(()),
    }
}
