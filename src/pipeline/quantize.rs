//! A stage that quantises: embeddings first, then block after block, each
//! calibrated on the outputs of the compressed blocks before it, then the head.

use super::Done;
use super::journal::{Made, StageJournal};
use super::narrow::kept;
use crate::compress::calibrate::{Statistics, Stream};
use crate::compress::decoder::Entrance;
use crate::compress::quantize::{Site, layer_method, relative_error};
use crate::compress::rescale::{Channels, Reader, Rescaling, divided, rescaling};
use crate::compress::{Compute, Parameter, Parameters, dense};
use crate::error::{Error, Result};
use crate::model::{FedBy, InputGroup, Part};
use crate::progress::Progress;
use crate::quant::rounding::round_to_nearest;
use crate::quant::{Layout, PackedTensor, Weight, WeightStore};
use crate::recipe::{Quantize, TokenImportance};
use crate::report::{LayerReport, StageReport};
use ndarray::ArrayView2;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;
use tch::{Kind, Tensor};

/// What it is calibrated on.
#[derive(Clone, Copy)]
pub struct Sample<'a> {
    /// All of one length.
    pub sequences: &'a [Vec<u32>],
    /// How much their tokens count.
    pub importance: TokenImportance,
}

/// Runs the stage.
pub fn run(
    plan: &Quantize,
    store: &dyn WeightStore,
    sample: Sample,
    compute: Compute,
    journal: &StageJournal,
    progress: &dyn Progress,
) -> Result<Done> {
    let start = Instant::now();
    let work = Work { store, plan, compute, progress };
    let method = plan.method.name();
    let spec = store.spec();

    let start_part = journal.part(spec, Part::Start, || work.outside_blocks(Part::Start))?;
    let mut layers = start_part.layers;
    // What is finished and still to be read, by canonical name.
    let mut finished: BTreeMap<String, Weight> = start_part.weights.into_iter().collect();
    let entrance = Entrance::load(spec, |name| Ok(finished[name].clone()), compute)?;
    let mut stream = Stream::start(sample.sequences, &entrance, sample.importance);
    let mut later_uses = later_uses(store, &stream, compute, progress)?;

    // A block is observed, once or for each group, solved group by group, and passed.
    let groups = spec.blocks.first().map_or(0, |b| b.input_groups(spec.hidden_size).len() as u64);
    let passes = if plan.method.is_sequential() { groups + 1 + u64::from(plan.rescale.is_some()) } else { 2 };
    let searches = if plan.rescale.is_some() { groups } else { 0 };
    let steps = passes * stream.len() + groups + searches;
    progress.begin(&format!("{method}: quantising blocks"), steps * spec.blocks.len() as u64);
    for (i, block) in spec.blocks.iter().enumerate() {
        progress.may_go_on()?;
        let mut fresh = false;
        let uses = later_uses.remove(&i);
        let made = journal.part(spec, Part::Block(i), || {
            fresh = true;
            work.block(i, &stream, uses)
        })?;
        if !fresh {
            progress.advance(steps - stream.len());
        }
        layers.extend(made.layers);
        if !spec.shares_weights() {
            finished.clear();
        }
        finished.extend(made.weights);
        // What the last block makes of them is of use to none.
        if i + 1 < spec.blocks.len() {
            stream.advance(block, &Parameters::of_block(spec, i, |name| Ok(finished[name].clone()), compute)?, progress);
        }
    }
    progress.end();

    layers.extend(journal.part(spec, Part::End, || work.outside_blocks(Part::End))?.layers);
    warn_of_remarks(&layers);
    Ok(Done {
        report: StageReport { layers, ..StageReport::of(method, start.elapsed().as_secs_f64()) },
        model: Arc::new(journal.model(spec)?),
    })
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
fn later_uses(store: &dyn WeightStore, start: &Stream, compute: Compute, progress: &dyn Progress) -> Result<BTreeMap<usize, Statistics>> {
    let spec = store.spec();
    let mut uses: BTreeMap<usize, Statistics> = BTreeMap::new();
    if !spec.shares_weights() {
        return Ok(uses);
    }
    let mut stream = start.again();
    progress.begin("reading shared layers' inputs", stream.len() * spec.blocks.len() as u64);
    for (i, block) in spec.blocks.iter().enumerate() {
        let parameters = Parameters::block(store, i, compute)?;
        let mut statistics = stream.advance_observed(block, &parameters, progress);
        for group in block.input_groups(spec.hidden_size) {
            let owner = spec.owner(i, group.linears[0].role);
            if owner != i {
                uses.entry(owner).or_default().take_over(&mut statistics, group.input);
            }
        }
    }
    progress.end();
    Ok(uses)
}

struct Work<'a> {
    store: &'a dyn WeightStore,
    plan: &'a Quantize,
    compute: Compute,
    progress: &'a dyn Progress,
}

impl Work<'_> {
    /// Parameters outside the blocks: rounded to nearest, or kept.
    fn outside_blocks(&self, part: Part) -> Result<Made> {
        let (mut weights, mut layers) = (Vec::new(), Vec::new());
        let spec = self.store.spec();
        for parameter in spec.parameters_of(part) {
            let weight = self.store.weight(&parameter.name)?;
            let Some(&scheme) = self.plan.schemes.get(&parameter.name) else {
                weights.push((parameter.name, kept(weight, parameter.kind)));
                continue;
            };
            let values = weight.to_f32();
            let matrix = ArrayView2::from_shape((parameter.shape[0], parameter.shape[1]), &values).expect("shapes are checked");
            let tensor = round_to_nearest(matrix, scheme);
            // A tied embedding is a head too, and products want tiles.
            let layout = if spec.is_looked_up(&parameter) { Layout::Rows } else { Layout::Tiles };
            let packed = Weight::Packed(PackedTensor::pack(&tensor, layout));
            layers.push(LayerReport {
                relative_error: distance(&values, &packed),
                bits: scheme.bits_per_weight([parameter.shape[0], parameter.shape[1]]),
                name: parameter.name.clone(),
                remarks: Vec::new(),
            });
            weights.push((parameter.name, packed));
        }
        Ok(Made { weights, layers })
    }

    /// One block: statistics on the stream, and of later uses of its layers; scales;
    /// then each group of layers. What another block owns was done with that one.
    fn block(&self, index: usize, stream: &Stream, later_uses: Option<Statistics>) -> Result<Made> {
        let spec = self.store.spec();
        let block = &spec.blocks[index];
        let groups = block.input_groups(spec.hidden_size).into_iter();
        let own: Vec<_> = groups.filter(|group| spec.owner(index, group.linears[0].role) == index).collect();
        let observe = |inputs: &[&str], changed: &Changed| {
            let parameters = Parameters::of_block(spec, index, |name| self.weight(name, changed), self.compute)?;
            Ok::<_, Error>(stream.observe(block, &parameters, inputs, self.progress))
        };
        let method = layer_method(self.plan.method);
        let sequential = self.plan.method.is_sequential();
        let mut later_uses = later_uses.unwrap_or_default();
        let mut statistics = Statistics::default();
        let mut rescaled = Rescaled::default();
        if !own.is_empty() && (!sequential || self.plan.rescale.is_some()) {
            statistics = observe(&own.iter().map(|group| group.input).collect::<Vec<_>>(), &rescaled.weights)?;
            // Where layers are solved in turn, each is observed anew, and they come in again.
            let mut merged = if sequential { later_uses.copy() } else { std::mem::take(&mut later_uses) };
            own.iter().for_each(|group| statistics.take_over(&mut merged, group.input));
            if let Some(rescale) = self.plan.rescale {
                rescaled = self.rescale(&*rescaling(rescale), index, &own, &mut statistics, &mut later_uses)?;
            }
        }
        // What the block's parameters have become so far.
        let mut changed = std::mem::take(&mut rescaled.weights);
        let mut layers = Vec::new();
        for group in &own {
            if sequential {
                statistics = observe(&[group.input], &changed)?;
            }
            statistics.take_over(&mut later_uses, group.input);
            let input = statistics.take(group.input);
            let sites = self.sites(index, group, &changed)?;
            for (site, mut outcome) in sites.iter().zip(method.compress(&sites, &input)?) {
                let solved = outcome.tensor.dequantize();
                let solved =
                    Tensor::from_slice(solved.as_slice().expect("standard layout")).view_as(&site.weight).to_device(self.compute.device);
                outcome.remarks.extend(rescaled.left.get(group.input).map(|why| format!("not rescaled: {why}")));
                layers.push(LayerReport {
                    name: site.name.clone(),
                    relative_error: relative_error(&site.weight, &solved, &input.hessian),
                    bits: outcome.tensor.bits_per_weight(),
                    remarks: outcome.remarks,
                });
                changed.insert(site.name.clone(), Weight::pack(&site.name, &outcome.tensor, Layout::Tiles));
            }
            self.progress.advance(1);
        }
        let parameters = spec.parameters_of(Part::Block(index));
        let weight = |parameter: crate::model::Parameter| {
            let weight = self.weight(&parameter.name, &changed)?;
            Ok((parameter.name, kept(weight, parameter.kind)))
        };
        Ok(Made { weights: parameters.map(weight).collect::<Result<_>>()?, layers })
    }

    /// Scales of every input of a block that can be scaled: what it makes of the
    /// parameters, and of what is known of their inputs.
    fn rescale(
        &self,
        by: &dyn Rescaling,
        index: usize,
        groups: &[InputGroup],
        statistics: &mut Statistics,
        later_uses: &mut Statistics,
    ) -> Result<Rescaled> {
        let spec = self.store.spec();
        let mut rescaled = Rescaled::default();
        let name = |role: &str| spec.block_name(index, role);
        for fold in spec.folds(index) {
            let groups: Vec<_> = groups.iter().filter(|group| fold.inputs.contains(&group.input)).collect();
            self.progress.advance(groups.len() as u64);
            let linears = || groups.iter().flat_map(|group| group.linears.iter().map(|linear| (group.input, name(linear.role))));
            if !by.takes(&fold.fed_by) || !linears().any(|(_, name)| self.plan.schemes.contains_key(&name)) {
                continue;
            }
            if let FedBy::Nothing(why) = fold.fed_by {
                rescaled.left.extend(fold.inputs.iter().map(|&input| (input, why)));
                continue;
            }
            let inputs: BTreeMap<_, _> = groups.iter().map(|group| (group.input, statistics.of(group.input))).collect();
            let reader = |(input, name): (&'static str, String)| {
                Ok(Reader {
                    weight: self.load(&name, &rescaled.weights)?,
                    scheme: self.plan.schemes.get(&name).copied(),
                    input: &inputs[input],
                })
            };
            let readers = linears().map(reader).collect::<Result<Vec<_>>>()?;
            let channels = Channels::of(&fold);
            let Some(scales) = by.scales(&readers, &channels) else { continue };
            if scales.isfinite().all().int64_value(&[]) == 0 {
                let names: Vec<_> = linears().map(|(_, name)| name).collect();
                return Err(Error::Overflow(format!(
                    "the activations of {} are not finite: the model overflows on this text",
                    names.join(", ")
                )));
            }
            let spread = channels.spread(&scales);
            let mut changed: Vec<(String, Tensor)> =
                linears().zip(&readers).map(|((_, name), reader)| (name, &reader.weight * &spread)).collect();
            let source = divided(&fold.fed_by, &scales, |role| self.load(&name(role), &rescaled.weights))?;
            changed.extend(source.into_iter().map(|(role, tensor)| (name(&role), tensor)));
            rescaled.weights.extend(changed.into_iter().map(|(name, tensor)| (name.clone(), dense(&name, &tensor))));
            for group in &groups {
                statistics.divide(group.input, &spread);
                later_uses.divide(group.input, &spread);
            }
        }
        Ok(rescaled)
    }

    /// A parameter as it is now.
    fn weight(&self, name: &str, changed: &Changed) -> Result<Weight> {
        changed.get(name).map_or_else(|| self.store.weight(name), |weight| Ok(weight.clone()))
    }

    /// Its numbers, in f32.
    fn load(&self, name: &str, changed: &Changed) -> Result<Tensor> {
        let compute = Compute { kind: Kind::Float, ..self.compute };
        Ok(Parameter::load(self.weight(name, changed)?, compute).tensor().copy())
    }

    /// The layers of a group that the plan quantises, loaded.
    fn sites(&self, block: usize, group: &InputGroup, changed: &Changed) -> Result<Vec<Site>> {
        let names = group.linears.iter().map(|linear| self.store.spec().block_name(block, linear.role));
        let planned = names.filter_map(|name| self.plan.schemes.get(&name).map(|&scheme| (name, scheme)));
        planned.map(|(name, scheme)| Ok(Site { weight: self.load(&name, changed)?, name, scheme })).collect()
    }
}

/// Parameters of a block that are no longer those of the store, by canonical name.
type Changed = BTreeMap<String, Weight>;

/// What rescaling makes of a block.
#[derive(Default)]
struct Rescaled {
    weights: Changed,
    /// Inputs that nothing could be done for, and why.
    left: BTreeMap<&'static str, &'static str>,
}

/// ‖a − b‖ / ‖a‖, row by row: a vocabulary is not decoded as a whole.
fn distance(original: &[f32], packed: &Weight) -> f64 {
    let columns = packed.shape()[1];
    let mut decoded = vec![0.0; columns];
    let (mut difference, mut whole) = (0.0f64, 0.0f64);
    for (i, row) in original.chunks_exact(columns).enumerate() {
        packed.row(i, &mut decoded);
        difference += row.iter().zip(&decoded).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>();
        whole += row.iter().map(|a| f64::from(*a).powi(2)).sum::<f64>();
    }
    if whole == 0.0 { 0.0 } else { (difference / whole).sqrt() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compress::decoder::block_forward;
    use crate::model::{DenseModel, inputs};
    use crate::progress::Silent;

    /// The Hessian of a feed-forward that all blocks share is that of all its inputs.
    #[test]
    fn statistics_of_shared_layers_are_those_of_all_uses() {
        let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/fixtures/mobillama-shared");
        let model = DenseModel::open_hugging_face(&dir).unwrap();
        let store: &dyn WeightStore = &model;
        let entrance = Entrance::load(model.spec(), |name| store.weight(name), Compute::CPU).unwrap();
        let sequences: Vec<Vec<u32>> = (0..3).map(|s| (0..10).map(|i| (7 * i + 11 * s) % 90).collect()).collect();
        let stream = Stream::start(&sequences, &entrance, TokenImportance::Equal);

        // By hand: every input of every use, in f64.
        let mut x = entrance.forward(&sequences.iter().map(Vec::as_slice).collect::<Vec<_>>());
        let mut heard = Vec::new();
        for (i, block) in model.spec().blocks.iter().enumerate() {
            let parameters = Parameters::block(store, i, Compute::CPU).unwrap();
            let mut hear = |input: &'static str, x: &Tensor| {
                if input == inputs::FFN_HIDDEN {
                    heard.push(x.flatten(0, 1).to_kind(Kind::Double));
                }
            };
            x = block_forward(block, &parameters, &x, &mut hear);
        }
        assert_eq!(heard.len(), 3);
        let all = Tensor::cat(&heard, 0);
        let expected = all.tr().matmul(&all) * (2.0 / all.size()[0] as f64);

        let mut uses = later_uses(store, &stream, Compute::CPU, &Silent).unwrap();
        let parameters = Parameters::block(store, 0, Compute::CPU).unwrap();
        let mut statistics = stream.observe(&model.spec().blocks[0], &parameters, &[inputs::FFN_HIDDEN], &Silent);
        statistics.take_over(&mut uses.remove(&0).unwrap(), inputs::FFN_HIDDEN);
        assert!(uses.is_empty(), "one block owns what is shared");
        let difference = (statistics.take(inputs::FFN_HIDDEN).hessian.to_kind(Kind::Double) - &expected).abs().max();
        let relative = (difference / expected.abs().max()).double_value(&[]);
        assert!(relative < 1e-5, "{relative}");
    }

    /// Solved in turn, a layer meets what the solved ones before it make of the
    /// calibration; otherwise what the original ones do.
    #[test]
    fn true_sequential_layers_meet_the_solved_ones_before_them() {
        let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/fixtures/llama-gqa-tied");
        let model = DenseModel::open_hugging_face(&dir).unwrap();
        let (store, spec): (&dyn WeightStore, _) = (&model, model.spec());
        let entrance = Entrance::load(spec, |name| store.weight(name), Compute::CPU).unwrap();
        let sequences: Vec<Vec<u32>> = (0..8).map(|s| (0..16).map(|i| (7 * i + 11 * s) % 90).collect()).collect();
        let stream = Stream::start(&sequences, &entrance, TokenImportance::Equal);
        let original = Parameters::block(store, 0, Compute::CPU).unwrap();
        for sequential in [true, false] {
            let recipe = format!("[[stage]]\n[stage.gptq]\nbits = 3\ngroup_size = 32\ntrue_sequential = {sequential}\n");
            let recipe = crate::recipe::RawRecipe::parse(&recipe, std::path::Path::new("r.toml"), &[]).unwrap().resolve(spec).unwrap();
            let crate::recipe::Stage::Quantize(plan) = &recipe.stages[0] else { unreachable!("it quantises") };
            let work = Work { store, plan, compute: Compute::CPU, progress: &Silent };
            let made = work.block(0, &stream, None).unwrap();

            let find = |name: &str| Ok(made.weights.iter().find(|(other, _)| other == name).unwrap().1.clone());
            let solved = Parameters::of_block(spec, 0, find, Compute::CPU).unwrap();
            let met = if sequential { &solved } else { &original };
            for (role, input) in [("attn.o", inputs::CONTEXT), ("ffn.down", inputs::FFN_HIDDEN)] {
                let hessian = stream.observe(&spec.blocks[0], met, &[input], &Silent).take(input).hessian;
                let expected = relative_error(original.get(role), solved.get(role), &hessian);
                let reported = made.layers.iter().find(|l| l.name.ends_with(role)).unwrap().relative_error;
                assert!((expected / reported - 1.0).abs() < 1e-4, "{role}, sequential {sequential}: {expected}, reported {reported}");
            }
        }
    }
}
