//! Reasons why a spec makes no sense, or why no smaller model can be made of one.

use std::collections::BTreeSet;
use std::fmt::Display;

/// A model that cannot be.
#[derive(Debug, thiserror::Error)]
pub enum SpecError {
    /// An error in a block, a norm or another part.
    #[error("{place}: {error}")]
    In {
        /// The part.
        place: String,
        /// The error there.
        error: Box<SpecError>,
    },
    /// A size outside of its range.
    #[error("{what} is {value}; it must be from 1 to {max}")]
    Size {
        /// The size, in words.
        what: &'static str,
        /// Its value.
        value: usize,
        /// The greatest that is allowed.
        max: usize,
    },
    /// A factor that is zero, negative, NaN or infinite.
    #[error("{what} is {value}; it must be a positive number")]
    NotPositive {
        /// The factor, in words.
        what: String,
        /// Its value.
        value: f64,
    },
    /// Parts that exclude each other, or that a model of this kind cannot do without.
    #[error("{0}")]
    Rule(&'static str),
    /// LongRoPE that switches at several lengths.
    #[error("blocks must turn by other angles from the same length on, not from {0:?}")]
    TurningPoints(BTreeSet<usize>),
    /// Sinusoidal positions in a narrow model.
    #[error("sinusoidal positions need a hidden_size of 4 or more, not {0}")]
    SinusoidalWidth(usize),
    /// A beginning-of-text token beyond the vocabulary.
    #[error("the beginning-of-text token is {bos}, but the vocabulary has {vocab_size} tokens")]
    Bos {
        /// The token.
        bos: u32,
        /// Tokens of the vocabulary.
        vocab_size: usize,
    },
    /// Weights of a block that has none to share.
    #[error("it cannot share the weights of block {0}, which must be an earlier one that has its own")]
    Owner(usize),
    /// Query heads that key-value heads do not divide.
    #[error("{n_heads} heads cannot share {n_kv_heads} kv heads: the first must be a multiple of the second")]
    KvHeads {
        /// Query heads.
        n_heads: usize,
        /// Key-value heads.
        n_kv_heads: usize,
    },
    /// More numbers than any width may have.
    #[error("{n_heads} heads of {head_dim} are wider than {max}")]
    WideHeads {
        /// Query heads.
        n_heads: usize,
        /// Width of each.
        head_dim: usize,
        /// Greatest width.
        max: usize,
    },
    /// Another number of ALiBi slopes than heads.
    #[error("{slopes} ALiBi slopes do not fit {n_heads} heads")]
    AlibiSlopes {
        /// Slopes.
        slopes: usize,
        /// Query heads.
        n_heads: usize,
    },
    /// Heads of an odd width, which rotary positions cannot pair.
    #[error("head_dim is {0}; rotary positions turn pairs, so it must be even")]
    OddHeadDim(usize),
    /// Dimensions that rotary positions cannot turn.
    #[error("{dims} of {head_dim} dimensions are to be turned; it must be an even number from 2 to {head_dim}")]
    RotaryDims {
        /// Dimensions to be turned.
        dims: usize,
        /// Width of a head.
        head_dim: usize,
    },
    /// Llama 3's frequencies in the wrong order.
    #[error("rope low_freq_factor {low} must be below high_freq_factor {high}")]
    RopeFrequencies {
        /// `low_freq_factor`.
        low: f64,
        /// `high_freq_factor`.
        high: f64,
    },
    /// YaRN's ramp in the wrong order.
    #[error("the ramp of rope frequencies must rise: it goes from {start} to {end}")]
    RopeRamp {
        /// Its first dimension.
        start: f64,
        /// Its last.
        end: f64,
    },
    /// Another number of LongRoPE's factors than pairs.
    #[error("rope {name} has {found} numbers; {dims} dimensions have {} pairs", dims / 2)]
    RopeFactors {
        /// The list.
        name: &'static str,
        /// Its length.
        found: usize,
        /// Dimensions that are turned.
        dims: usize,
    },
    /// Pruning of a model whose blocks share weights.
    #[error(
        "blocks of this {family} model share their weights, and what is taken out of one is taken out of all: make a smaller one with [stage.student] instead"
    )]
    SharedWeights {
        /// The model's family.
        family: String,
    },
    /// Query heads that the remaining key-value heads cannot share evenly.
    #[error("query heads can go with their key-value head, or as many from each of those that stay, but these would be {0:?}")]
    UnevenHeads(Vec<usize>),
    /// A block without attention, which has no place for a sub-norm.
    #[error("sub_norms: block {0} has no attention to insert a norm into; leave it out")]
    SubNormWithoutAttention(usize),
    /// A block with several sub-layers of one kind, whose widths one number does not tell.
    #[error("block {0} has several sub-layers of one kind: its widths and norms cannot be changed yet")]
    RepeatedKind(usize),
    /// A block whose weights are another's too.
    #[error("sub_norms: block {0} shares weights with another; leave it out")]
    SubNormOfShared(usize),
    /// A layer that the teacher does not have.
    #[error("there is no layer {layer}: the teacher's {of} are counted from 0 to {}", of - 1)]
    NoLayer {
        /// The layer.
        layer: usize,
        /// Number of the teacher's.
        of: usize,
    },
    /// More blocks than any model may have.
    #[error("{layers} layers run {repeat} times each are more than {max} blocks; lower repeat")]
    TooManyBlocks {
        /// Layers of the student.
        layers: usize,
        /// Runs of each in a row.
        repeat: usize,
        /// Greatest number of blocks.
        max: usize,
    },
    /// Two ways of sharing at once.
    #[error("repeat = {repeat} shares all of a layer and shared_ffn a part of it: leave one of them out")]
    RepeatAndSharedFfn {
        /// Runs of each layer in a row.
        repeat: usize,
    },
    /// A student's width outside of its range.
    #[error("{key} = {width} must be from 1 to {max}")]
    StudentWidth {
        /// The key.
        key: &'static str,
        /// Its value.
        width: usize,
        /// Greatest width.
        max: usize,
    },
    /// A teacher's layer whose weights are another's.
    #[error("the teacher's layer {layer} has the weights of its layer {owner}: name that one, and set repeat to run each more than once")]
    TeacherShares {
        /// The layer.
        layer: usize,
        /// The layer that has the weights.
        owner: usize,
    },
    /// A teacher's layer whose feed-forward is another's.
    #[error(
        "the teacher's layer {layer} has the feed-forward of its layer {owner}: set shared_ffn = true, and the student's share theirs too"
    )]
    TeacherSharesFfn {
        /// The layer.
        layer: usize,
        /// The layer that has the feed-forward.
        owner: usize,
    },
    /// Heads that cannot serve each other evenly.
    #[error("n_heads = {n_heads} must be a multiple of n_kv_heads = {n_kv_heads}, which serve as many each")]
    StudentHeads {
        /// Query heads.
        n_heads: usize,
        /// Key-value heads.
        n_kv_heads: usize,
    },
    /// More heads than the teacher has to select from.
    #[error(
        "n_heads = {n_heads} on n_kv_heads = {n_kv_heads} cannot be selected from {of} on {kv_of}: ask for at most {kv_of} key-value heads with at most {} query heads each, or set initialise = \"random\"",
        of / kv_of
    )]
    SelectedHeads {
        /// Query heads of the student.
        n_heads: usize,
        /// Its key-value heads.
        n_kv_heads: usize,
        /// The teacher's query heads.
        of: usize,
        /// Its key-value heads.
        kv_of: usize,
    },
    /// More channels than the teacher has to select from.
    #[error("{key} = {width} cannot be selected from the teacher's {of}: ask for {of} at most, or set initialise = \"random\"")]
    SelectedWidth {
        /// The key.
        key: &'static str,
        /// The student's width.
        width: usize,
        /// The teacher's.
        of: usize,
    },
}

impl SpecError {
    /// Wraps the place of an error around it; for `map_err`.
    pub fn at(place: impl Display) -> impl FnOnce(Self) -> Self {
        move |error| Self::In { place: place.to_string(), error: Box::new(error) }
    }
}
