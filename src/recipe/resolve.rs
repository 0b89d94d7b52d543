//! From what is written to what will be done to one model.

use super::data_type::{RawDataType, codes, symmetric};
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

/// Tokens of calibration or evaluation at most.
const MAX_TOKENS: usize = 1 << 30;

impl RawRecipe {
    /// Checks the recipe against a model, of which nothing but its spec is needed.
    pub fn resolve(&self, spec: &ModelSpec) -> Result<Recipe> {
        self.checked(spec).map_err(|reason| Error::Recipe { path: self.path.clone(), reason })
    }

    fn checked(&self, spec: &ModelSpec) -> std::result::Result<Recipe, String> {
        let c = &self.calibration;
        let length = c.length.min(spec.context);
        if c.sequences == 0 || length < 2 {
            return Err("[calibration]: sequences must be at least 1 and length at least 2".into());
        }
        at_most_max_tokens("[calibration]", c.sequences, length)?;
        if self.stage.is_empty() {
            return Err("it has no [[stage]]: say what to do, such as [stage.gptq]".into());
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
            return Err(format!("{} comes behind a stage that quantises, which must be the last", after.method()));
        }
        let mut from_sparse = stages.iter().skip_while(|s| !matches!(s, Stage::Sparsify(_)));
        let keeps_zeros = |s: &&Stage| matches!(s, Stage::Sparsify(_)) || s.leaves_codes() && s.distil().is_none();
        if let Some(after) = from_sparse.find(|s| !keeps_zeros(s)) {
            return Err(format!(
                "{} comes behind a stage that sparsifies, which only quantising without training may follow; put it before",
                after.method()
            ));
        }
        let window = self.evaluate.window.unwrap_or_else(|| default_window(spec));
        if window > spec.context {
            return Err(format!("[evaluate]: window {window} is longer than the model's context of {}", spec.context));
        }
        if window < MIN_WINDOW {
            return Err(format!("[evaluate]: a window of {window} tokens is too short: {MIN_WINDOW} at least"));
        }
        if self.evaluate.max_windows == Some(0) {
            return Err("[evaluate]: max_windows must be at least 1".into());
        }
        at_most_max_tokens("[evaluate]", self.evaluate.max_windows.unwrap_or(1), window)?;
        if self.gate.max_perplexity_increase.is_some_and(|x| !x.is_finite()) {
            return Err("[gate]: max_perplexity_increase must be a number; 0.05 means 5 %".into());
        }
        let tasks = self.evaluate.tasks.as_ref().map(|name| self.relative(name));
        check_tasks(tasks.as_deref(), self.evaluate.task_limit, &self.gate.min_accuracy)?;
        let output = output_format(&self.output.format, &stages)?;
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
fn output_format(name: &str, stages: &[Stage]) -> std::result::Result<OutputFormat, String> {
    let Some((_, format)) = OutputFormat::NAMES.into_iter().find(|(known, _)| *known == name) else {
        let known = OutputFormat::NAMES.map(|(known, _)| known).join(", ");
        return Err(format!("[output]: format \"{name}\" is not known; known are {known}"));
    };
    match stages.iter().find(|stage| stage.leaves_codes()) {
        Some(stage) if !format.is_packed() => Err(format!(
            "[output]: format = \"{name}\" holds full-precision weights, and {} quantises: leave that stage out, or set format = \"native\"",
            stage.method()
        )),
        _ => Ok(format),
    }
}

/// A limit of accuracy must be on a task that is measured.
fn check_tasks(tasks: Option<&Path>, limit: Option<usize>, least: &BTreeMap<String, f64>) -> std::result::Result<(), String> {
    if limit == Some(0) {
        return Err("[evaluate]: task_limit must be at least 1".into());
    }
    let Some(tasks) = tasks else {
        return match (least.keys().next(), limit) {
            (Some(_), _) => {
                Err("[gate]: min_accuracy needs tasks to measure: name a folder of *.jsonl with tasks = … in [evaluate]".into())
            }
            (None, Some(_)) => Err("[evaluate]: task_limit needs tasks: name a folder of *.jsonl with tasks = …".into()),
            (None, None) => Ok(()),
        };
    };
    let known = match names(tasks) {
        Ok(known) => known,
        // No fault of the recipe: reading the tasks fails with the same.
        Err(error) if error.exit_code() == 4 => return Ok(()),
        Err(error) => return Err(format!("[evaluate]: tasks: {error}")),
    };
    for (name, value) in least {
        if !known.contains(name) {
            return Err(format!(
                "[gate]: min_accuracy: there is no task \"{name}\" in {}; there are {}",
                tasks.display(),
                known.join(", ")
            ));
        }
        if !(0.0..=1.0).contains(value) {
            return Err(format!("[gate]: min_accuracy: {name} = {value} is not a fraction; 0.25 means 25 %"));
        }
    }
    Ok(())
}

fn at_most_max_tokens(section: &str, count: usize, length: usize) -> std::result::Result<(), String> {
    match count.checked_mul(length) {
        Some(..=MAX_TOKENS) => Ok(()),
        _ => Err(format!("{section}: {count} times {length} tokens are more than {MAX_TOKENS}, the most that can be held")),
    }
}

fn absolute(file: &Path) -> PathBuf {
    if file == Path::new(STANDARD_INPUT) {
        return STANDARD_INPUT.into();
    }
    std::path::absolute(file).unwrap_or_else(|_| file.to_owned())
}

/// For the model that the stages before it leave; paths are relative to a folder.
fn resolve_stage(stage: &RawStage, spec: &ModelSpec, folder: &Path) -> std::result::Result<Stage, String> {
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
        check_rescale(method.name(), rescale)?;
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

fn check_rescale(method: &str, rescale: Rescale) -> std::result::Result<(), String> {
    match rescale {
        Rescale::Awq(AwqScales { points, .. }) if !(1..=1000).contains(&points) => {
            Err(format!("{method}: points {points} must be from 1 to 1000"))
        }
        Rescale::Smooth { alpha } if !(0.0..=1.0).contains(&alpha) => {
            Err(format!("{method}: rescale: smooth = {alpha} must be from 0 (all difficulty stays with the activations) to 1"))
        }
        Rescale::Awq(_) | Rescale::Smooth { .. } => Ok(()),
    }
}

fn rtn(raw: &RawRtn) -> std::result::Result<RtnOptions, String> {
    let options = RtnOptions { grid: grid("rtn", raw.grid, raw.linear())?, importance: raw.importance };
    if options.importance && options.grid == GridChoice::MinMax {
        return Err("rtn: importance weighs the errors of a search, and there is none; set grid = \"least_error\"".into());
    }
    Ok(options)
}

fn gptq(raw: &RawGptq) -> std::result::Result<GptqOptions, String> {
    if !(raw.damp_percent > 0.0 && raw.damp_percent <= 1.0) {
        return Err(format!("gptq: damp_percent {} must be above 0 and at most 1 (0.01 = 1 % of the mean diagonal)", raw.damp_percent));
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

fn llm_int8(raw: &RawLlmInt8) -> std::result::Result<LlmInt8Options, String> {
    if !(raw.threshold > 0.0 && raw.threshold.is_finite()) {
        let t = raw.threshold;
        return Err(format!(
            "llm_int8: threshold {t} must be a positive number (the paper's is 6); for no outliers at all, use [stage.rtn]"
        ));
    }
    Ok(LlmInt8Options { threshold: raw.threshold })
}

fn grid(method: &str, raw: RawGrid, linear: RawScheme) -> std::result::Result<GridChoice, String> {
    let search = match raw {
        RawGrid::Named(GridName::MinMax) => return Ok(GridChoice::MinMax),
        RawGrid::Named(GridName::LeastError) => GridSearch::default(),
        RawGrid::Search(search) => search,
    };
    let GridSearch { shrink, steps, norm, zero_points } = search;
    match () {
        () if !(0.0..1.0).contains(&shrink) => Err(format!("{method}: grid: shrink {shrink} must be from 0 to below 1")),
        () if !(1..=10_000).contains(&steps) => Err(format!("{method}: grid: steps {steps} must be from 1 to 10000")),
        () if !(norm > 0.0 && norm.is_finite()) => {
            Err(format!("{method}: grid: norm {norm} must be a positive number; 2 is the mean square"))
        }
        () if zero_points > 0 && (linear.symmetric || !matches!(linear.data_type, RawDataType::Int)) => {
            Err(format!("{method}: grid: zero_points are for asymmetric integers; leave them out"))
        }
        () if zero_points > 8 => Err(format!("{method}: grid: zero_points {zero_points} must be at most 8")),
        () => Ok(GridChoice::LeastError(search)),
    }
}

/// The scheme of each matrix that is not skipped.
pub(super) fn schemes(
    method: &str,
    linear: Scheme,
    others: &RawOthers,
    spec: &ModelSpec,
) -> std::result::Result<BTreeMap<String, Scheme>, String> {
    let parameters = spec.parameters();
    let matrices = || parameters.iter().filter(|p| !matches!(p.kind, ParameterKind::Kept | ParameterKind::Vector));
    check_skip(method, others.skip, matrices().map(|p| &p.name))?;
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

pub(super) fn scheme(what: &str, raw: RawScheme) -> std::result::Result<Scheme, String> {
    let (code, data_type) = codes(what, raw.bits, raw.data_type)?;
    check_group_size(what, "group_size", raw.group_size, "0 for a whole row")?;
    let symmetric = symmetric(what, data_type, raw.symmetric, raw.centred)?;
    Ok(Scheme { code, group_size: raw.group_size, symmetric, data_type })
}

/// Refuses groups that lines of the packed layout would straddle; `or` is what a row is.
pub(super) fn check_group_size(what: &str, key: &str, size: usize, or: &str) -> std::result::Result<(), String> {
    if size.is_multiple_of(GROUP_MULTIPLE) {
        return Ok(());
    }
    let (below, above) = (size / GROUP_MULTIPLE * GROUP_MULTIPLE, size.next_multiple_of(GROUP_MULTIPLE));
    Err(format!(
        "{what}: {key} = {size} cannot work: it must be a multiple of {GROUP_MULTIPLE} (such as {}), or {or}",
        if below == 0 { above } else { below }
    ))
}

/// Refuses patterns that none of the names of what a stage changes fits.
pub(super) fn check_skip<'a>(
    method: &str,
    skip: &[String],
    names: impl Iterator<Item = &'a String> + Clone,
) -> std::result::Result<(), String> {
    let none = |pattern: &&String| !names.clone().any(|name| matches(pattern, name));
    match skip.iter().find(none) {
        Some(pattern) => Err(format!(
            "{method}: skip = \"{pattern}\" names no matrix of this model that it changes; names are like blocks.0.ffn.down, and * stands for anything"
        )),
        None => Ok(()),
    }
}
