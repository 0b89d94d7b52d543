//! `[stage.prune_depth]` and `[stage.prune_width]`: whole layers, heads and channels are
//! taken out.

use crate::forward::Inner;
use crate::model::{Axis, ModelSpec, Selection};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

type Checked<T> = Result<T, String>;

/// Layers are taken out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PruneDepth {
    /// How many.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layers: Option<usize>,
    /// Or which share of them, to the nearest layer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ratio: Option<f64>,
    /// What tells which.
    #[serde(default)]
    pub saliency: LayerSaliency,
}

/// What a layer is worth.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LayerSaliency {
    /// 1 − cosine of what goes in and what comes out (ShortGPT: Men et al. 2024, section 3.1).
    #[default]
    BlockInfluence,
    /// The angle between what goes into a run of layers and what comes out, at the last
    /// token; one run goes (Gromov et al. 2024, "The Unreasonable Ineffectiveness of the
    /// Deeper Layers", section 3.2).
    AngularDistance,
    /// Perplexity of the calibration without it; one layer after the other goes.
    Perplexity,
}

/// Heads and channels are taken out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PruneWidth {
    /// Share of the blocks' parameters to take out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ratio: Option<f64>,
    /// Or: parameters of the whole model that may be left.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parameters: Option<u64>,
    /// Or: bytes of them, at `bits_per_weight`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// Bits of each parameter that `bytes` counts: of what the model will be stored in; 16
    /// unless told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bits_per_weight: Option<f64>,
    /// Or: multiply-adds of a token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub multiply_adds: Option<u64>,
    /// Or: milliseconds that the device's runtime takes to decode a token here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target_ms: Option<f64>,
    /// Or: widths of every layer, by what they are.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub widths: BTreeMap<Cut, usize>,
    /// What may be taken out; channels of feed-forwards and key-value heads unless told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cut: Option<Vec<Cut>>,
    /// What tells which.
    pub saliency: Saliency,
    /// How the numbers of a unit's weights become one.
    pub aggregate: Aggregate,
    /// How layers are made comparable, where widths are not uniform.
    pub normalise: Normalise,
    /// Whether all layers have the same widths, which other tools insist on.
    pub uniform: bool,
    /// What widths of channels are rounded to, a multiple of this.
    pub multiple: usize,
    /// Whether the columns that stay are solved anew.
    pub reconstruct: bool,
    /// Of the solution: how much weights are held where they were, relative to the mean of
    /// the diagonal; without it, what does best on text that was not solved on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub damp_percent: Option<f64>,
}

impl Default for PruneWidth {
    fn default() -> Self {
        Self {
            ratio: None,
            parameters: None,
            bytes: None,
            bits_per_weight: None,
            multiply_adds: None,
            target_ms: None,
            widths: BTreeMap::new(),
            cut: None,
            saliency: Saliency::default(),
            aggregate: Aggregate::default(),
            normalise: Normalise::default(),
            uniform: true,
            multiple: 64,
            reconstruct: true,
            damp_percent: None,
        }
    }
}

/// What can be taken out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cut {
    /// Channels of feed-forwards.
    Ffn,
    /// Key-value heads with all query heads that read them.
    Heads,
    /// Query heads, as many of each key-value head.
    QueryHeads,
    /// Channels of the residual stream.
    Hidden,
    /// Channels of recurrent states.
    State,
}

impl Cut {
    const ALL: [Self; 5] = [Self::Ffn, Self::Heads, Self::QueryHeads, Self::Hidden, Self::State];

    fn name(self) -> &'static str {
        match self {
            Self::Ffn => "ffn",
            Self::Heads => "heads",
            Self::QueryHeads => "query_heads",
            Self::Hidden => "hidden",
            Self::State => "state",
        }
    }

    /// Of an axis that units are taken out of.
    pub fn of(axis: Axis) -> Option<Self> {
        match axis {
            Axis::Hidden => Some(Self::Hidden),
            Axis::Block(_, Inner::FeedForward) => Some(Self::Ffn),
            Axis::Block(_, Inner::KvHeads) => Some(Self::Heads),
            Axis::Block(_, Inner::QueryHeads) => Some(Self::QueryHeads),
            Axis::Block(_, Inner::State) => Some(Self::State),
            Axis::Vocabulary | Axis::Positions | Axis::EmbeddingWidth | Axis::Block(_, Inner::HeadDim) => None,
        }
    }
}

/// What a weight is worth.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Saliency {
    /// |w|.
    Magnitude,
    /// |w| · ‖x‖ of the channel it reads (Sun et al. 2023, "A Simple and Effective Pruning
    /// Approach for Large Language Models", equation 1), of the layers that read a unit.
    Wanda,
    /// |w · ∂L/∂w| (LLM-Pruner: Ma et al. 2023, equation 4).
    Taylor,
    /// |w · ∂L/∂w − ½ w² F|, F the diagonal of the Fisher information (the same, equation 5).
    TaylorSecond,
    /// Mean |x| of the unit's channels (Minitron: Muralidharan et al. 2024, section 2.2).
    Activation,
    /// What removing a unit adds to the squared error of the layers that read it, where
    /// their other columns make good what they can: tr(W [H⁻¹]⁻¹ Wᵀ) over the unit's
    /// columns (SparseGPT: Frantar and Alistarh 2023, equation 3; in blocks: Kurtic et al.
    /// 2023, "ZipLM", section 3).
    #[default]
    OptimalBrain,
}

/// How the numbers of a unit's weights become one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Aggregate {
    /// Their sum.
    Sum,
    /// Their mean.
    Mean,
    /// The root of the sum of their squares.
    #[default]
    L2,
    /// The greatest.
    Max,
}

/// How scores of layers are made comparable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Normalise {
    /// As they are, for each parameter that goes.
    None,
    /// By their mean in the layer.
    #[default]
    Mean,
    /// By the greatest in the layer.
    Max,
}

/// What a pruned model must keep.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Target {
    /// Parameters of blocks.
    BlockParameters(u64),
    /// Parameters.
    Parameters(u64),
    /// Multiply-adds of a token.
    MultiplyAdds(u64),
    /// Milliseconds of a token.
    Milliseconds(f64),
}

impl Target {
    /// What a model costs by the measure of this target; `None` where it must be timed.
    pub fn cost(self, spec: &ModelSpec) -> Option<f64> {
        match self {
            Self::BlockParameters(_) => Some(spec.block_parameter_count() as f64),
            Self::Parameters(_) => Some(spec.parameter_count() as f64),
            Self::MultiplyAdds(_) => Some(spec.multiply_adds() as f64),
            Self::Milliseconds(_) => None,
        }
    }

    /// What it may cost.
    pub fn limit(self) -> f64 {
        match self {
            Self::BlockParameters(n) | Self::Parameters(n) | Self::MultiplyAdds(n) => n as f64,
            Self::Milliseconds(ms) => ms,
        }
    }
}

/// What a saliency is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    /// Weights alone.
    Weights,
    /// And what is known of their inputs.
    Inputs,
    /// And gradients of the loss; of their squares where `squares`.
    Gradients {
        /// Whether the Fisher information is needed.
        squares: bool,
    },
}

impl Saliency {
    /// What it is told.
    pub fn needs(self) -> Needs {
        match self {
            Self::Magnitude => Needs::Weights,
            Self::Taylor => Needs::Gradients { squares: false },
            Self::TaylorSecond => Needs::Gradients { squares: true },
            Self::Wanda | Self::Activation | Self::OptimalBrain => Needs::Inputs,
        }
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::BlockParameters(n) => write!(f, "{n} parameters in blocks"),
            Self::Parameters(n) => write!(f, "{n} parameters"),
            Self::MultiplyAdds(n) => write!(f, "{n} multiply-adds a token"),
            Self::Milliseconds(ms) => write!(f, "{ms} ms a token"),
        }
    }
}

impl PruneDepth {
    /// For a model.
    pub(super) fn checked(&self, spec: &ModelSpec) -> Checked<Self> {
        let fail = |reason: String| Err(format!("prune_depth: {reason}"));
        if self.layers.is_some() == self.ratio.is_some() {
            return fail("say how many with layers = 2, or which share with ratio = 0.25".into());
        }
        if let Some(ratio) = self.ratio.filter(|ratio| !(*ratio > 0.0 && *ratio < 1.0)) {
            return fail(format!("ratio = {ratio} must be above 0 and below 1; 0.25 takes out a quarter of the layers"));
        }
        let (out, of) = (self.count(spec), spec.blocks.len());
        if of == 1 {
            return fail("this model has one layer, which must stay: leave the stage out".into());
        }
        if out == 0 || out >= of {
            return fail(format!("it would take out {out} of {of} layers: take out 1 to {}", of - 1));
        }
        self.stand_in(spec).apply(spec).map_err(|reason| format!("prune_depth: {reason}"))?;
        Ok(self.clone())
    }

    /// Layers to take out.
    pub fn count(&self, spec: &ModelSpec) -> usize {
        let share = |ratio: f64| (ratio * spec.blocks.len() as f64).round() as usize;
        self.layers.or(self.ratio.map(share)).expect("it was checked")
    }

    /// As many layers as will be left, whichever they are.
    pub(super) fn stand_in(&self, spec: &ModelSpec) -> Selection {
        let mut left = Selection::whole(spec);
        left.layers.truncate(spec.blocks.len() - self.count(spec));
        left
    }
}

impl PruneWidth {
    /// For a model.
    pub(super) fn checked(&self, spec: &ModelSpec) -> Checked<Self> {
        self.check(spec).map_err(|reason| format!("prune_width: {reason}"))?;
        Ok(self.clone())
    }

    fn check(&self, spec: &ModelSpec) -> Checked<()> {
        let Self { ratio, parameters, bytes, multiply_adds, target_ms, widths, .. } = self;
        let targets =
            [ratio.is_some(), parameters.is_some(), bytes.is_some(), multiply_adds.is_some(), target_ms.is_some(), !widths.is_empty()];
        if targets.iter().filter(|given| **given).count() != 1 {
            return Err(
                "say how far with exactly one of ratio, parameters, bytes, multiply_adds, target_ms and widths, such as ratio = 0.3".into(),
            );
        }
        if let Some(ratio) = ratio.filter(|ratio| !(*ratio > 0.0 && *ratio < 1.0)) {
            return Err(format!("ratio = {ratio} must be above 0 and below 1; 0.3 takes out 30 % of the blocks' parameters"));
        }
        match self.bits_per_weight {
            Some(bits) if !(bits > 0.0 && bits <= 32.0) => return Err(format!("bits_per_weight = {bits} must be above 0 and at most 32")),
            Some(_) if bytes.is_none() => return Err("bits_per_weight is what bytes counts: give bytes, or leave it out".into()),
            _ => (),
        }
        match &self.cut {
            Some(_) if !widths.is_empty() => return Err("widths says what is cut: leave cut out".into()),
            Some(cut) if cut.is_empty() => return Err("cut is empty: say what may go, such as cut = [\"ffn\"]".into()),
            _ => (),
        }
        if target_ms.is_some_and(|ms| !(ms > 0.0 && ms.is_finite())) {
            return Err("target_ms must be a positive number of milliseconds".into());
        }
        if target_ms.is_some() && self.cuts().contains(&Cut::Hidden) {
            return Err("target_ms times layers, and hidden is the width between them: leave hidden out, or use multiply_adds".into());
        }
        if let Some(damp) = self.damp_percent.filter(|damp| !(*damp > 0.0 && *damp <= 1.0)) {
            return Err(format!("damp_percent = {damp} must be above 0 and at most 1"));
        }
        if self.damp_percent.is_some() && !self.reconstruct {
            return Err("damp_percent is for reconstruct = true; leave it out".into());
        }
        if self.multiple == 0 {
            return Err("multiple must be at least 1".into());
        }
        if self.cuts().contains(&Cut::QueryHeads) && self.cuts().contains(&Cut::Heads) {
            return Err("cut: query heads go with their key-value heads or by themselves: leave one of heads and query_heads out".into());
        }
        for cut in self.cuts() {
            let axes = self.axes_of(cut, spec);
            if axes.is_empty() {
                let there: Vec<_> = Cut::ALL.iter().filter(|cut| !self.axes_of(**cut, spec).is_empty()).map(|cut| cut.name()).collect();
                return Err(format!("cut: this model has no {} to take out; it has {}", cut.name(), there.join(", ")));
            }
            let mut checked = axes.iter().map(|&axis| self.check_axis(cut, axis, spec));
            match widths.contains_key(&cut) {
                true => checked.collect::<Checked<()>>()?,
                // A block that can spare nothing stays as it is, where others can.
                false => checked.find(Result::is_ok).unwrap_or_else(|| self.check_axis(cut, axes[0], spec))?,
            }
        }
        let floor = self.selection(spec, |axis| self.least(axis, spec)).apply(spec)?;
        if let Some(target) = self.target(spec)
            && let Some(least) = target.cost(&floor)
            && least > target.limit()
        {
            let what = self.cuts().iter().map(|cut| cut.name()).collect::<Vec<_>>().join(", ");
            return Err(format!(
                "{target} cannot be reached: the least that cutting {what} leaves costs {least}; cut more kinds, or layers too"
            ));
        }
        Ok(())
    }

    fn check_axis(&self, cut: Cut, axis: Axis, spec: &ModelSpec) -> Checked<()> {
        let (of, name) = (axis.size(spec), cut.name());
        if let Some(&width) = self.widths.get(&cut) {
            if !(1..=of).contains(&width) {
                return Err(format!("widths: {name} = {width} must be from 1 to {of}, what there is"));
            }
            let step = self.step(axis, spec);
            if cut == Cut::QueryHeads && !width.is_multiple_of(step) {
                return Err(format!(
                    "widths: query_heads = {width} must be a multiple of the {step} key-value heads, which serve as many each"
                ));
            }
            return Ok(());
        }
        if of <= self.least(axis, spec) {
            return Err(match cut {
                Cut::Heads | Cut::QueryHeads => format!("cut: {axis} are {of}, and a unit of them must stay: leave {name} out"),
                _ => format!(
                    "cut: {axis} is {of} wide, and cannot be a smaller multiple of {}: set multiple = {}",
                    self.multiple,
                    (of / 4).max(1)
                ),
            });
        }
        Ok(())
    }

    /// What is cut.
    pub fn cuts(&self) -> Vec<Cut> {
        let told = || self.cut.clone().unwrap_or_else(|| vec![Cut::Ffn, Cut::Heads]);
        if self.widths.is_empty() { told() } else { self.widths.keys().copied().collect() }
    }

    /// The axes that are cut.
    pub fn axes(&self, spec: &ModelSpec) -> Vec<Axis> {
        self.cuts().into_iter().flat_map(|cut| self.axes_of(cut, spec)).collect()
    }

    fn axes_of(&self, cut: Cut, spec: &ModelSpec) -> Vec<Axis> {
        spec.cuttable().into_iter().filter(|axis| Cut::of(*axis) == Some(cut)).collect()
    }

    /// Units that go together at least.
    pub fn step(&self, axis: Axis, spec: &ModelSpec) -> usize {
        match axis {
            Axis::Block(_, Inner::KvHeads) => 1,
            Axis::Block(block, Inner::QueryHeads) => Axis::Block(block, Inner::KvHeads).size(spec),
            _ => self.multiple,
        }
    }

    /// Units that must stay.
    pub fn least(&self, axis: Axis, spec: &ModelSpec) -> usize {
        let exact = Cut::of(axis).and_then(|cut| self.widths.get(&cut)).copied();
        exact.unwrap_or_else(|| self.step(axis, spec).min(axis.size(spec)))
    }

    /// So many of each axis that is cut, whichever they are.
    fn selection(&self, spec: &ModelSpec, count: impl Fn(Axis) -> usize) -> Selection {
        let mut left = Selection::whole(spec);
        for axis in self.axes(spec) {
            let units: Vec<usize> = match axis {
                Axis::Block(_, Inner::QueryHeads) => {
                    let keys = self.step(axis, spec);
                    let (on_each, stay) = (axis.size(spec) / keys, count(axis) / keys);
                    (0..keys).flat_map(|key| (0..stay).map(move |i| key * on_each + i)).collect()
                }
                _ => (0..count(axis)).collect(),
            };
            left.keep(axis, &units, spec);
        }
        left
    }

    /// What the pruned model must keep; `None` where its widths are given.
    pub fn target(&self, spec: &ModelSpec) -> Option<Target> {
        let blocks = |ratio: f64| Target::BlockParameters(((1.0 - ratio) * spec.block_parameter_count() as f64) as u64);
        let bytes = |bytes: u64| Target::Parameters((bytes as f64 * 8.0 / self.bits_per_weight.unwrap_or(16.0)) as u64);
        let (ratio, parameters) = (self.ratio.map(blocks), self.parameters.map(Target::Parameters));
        let multiply_adds = self.multiply_adds.map(Target::MultiplyAdds);
        ratio.or(parameters).or(self.bytes.map(bytes)).or(multiply_adds).or(self.target_ms.map(Target::Milliseconds))
    }

    /// What will be left, as far as it is known: widths that are given; otherwise those
    /// there are.
    pub(super) fn stand_in(&self, spec: &ModelSpec) -> Selection {
        if self.widths.is_empty() { Selection::whole(spec) } else { self.selection(spec, |axis| self.least(axis, spec)) }
    }

    /// A model of the kind that will be left: where widths are searched, each a step
    /// narrower, and in one block alone where blocks may differ.
    pub(super) fn example(&self, spec: &ModelSpec) -> Selection {
        if !self.widths.is_empty() {
            return self.stand_in(spec);
        }
        let is_cut = |axis| self.uniform || !matches!(axis, Axis::Block(1.., _));
        self.selection(spec, |axis| {
            let (of, step) = (axis.size(spec), self.step(axis, spec));
            if is_cut(axis) { ((of - 1) / step * step).max(self.least(axis, spec)) } else { of }
        })
    }
}
