//! The walk over a model's blocks that stages on calibrated layers have in common:
//! what lies before the blocks, block after block, each calibrated on what the finished
//! ones before it make of the text, then what lies behind them. What is done in each
//! place is a [`BlockWork`].

use super::StageResult;
use super::journal::{PartResult, StageJournal};
use crate::compress::calibrate::{HiddenStates, Statistics};
use crate::compress::libtorch::EmbeddingLayer;
use crate::compress::{Compute, Parameters};
use crate::error::Result;
use crate::forward::trace::InputGroup;
use crate::model::{ModelSpec, Part};
use crate::progress::{Progress, Unit};
use crate::quant::{Weight, WeightStore};
use crate::recipe::TokenImportance;
use crate::report::{LayerReport, StageReport, unseen_warning};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

/// What it is calibrated on.
#[derive(Clone, Copy)]
pub struct Sample<'a> {
    /// All of one length.
    pub sequences: &'a [Vec<u32>],
    /// How much their tokens count.
    pub importance: TokenImportance,
}

/// What a stage does in each place of the walk.
pub trait BlockWork {
    /// Its name in a recipe.
    fn method(&self) -> &'static str;

    /// What progress calls it, such as "quantising".
    fn doing(&self) -> &'static str;

    /// Steps of progress in a block, where one pass over the calibration takes `pass`.
    fn steps(&self, pass: u64) -> u64;

    /// The parameters before or behind the blocks.
    fn outside_blocks(&self, part: Part) -> Result<PartResult>;

    /// One block. The hidden states stand before it, and may be moved behind it, as what is made of the
    /// block moves it; `later_uses` are statistics of the inputs that its layers have in later
    /// blocks, where those share them.
    fn block(&self, index: usize, hidden: &mut HiddenStates, later_uses: Option<Statistics>) -> Result<PartResult>;
}

/// A walk over the parts of a model.
pub struct Walk<'a> {
    /// The model as it is.
    pub store: &'a dyn WeightStore,
    /// What it is calibrated on.
    pub sample: Sample<'a>,
    /// Where and in what libtorch computes.
    pub compute: Compute,
    /// What has been done so far.
    pub journal: &'a StageJournal,
    /// Hears how far it is.
    pub progress: &'a dyn Progress,
}

impl Walk<'_> {
    /// Does the work in all places; each is on disk before the next begins.
    pub fn run(&self, work: &dyn BlockWork) -> Result<StageResult> {
        let start = Instant::now();
        let Self { store, journal, compute, progress, .. } = *self;
        let spec = store.spec();
        let start_part = journal.part(spec, Part::Start, || work.outside_blocks(Part::Start))?;
        let mut layers = start_part.layers;
        // What is finished and still to be read, by canonical name.
        let mut finished: BTreeMap<String, Weight> = start_part.weights.into_iter().collect();
        let embedding = EmbeddingLayer::load(spec, |name| Ok(finished[name].clone()), compute)?;
        let mut hidden = HiddenStates::start(self.sample.sequences, &embedding, self.sample.importance);
        let mut later_uses = later_uses(store, &hidden, compute, progress)?;

        let pass = hidden.len();
        let steps = work.steps(pass);
        progress.begin(
            &format!("{}: {} blocks", work.method(), work.doing()),
            (steps + pass) * spec.blocks.len() as u64,
            Unit::of("blocks", steps + pass),
        );
        for (i, block) in spec.blocks.iter().enumerate() {
            progress.may_go_on()?;
            let mut fresh = false;
            let uses = later_uses.remove(&i);
            let made = journal.part(spec, Part::Block(i), || {
                fresh = true;
                work.block(i, &mut hidden, uses)
            })?;
            if !fresh {
                progress.advance(steps);
            }
            layers.extend(made.layers);
            if !spec.shares_weights() {
                finished.clear();
            }
            finished.extend(made.weights);
            // What the last block makes of them is of use to none.
            if i + 1 < spec.blocks.len() && hidden.block() == i {
                hidden.advance(block, &Parameters::of_block(spec, i, |name| Ok(finished[name].clone()), compute)?, progress);
            }
        }
        progress.end();

        layers.extend(journal.part(spec, Part::End, || work.outside_blocks(Part::End))?.layers);
        warn_of_remarks(&layers);
        if let Some(warning) = unseen_warning(&layers) {
            tracing::warn!("{warning}");
        }
        let report = StageReport { layers, ..StageReport::of(work.method(), start.elapsed().as_secs_f64()) };
        Ok(StageResult { report, model: Arc::new(journal.model(spec)?) })
    }
}

/// The groups of linear layers that a block owns: what another one owns is done with
/// that one.
pub fn own_groups(spec: &ModelSpec, block: usize) -> Vec<InputGroup> {
    let groups = spec.blocks[block].input_groups(spec.hidden_size).into_iter();
    groups.filter(|group| spec.owner(block, group.linears[0].name) == block).collect()
}

/// Says what is remarkable, once for all layers that it is true of; all of it is in the
/// report.
fn warn_of_remarks(layers: &[LayerReport]) {
    const SAID: usize = 3;
    let mut by_remark: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for layer in layers {
        layer.remarks.iter().for_each(|remark| by_remark.entry(remark).or_default().push(&layer.name));
    }
    for (remark, names) in by_remark.iter().take(SAID) {
        let more = if names.len() > 1 { format!(" and {} more", names.len() - 1) } else { String::new() };
        tracing::warn!("{}{more}: {remark}", names[0]);
    }
    if by_remark.len() > SAID {
        tracing::warn!("{} more remarks are in the report", by_remark.len() - SAID);
    }
}

/// Statistics of the inputs of shared layers in the blocks that use them again, by
/// the block that owns them. Those blocks come later, so their inputs are those of
/// the original model; what the owner reads itself is not in here.
pub(super) fn later_uses(
    store: &dyn WeightStore,
    start: &HiddenStates,
    compute: Compute,
    progress: &dyn Progress,
) -> Result<BTreeMap<usize, Statistics>> {
    let spec = store.spec();
    let mut uses: BTreeMap<usize, Statistics> = BTreeMap::new();
    if !spec.shares_weights() {
        return Ok(uses);
    }
    let mut hidden = start.again();
    progress.begin("reading shared layers' inputs", hidden.len() * spec.blocks.len() as u64, Unit::of("blocks", hidden.len()));
    for (i, block) in spec.blocks.iter().enumerate() {
        let parameters = Parameters::block(store, i, compute)?;
        let mut statistics = hidden.advance_observed(block, &parameters, progress);
        for group in block.input_groups(spec.hidden_size) {
            let owner = spec.owner(i, group.linears[0].name);
            if owner != i {
                uses.entry(owner).or_default().take_over(&mut statistics, group.input);
            }
        }
    }
    progress.end();
    Ok(uses)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compress::libtorch::block_forward;
    use crate::forward::names::ffn;
    use crate::model::DenseModel;
    use crate::progress::Silent;
    use crate::spec::LayerName;
    use tch::{Kind, Tensor};

    /// The Hessian of a feed-forward that all blocks share is that of all its inputs.
    #[test]
    fn statistics_of_shared_layers_are_those_of_all_uses() {
        let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/fixtures/mobillama-shared");
        let model = DenseModel::open_hugging_face(&dir).unwrap();
        let store: &dyn WeightStore = &model;
        let embedding = EmbeddingLayer::load(model.spec(), |name| store.weight(name), Compute::CPU).unwrap();
        let sequences: Vec<Vec<u32>> = (0..3).map(|s| (0..10).map(|i| (7 * i + 11 * s) % 90).collect()).collect();
        let hidden = HiddenStates::start(&sequences, &embedding, TokenImportance::Equal);

        // By hand: every input of every use, in f64.
        let mut x = embedding.forward(&sequences.iter().map(Vec::as_slice).collect::<Vec<_>>());
        let mut observed = Vec::new();
        for (i, block) in model.spec().blocks.iter().enumerate() {
            let parameters = Parameters::block(store, i, Compute::CPU).unwrap();
            let mut observe = |input: LayerName, x: &Tensor| {
                if input == ffn::HIDDEN {
                    observed.push(x.flatten(0, 1).to_kind(Kind::Double));
                }
            };
            x = block_forward(block, &parameters, &x, &mut observe);
        }
        assert_eq!(observed.len(), 3);
        let all = Tensor::cat(&observed, 0);
        let expected = all.tr().matmul(&all) * (2.0 / all.size()[0] as f64);

        let mut uses = later_uses(store, &hidden, Compute::CPU, &Silent).unwrap();
        let parameters = Parameters::block(store, 0, Compute::CPU).unwrap();
        let mut statistics = hidden.observe(&model.spec().blocks[0], &parameters, &[ffn::HIDDEN], &Silent);
        statistics.take_over(&mut uses.remove(&0).unwrap(), ffn::HIDDEN);
        assert!(uses.is_empty(), "one block owns what is shared");
        let difference = (statistics.take(ffn::HIDDEN).hessian.to_kind(Kind::Double) - &expected).abs().max();
        let relative = (difference / expected.abs().max()).double_value(&[]);
        assert!(relative < 1e-5, "{relative}");
    }
}
