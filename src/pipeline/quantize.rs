//! A stage that quantises: embeddings and head are rounded, and each block's layers are
//! solved on their calibrated inputs.

use super::journal::PartResult;
use super::walk::{BlockWork, Walk, own_groups};
use super::{StageResult, round};
use crate::compress::calibrate::{HiddenStates, InputStatistics, Statistics};
use crate::compress::quantize::{self, TargetLayer};
use crate::compress::rescale::{Channels, Reader, Rescaling, divided, rescaling};
use crate::compress::solve::relative_error::{quadratic_form, relative};
use crate::compress::{Compute, Parameter, Parameters, dense, give_back};
use crate::error::{Error, Result};
use crate::export::kept;
use crate::forward::trace::{InputGroup, Producer};
use crate::model::Part;
use crate::progress::Progress;
use crate::quant::rounding::round_to_nearest;
use crate::quant::{Layout, PackedTensor, Weight, WeightStore};
use crate::recipe::Quantize;
use crate::report::LayerReport;
use crate::spec::LayerName;
use ndarray::ArrayView2;
use rayon::prelude::*;
use std::collections::BTreeMap;
use tch::{Kind, Tensor};

/// Most bytes that an input of all sequences may take where they go through a block abreast;
/// beyond it they go through it again for each input, a few at a time.
const ABREAST: usize = 1 << 30;

/// Bytes of a Hessian that is not to lie beside what freed tensors have left behind; below it,
/// asking the system for that memory again costs more than it is worth.
const LARGE: usize = 64 << 20;

/// Runs the stage.
pub fn run(plan: &Quantize, walk: &Walk) -> Result<StageResult> {
    let work = Work { store: walk.store, plan, compute: walk.compute, progress: walk.progress };
    if plan.reads_inputs() || plan.is_sequential() { walk.run(&work) } else { round::run(&work, walk) }
}

/// The stage's work in each place of the walk.
pub(super) struct Work<'a> {
    pub(super) store: &'a dyn WeightStore,
    pub(super) plan: &'a Quantize,
    pub(super) compute: Compute,
    pub(super) progress: &'a dyn Progress,
}

impl BlockWork for Work<'_> {
    fn method(&self) -> &'static str {
        self.plan.method.name()
    }

    fn doing(&self) -> &'static str {
        "quantising"
    }

    fn steps(&self, pass: u64) -> u64 {
        let spec = self.store.spec();
        // A block is observed, once or for each group, and solved group by group.
        let groups = spec.blocks.first().map_or(0, |b| b.input_groups(spec.hidden_size).len() as u64);
        let rescales = self.plan.rescale.is_some();
        let on_the_way = self.plan.is_sequential() || !self.plan.reads_inputs();
        let passes = if on_the_way { groups + u64::from(rescales) } else { 1 };
        passes * pass + groups + if rescales { groups } else { 0 }
    }

    /// Parameters outside the blocks: rounded to nearest, or kept.
    fn outside_blocks(&self, part: Part) -> Result<PartResult> {
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
                bits: tensor.bits_per_weight(),
                unseen_inputs: None,
                name: parameter.name.clone(),
                remarks: Vec::new(),
            });
            weights.push((parameter.name, packed));
        }
        Ok(PartResult { weights, layers })
    }

    /// One block: statistics on the hidden states, and of later uses of its layers; scales;
    /// then each group of layers. What another block owns was done with that one.
    fn block(&self, index: usize, hidden: &mut HiddenStates, later_uses: Option<Statistics>) -> Result<PartResult> {
        let spec = self.store.spec();
        let block = &spec.blocks[index];
        let own = own_groups(spec, index);
        let all = block.input_groups(spec.hidden_size);
        if !self.plan.reads_inputs() && !self.plan.is_sequential() && !spec.shares_weights() {
            return self.round(index, &own, hidden);
        }
        let inputs: Vec<LayerName> = own.iter().map(|group| group.input).collect();
        let observe = |hidden: &HiddenStates, inputs: &[LayerName], changed: &Changed| {
            let parameters = Parameters::of_block(spec, index, |name| self.weight(name, changed), self.compute)?;
            Ok::<_, Error>(hidden.observe(block, &parameters, inputs, self.progress))
        };
        let sequential = self.plan.is_sequential();
        let mut later_uses = later_uses.unwrap_or_default();
        let mut statistics = Statistics::default();
        let mut solved = Solved::default();
        if !own.is_empty() && (!sequential || self.plan.rescale.is_some()) {
            statistics = observe(hidden, &inputs, &solved.weights)?;
            // Where layers are solved in turn, each is observed anew, and they come in again.
            let mut merged = if sequential { later_uses.copy() } else { std::mem::take(&mut later_uses) };
            own.iter().for_each(|group| statistics.take_over(&mut merged, group.input));
            if let Some(rescale) = self.plan.rescale {
                let rescaled = self.rescale(&*rescaling(rescale), index, &own, &mut statistics, &mut later_uses)?;
                solved = Solved { weights: rescaled.weights, left: rescaled.left, layers: Vec::new() };
            }
        }
        let widest = all.iter().map(|group| group.linears[0].inputs.size()).max().unwrap_or(0);
        if sequential && own.len() == all.len() && hidden.bytes_of(widest) <= ABREAST {
            self.solve_on_the_way(index, &own, hidden, &mut later_uses, &mut solved)?;
        } else {
            for group in &own {
                if sequential {
                    statistics = observe(hidden, &[group.input], &solved.weights)?;
                }
                statistics.take_over(&mut later_uses, group.input);
                self.solve(index, group, statistics.take(group.input), &mut solved)?;
            }
        }
        let parameters = spec.parameters_of(Part::Block(index));
        let weight = |parameter: crate::model::Parameter| {
            let weight = self.weight(&parameter.name, &solved.weights)?;
            Ok((parameter.name, kept(weight, parameter.kind)))
        };
        Ok(PartResult { weights: parameters.map(weight).collect::<Result<_>>()?, layers: solved.layers })
    }
}

impl Work<'_> {
    /// All layers of a block, each on what the solved ones before it make: one pass does for
    /// statistics and for what the block makes.
    fn solve_on_the_way(
        &self,
        index: usize,
        groups: &[InputGroup],
        hidden: &mut HiddenStates,
        later_uses: &mut Statistics,
        solved: &mut Solved,
    ) -> Result<()> {
        let spec = self.store.spec();
        // Those that are to be solved come in once they are.
        let others = spec.roles(index).into_iter().filter_map(|(role, _, kind)| {
            let name = spec.block_name(index, &role);
            let weight = || Ok((role, kept(self.weight(&name, &solved.weights)?, kind)));
            (!self.plan.schemes.contains_key(&name)).then(weight)
        });
        let parameters = Parameters::new(others.collect::<Result<Vec<_>>>()?, self.compute);
        let inputs: Vec<LayerName> = groups.iter().map(|group| group.input).collect();
        let is_read = index + 1 < spec.blocks.len();
        let mut used: Vec<LayerName> = Vec::new();
        hidden.advance_solving(&spec.blocks[index], &parameters, &inputs, is_read, self.progress, &mut |input, mut statistics| {
            // What read the inputs before this one has done so, for all sequences.
            used.drain(..).for_each(|name| parameters.drop(&name.to_string()));
            let group = groups.iter().find(|group| group.input == input).expect("it was asked for");
            statistics.take_over(later_uses, input);
            self.solve(index, group, statistics.take(input), solved)?;
            for linear in &group.linears {
                let name = spec.block_name(index, linear.name);
                if self.plan.schemes.contains_key(&name) {
                    parameters.put(&linear.name.to_string(), Parameter::load(solved.weights[&name].clone(), self.compute));
                    used.push(linear.name);
                }
            }
            Ok(())
        })
    }

    /// The layers of one input.
    fn solve(&self, index: usize, group: &InputGroup, input: InputStatistics, solved: &mut Solved) -> Result<()> {
        if 4 * input.hessian.numel() >= LARGE {
            give_back();
        }
        let layers = self.target_layers(index, group, &solved.weights)?;
        input.check(&layers.iter().map(|layer| layer.name.clone()).collect::<Vec<_>>())?;
        let references: Vec<f64> = layers.iter().map(|layer| quadratic_form(&layer.weight, &input.hessian)).collect();
        let (outcomes, unseen) = quantize::compress(self.plan.method, &layers, input)?;
        let unseen_inputs = unseen.filter(|_| self.plan.method.reads_inputs() || self.plan.rescale.is_some());
        for ((layer, reference), mut outcome) in layers.iter().zip(references).zip(outcomes) {
            outcome.remarks.extend(solved.left.get(&group.input).map(|why| format!("not rescaled: {why}")));
            solved.layers.push(LayerReport {
                name: layer.name.clone(),
                relative_error: relative(outcome.squared_error, reference),
                bits: outcome.tensor.bits_per_weight(),
                unseen_inputs,
                remarks: outcome.remarks,
            });
            solved.weights.insert(layer.name.clone(), Weight::pack(&layer.name, &outcome.tensor, Layout::Tiles));
        }
        self.progress.advance(1);
        Ok(())
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
        let name = |layer: LayerName| spec.block_name(index, layer);
        for migration in spec.scale_migrations(index) {
            let groups: Vec<_> = groups.iter().filter(|group| migration.inputs.contains(&group.input)).collect();
            self.progress.advance(groups.len() as u64);
            let linears = || groups.iter().flat_map(|group| group.linears.iter().map(|linear| (group.input, name(linear.name))));
            if !by.takes(&migration.producer) || !linears().any(|(_, name)| self.plan.schemes.contains_key(&name)) {
                continue;
            }
            if let Producer::Nothing(why) = migration.producer {
                rescaled.left.extend(migration.inputs.iter().map(|&input| (input, why)));
                continue;
            }
            // Scales that an unseen input would pay for are judged as if it were an ordinary one.
            let filled = |group: &&InputGroup| {
                let mut known = statistics.of(group.input);
                known.fill_unseen();
                (group.input, known)
            };
            let inputs: BTreeMap<_, _> = groups.iter().map(filled).collect();
            let reader = |(input, name): (LayerName, String)| {
                Ok(Reader {
                    weight: self.load(&name, &rescaled.weights)?,
                    scheme: self.plan.schemes.get(&name).copied(),
                    input: &inputs[&input],
                })
            };
            let readers = linears().map(reader).collect::<Result<Vec<_>>>()?;
            let channels = Channels::of(&migration);
            let Some(scales) = by.scales(&readers, &channels) else { continue };
            if scales.isfinite().all().int64_value(&[]) == 0 {
                return Err(Error::activations_overflow(&linears().map(|(_, name)| name).collect::<Vec<_>>()));
            }
            let spread = channels.spread(&scales);
            let mut changed: Vec<(String, Tensor)> =
                linears().zip(&readers).map(|((_, name), reader)| (name, &reader.weight * &spread)).collect();
            let source = divided(&migration.producer, &scales, |role| self.load(&spec.block_name(index, role), &rescaled.weights))?;
            changed.extend(source.into_iter().map(|(role, tensor)| (spec.block_name(index, role), tensor)));
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
    fn target_layers(&self, block: usize, group: &InputGroup, changed: &Changed) -> Result<Vec<TargetLayer>> {
        let names = group.linears.iter().map(|linear| self.store.spec().block_name(block, linear.name));
        let planned = names.filter_map(|name| self.plan.schemes.get(&name).map(|&scheme| (name, scheme)));
        planned.map(|(name, scheme)| Ok(TargetLayer { weight: self.load(&name, changed)?, name, scheme })).collect()
    }
}

/// Parameters of a block that are no longer those of the store, by canonical name.
type Changed = BTreeMap<String, Weight>;

/// What a block has become so far.
#[derive(Default)]
struct Solved {
    weights: Changed,
    /// Inputs that nothing could be rescaled for, and why.
    left: BTreeMap<LayerName, &'static str>,
    layers: Vec<LayerReport>,
}

/// What rescaling makes of a block.
#[derive(Default)]
struct Rescaled {
    weights: Changed,
    /// Inputs that nothing could be done for, and why.
    left: BTreeMap<LayerName, &'static str>,
}

/// ‖a − b‖ / ‖a‖, row by row: a vocabulary is not decoded as a whole. Rows are summed in one
/// order, whatever the threads.
fn distance(original: &[f32], packed: &Weight) -> f64 {
    let columns = packed.shape()[1];
    let of_row = |(i, row): (usize, &[f32])| {
        let mut decoded = vec![0.0; columns];
        packed.row(i, &mut decoded);
        let difference = row.iter().zip(&decoded).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>();
        (difference, row.iter().map(|a| f64::from(*a).powi(2)).sum::<f64>())
    };
    let rows: Vec<(f64, f64)> = original.par_chunks_exact(columns).enumerate().map(of_row).collect();
    let (difference, whole) = rows.iter().fold((0.0, 0.0), |sums, row| (sums.0 + row.0, sums.1 + row.1));
    if whole == 0.0 { 0.0 } else { (difference / whole).sqrt() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compress::libtorch::EmbeddingLayer;
    use crate::compress::solve::relative_error::relative_error;
    use crate::forward::names::{attn, ffn};
    use crate::model::DenseModel;
    use crate::pipeline::walk::later_uses;
    use crate::progress::Silent;
    use crate::recipe::TokenImportance;

    /// Solved in turn, a layer meets what the solved ones before it make of the
    /// calibration; otherwise what the original ones do. Later blocks' inputs of shared layers
    /// count in both. Hidden states advanced on the way are where they would be advanced to.
    #[test]
    fn true_sequential_layers_meet_the_solved_ones_before_them() {
        for (fixture, sequential) in [("llama-gqa-tied", true), ("llama-gqa-tied", false), ("mobillama-shared", true)] {
            let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/fixtures").join(fixture);
            let model = DenseModel::open_hugging_face(&dir).unwrap();
            let (store, spec): (&dyn WeightStore, _) = (&model, model.spec());
            let embedding = EmbeddingLayer::load(spec, |name| store.weight(name), Compute::CPU).unwrap();
            let sequences: Vec<Vec<u32>> = (0..8).map(|s| (0..16).map(|i| (7 * i + 11 * s) % 90).collect()).collect();
            let hidden = HiddenStates::start(&sequences, &embedding, TokenImportance::Equal);
            let uses = later_uses(store, &hidden, Compute::CPU, &Silent).unwrap().remove(&0).unwrap_or_default();
            let original = Parameters::block(store, 0, Compute::CPU).unwrap();
            let recipe = format!("[[stage]]\n[stage.gptq]\nbits = 3\ngroup_size = 32\ntrue_sequential = {sequential}\n");
            let recipe = crate::recipe::RawRecipe::parse(&recipe, std::path::Path::new("r.toml"), &[]).unwrap().resolve(spec).unwrap();
            let crate::recipe::Stage::Quantize(plan) = &recipe.stages[0] else { unreachable!("it quantises") };
            let work = Work { store, plan, compute: Compute::CPU, progress: &Silent };
            let mut moved = hidden.again();
            let made = work.block(0, &mut moved, Some(uses.copy())).unwrap();

            let find = |name: &str| Ok(made.weights.iter().find(|(other, _)| other == name).unwrap().1.clone());
            let solved = Parameters::of_block(spec, 0, find, Compute::CPU).unwrap();
            let met = if sequential { &solved } else { &original };
            for (role, input) in [("attn.o", attn::CONTEXT), ("ffn.down", ffn::HIDDEN)] {
                let mut statistics = hidden.observe(&spec.blocks[0], met, &[input], &Silent);
                statistics.take_over(&mut uses.copy(), input);
                let expected = relative_error(&original.get(role), &solved.get(role), &statistics.take(input).hessian);
                let reported = made.layers.iter().find(|l| l.name.ends_with(role)).unwrap().relative_error;
                let off = (expected / reported - 1.0).abs();
                assert!(off < 1e-4, "{fixture}, {role}, sequential {sequential}: {expected}, reported {reported}");
            }
            assert_eq!(moved.block(), usize::from(sequential));
            if sequential {
                let mut advanced = hidden.again();
                advanced.advance(&spec.blocks[0], &solved, &Silent);
                let pairs = advanced.batches().iter().zip(moved.batches());
                assert!(pairs.into_iter().all(|(a, b)| a.equal(b)), "{fixture}: another place");
            }
        }
    }
}
