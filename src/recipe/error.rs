//! Reasons why a recipe cannot be carried out, by kind. The place of an error, such as a section
//! or a stage, is wrapped around it.

use crate::error::Error;
use crate::model::SpecError;
use crate::model::student::LayersError;
use std::fmt::Display;

/// Result of checking a part of a recipe.
pub type Checked<T> = Result<T, RecipeError>;

/// A recipe, or a part of it, that cannot be carried out.
#[derive(Debug, thiserror::Error)]
pub enum RecipeError {
    /// An error in a section, a stage or a table.
    #[error("{place}: {error}")]
    In {
        /// Its name.
        place: String,
        /// The error there.
        error: Box<RecipeError>,
    },
    /// A value outside of its range.
    #[error("{key}{} must be {range}", value.as_ref().map_or(String::new(), |value| format!(" {value}")))]
    OutOfRange {
        /// The key, or several; with an equals sign where messages write one.
        key: &'static str,
        /// The value, where messages repeat it.
        value: Option<String>,
        /// The values that are allowed, and what they mean.
        range: String,
    },
    /// A share outside of its range.
    #[error("{key}{} is a share of {of}, {range}", value.map_or(String::new(), |value| format!(" {value}")))]
    NoShare {
        /// The key.
        key: &'static str,
        /// The value, where messages repeat it.
        value: Option<f64>,
        /// What it is a share of.
        of: &'static str,
        /// The shares that are allowed.
        range: &'static str,
    },
    /// A value that is none of a list.
    #[error("{key} {value} is not known{of}; known are {known}")]
    Unknown {
        /// The key.
        key: &'static str,
        /// The value, as messages write it.
        value: String,
        /// The setting that the list belongs to.
        of: &'static str,
        /// The values that are known.
        known: String,
    },
    /// Something that must be said and is not.
    #[error("{reason}")]
    Missing {
        /// The key, or several of which one is needed.
        key: &'static str,
        /// What is missing, and how to say it.
        reason: &'static str,
    },
    /// Keys that exclude each other.
    #[error("{reason}")]
    Conflict {
        /// The keys.
        keys: &'static [&'static str],
        /// Why, and which to leave out.
        reason: &'static str,
    },
    /// A key that means something beside another setting only.
    #[error("{key} {} for {only}; leave {} out", if key.contains(" and ") { "are" } else { "is" }, if key.contains(" and ") { "them" } else { "it" })]
    Unused {
        /// The key, or two joined by "and".
        key: &'static str,
        /// The setting that it is for.
        only: &'static str,
    },
    /// A key of training, in a stage that does not train.
    #[error("{key} is for training: leave it out, or say what is trained on with [stage.ternary.distil.training]")]
    ForTraining {
        /// The key.
        key: &'static str,
    },
    /// A group of no columns.
    #[error("scale = 0 is no group; \"row\" is a scale a row")]
    NoGroup,
    /// A pattern that fits nothing.
    #[error("{pattern} names no {of}; names are like blocks.0.ffn.down, and * stands for anything")]
    NoSuchName {
        /// The pattern, as messages write it.
        pattern: String,
        /// What was looked for.
        of: &'static str,
    },
    /// A stage behind one that must be the last of its kind.
    #[error("{method} comes behind a stage that {before}")]
    Order {
        /// The later stage.
        method: &'static str,
        /// What the earlier one does, and where to put the later.
        before: &'static str,
    },
    /// Windows that the model cannot read.
    #[error("window {window} is longer than the model's context of {context}")]
    LongWindow {
        /// Tokens of a window.
        window: usize,
        /// Longest sequence of the model.
        context: usize,
    },
    /// Windows that score too little.
    #[error("a window of {window} tokens is too short: {least} at least")]
    ShortWindow {
        /// Tokens of a window.
        window: usize,
        /// Fewest that are allowed.
        least: usize,
    },
    /// More tokens than can be held.
    #[error("{count} times {length} tokens are more than {max}, the most that can be held")]
    TooManyTokens {
        /// Sequences or windows.
        count: usize,
        /// Tokens of each.
        length: usize,
        /// Most tokens of all.
        max: usize,
    },
    /// A batch beyond memory.
    #[error("a batch of {0} is too large")]
    LargeBatch(usize),
    /// Codes in a format of full precision.
    #[error("format = \"{format}\" holds full-precision weights, and {method} quantises: leave that stage out, or set format = \"native\"")]
    FormatWithoutCodes {
        /// The output format.
        format: String,
        /// The stage that quantises.
        method: &'static str,
    },
    /// A limit of accuracy on a task that is not there.
    #[error("there is no task \"{name}\" in {folder}; there are {known}")]
    NoTask {
        /// The task.
        name: String,
        /// The folder of tasks.
        folder: String,
        /// The tasks in it.
        known: String,
    },
    /// A limit of accuracy that is no fraction.
    #[error("{name} = {value} is not a fraction; 0.25 means 25 %")]
    NoFraction {
        /// The task.
        name: String,
        /// The limit.
        value: f64,
    },
    /// Tasks that cannot be read.
    #[error("tasks: {0}")]
    Tasks(Box<Error>),
    /// A parameter of a divergence outside of its range.
    #[error("divergence: {0} must be between 0 and 1, both excluded")]
    Divergence(f64),
    /// Groups that lines of the packed layout would straddle.
    #[error("{key} = {size} cannot work: it must be a multiple of {multiple} (such as {near}), or {or}")]
    GroupSize {
        /// The key.
        key: &'static str,
        /// Columns of a group.
        size: usize,
        /// Columns that a line holds.
        multiple: usize,
        /// A size that works.
        near: usize,
        /// The other values that are allowed.
        or: &'static str,
    },
    /// A data type of another width than `bits`.
    #[error("data_type = \"{name}\" has {own} bits, not {bits}; set bits = {own}")]
    DataTypeBits {
        /// The data type.
        name: String,
        /// Its width.
        own: usize,
        /// The width that is asked for.
        bits: usize,
    },
    /// A pattern that is not N of M neighbours.
    #[error("pattern = \"{0}\" must say how many of how many neighbours stay, such as \"2:4\" or \"4:8\"")]
    Pattern(String),
    /// Blocks of columns that split groups of neighbours.
    #[error("block_size = {size} would split groups of {group}; set block_size = {next}")]
    SplitGroups {
        /// Columns of a block.
        size: usize,
        /// Neighbours of a pattern.
        group: usize,
        /// The next size that works.
        next: usize,
    },
    /// Few bits for layers that are to lose little.
    #[error("bits = {bits} lose much themselves; 4 at least")]
    NarrowWideScheme {
        /// Bits of the wider scheme.
        bits: usize,
    },
    /// A list of another length than the student has blocks.
    #[error("layers names {listed} blocks of the teacher, and the student has {blocks} blocks")]
    LayerCount {
        /// Entries of the list.
        listed: usize,
        /// The student's blocks.
        blocks: usize,
    },
    /// Fewer layers to take out than one, or all of them.
    #[error("it would take out {out} of {of} layers: take out 1 to {}", of - 1)]
    PrunedLayers {
        /// Layers to take out.
        out: usize,
        /// The model's.
        of: usize,
    },
    /// Something to cut that the model does not have.
    #[error("this model has no {cut} to take out; it has {there}")]
    NothingToCut {
        /// What was to be cut.
        cut: &'static str,
        /// What can be cut.
        there: String,
    },
    /// A model of one layer.
    #[error("this model has one layer, which must stay: leave the stage out")]
    OneLayer,
    /// A width that the model does not have.
    #[error("widths: {cut} = {width} must be from 1 to {of}, what there is")]
    Width {
        /// What is cut.
        cut: &'static str,
        /// Units that are to stay.
        width: usize,
        /// The model's.
        of: usize,
    },
    /// Query heads that key-value heads cannot share evenly.
    #[error("widths: query_heads = {width} must be a multiple of the {step} key-value heads, which serve as many each")]
    QueryHeads {
        /// Query heads that are to stay.
        width: usize,
        /// Key-value heads.
        step: usize,
    },
    /// Units of which none can go.
    #[error("{axis} are {of}, and a unit of them must stay: leave {cut} out")]
    NoUnitToSpare {
        /// The heads, by name.
        axis: String,
        /// Their number.
        of: usize,
        /// What was to be cut.
        cut: &'static str,
    },
    /// A width without a smaller multiple.
    #[error("{axis} is {of} wide, and cannot be a smaller multiple of {multiple}: set multiple = {smaller}")]
    NoSmallerMultiple {
        /// The channels, by name.
        axis: String,
        /// Their number.
        of: usize,
        /// What widths are rounded to.
        multiple: usize,
        /// A multiple that works.
        smaller: usize,
    },
    /// A target below what cutting leaves.
    #[error("{target} cannot be reached: the least that cutting {cuts} leaves costs {least}; cut more kinds, or layers too")]
    Unreachable {
        /// The target.
        target: String,
        /// What is cut.
        cuts: String,
        /// The cost of the smallest model.
        least: f64,
    },
    /// A student's layers.
    #[error(transparent)]
    Layers(#[from] LayersError),
    /// A model that cannot be made so.
    #[error(transparent)]
    Model(#[from] SpecError),
}

impl RecipeError {
    /// Wraps the place of an error around it; for `map_err`.
    pub fn at(place: impl Display) -> impl Fn(Self) -> Self {
        move |error| Self::In { place: place.to_string(), error: Box::new(error) }
    }

    /// [`RecipeError::OutOfRange`] of a value.
    pub fn range(key: &'static str, value: impl Display, range: impl Into<String>) -> Self {
        Self::OutOfRange { key, value: Some(value.to_string()), range: range.into() }
    }

    /// [`RecipeError::OutOfRange`] without the value.
    pub fn must_be(key: &'static str, range: impl Into<String>) -> Self {
        Self::OutOfRange { key, value: None, range: range.into() }
    }

    /// [`RecipeError::Conflict`].
    pub fn conflict(keys: &'static [&'static str], reason: &'static str) -> Self {
        Self::Conflict { keys, reason }
    }
}
