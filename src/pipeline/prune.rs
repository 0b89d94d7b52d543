//! Stages that take out layers, heads and channels: what goes is chosen once and written
//! down, then the parts of the smaller model are made one by one.

use super::StageResult;
use super::journal::PartResult;
use super::walk::Walk;
use crate::compress::calibrate::{HiddenStates, Statistics};
use crate::compress::libtorch::EmbeddingLayer;
use crate::compress::prune::gradients::Gradients;
use crate::compress::prune::latency::Latency;
use crate::compress::prune::reconstruct::{BlockWithInput, pair};
use crate::compress::prune::saliency::{Judge, Tallies, comparable};
use crate::compress::prune::{depth, search};
use crate::compress::solve::least_squares;
use crate::compress::{Compute, Parameter, Parameters, dense};
use crate::error::{Error, Result};
use crate::forward::trace::InputGroup;
use crate::model::{ModelSpec, ParameterKind, Part, Selection};
use crate::progress::Unit;
use crate::quant::{Weight, WeightStore};
use crate::recipe::{Needs, PruneDepth, PruneWidth, Target};
use crate::report::{LayerReport, PruningReport, StageReport, unseen_warning};
use crate::runtime::Activations;
use crate::spec::LayerName;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;
use tch::{Kind, Tensor};

/// Added to the Hessians that units are judged by, relative to the mean of the diagonal.
const DAMP_PERCENT: f64 = 0.01;

/// What both stages are run with.
pub struct Pruning<'a> {
    /// The model as it is, and what it is judged on.
    pub walk: &'a Walk<'a>,
    /// What weights multiply in the device's runtime, which is timed.
    pub activations: Activations,
    /// Its threads; 0 = one a core.
    pub threads: usize,
}

impl Pruning<'_> {
    /// Takes out layers.
    pub fn depth(&self, plan: &PruneDepth) -> Result<StageResult> {
        let start = Instant::now();
        let spec = self.walk.store.spec();
        let (selection, scores) = self.walk.journal.value("selection", || {
            let depth::Layers { scores, out } = depth::choose(
                plan.saliency,
                plan.count(spec),
                self.walk.store,
                self.walk.sample.sequences,
                self.walk.compute,
                self.walk.progress,
            )?;
            let mut selection = Selection::whole(spec);
            selection.layers.retain(|layer| !out.contains(layer));
            Ok((selection, scores))
        })?;
        let smaller = self.applied(&selection)?;
        self.gather(&selection, &smaller)?;
        self.done("prune_depth", start, &selection, &smaller, Vec::new(), scores)
    }

    /// Takes out heads and channels.
    pub fn width(&self, plan: &PruneWidth) -> Result<StageResult> {
        let start = Instant::now();
        let selection = self.walk.journal.value("selection", || self.choose(plan))?;
        let smaller = self.applied(&selection)?;
        let layers = if plan.reconstruct {
            self.solve(plan, &selection, &smaller)?
        } else {
            self.gather(&selection, &smaller)?;
            Vec::new()
        };
        self.done("prune_width", start, &selection, &smaller, layers, Vec::new())
    }

    fn applied(&self, selection: &Selection) -> Result<ModelSpec> {
        selection.apply(self.walk.store.spec()).map_err(|error| Error::Usage(error.to_string()))
    }

    fn done(
        &self,
        method: &str,
        start: Instant,
        selection: &Selection,
        smaller: &ModelSpec,
        layers: Vec<LayerReport>,
        scores: Vec<f64>,
    ) -> Result<StageResult> {
        let spec = self.walk.store.spec();
        if let Some(warning) = unseen_warning(&layers) {
            tracing::warn!("{warning}");
        }
        let pruning = PruningReport {
            layers_out: (0..spec.blocks.len()).filter(|layer| !selection.layers.contains(layer)).collect(),
            layer_scores: scores,
            widths: search::describe(selection, spec),
            parameters_before: spec.parameter_count(),
            parameters_after: smaller.parameter_count(),
        };
        let report = StageReport {
            layers,
            remarks: vec![pruning.to_string()],
            pruning: Some(pruning),
            ..StageReport::of(method, start.elapsed().as_secs_f64())
        };
        Ok(StageResult { report, model: Arc::new(self.walk.journal.model(smaller)?) })
    }

    /// Judges all units by the whole model, and searches for how many stay.
    fn choose(&self, plan: &PruneWidth) -> Result<Selection> {
        let Walk { store, sample, compute, progress, .. } = *self.walk;
        let spec = store.spec();
        let axes = plan.axes(spec);
        let mut tallies = Tallies::new(spec, &axes);
        let latency = match plan.target(spec) {
            Some(Target::Milliseconds(_)) => Some(Latency::measure(spec, &axes, (self.activations, self.threads), progress)?),
            _ => None,
        };
        let needs = plan.saliency.needs();
        let gradients = match needs {
            Needs::Gradients { squares } => {
                let matrices = spec.parameters().into_iter().filter(|p| p.kind != ParameterKind::Vector && tallies.has(p));
                let wanted = (matrices.map(|p| p.name).collect(), squares);
                Some(Gradients::of(store, wanted, sample.sequences, compute, progress)?)
            }
            Needs::Weights | Needs::Inputs => None,
        };
        let judge = Judge { saliency: plan.saliency, gradients: gradients.as_ref(), damp_percent: DAMP_PERCENT };
        for part in [Part::Start, Part::End] {
            let matrices: Vec<_> = spec.parameters_of(part).filter(|p| p.kind != ParameterKind::Vector && tallies.has(p)).collect();
            for parameter in matrices {
                let weight = self.load(&parameter.name)?;
                judge.look(&[(parameter, weight)], None, &mut tallies)?;
            }
        }
        let mut hidden = (needs == Needs::Inputs).then(|| self.hidden_states(store)).transpose()?;
        let pass = hidden.as_ref().map_or(1, HiddenStates::len);
        progress.begin("prune_width: judging heads and channels", pass * spec.blocks.len() as u64, Unit::of("blocks", pass));
        for (i, block) in spec.blocks.iter().enumerate() {
            progress.may_go_on()?;
            let mut known = match &mut hidden {
                Some(hidden) => hidden.advance_observed(block, &Parameters::block(store, i, compute)?, progress),
                None => {
                    progress.advance(1);
                    Statistics::default()
                }
            };
            let parameters: Vec<_> = spec.parameters_of(Part::Block(i)).collect();
            for InputGroup { input, linears } in block.input_groups(spec.hidden_size) {
                let names: Vec<_> = linears.iter().map(|linear| spec.block_name(i, linear.name)).collect();
                let matrices = parameters.iter().filter(|p| names.contains(&p.name) && tallies.has(p));
                let matrices = matrices.map(|p| Ok((p.clone(), self.load(&p.name)?))).collect::<Result<Vec<_>>>()?;
                let input = hidden.is_some().then(|| known.take(input));
                judge.look(&matrices, input.as_ref(), &mut tallies)?;
            }
        }
        progress.end();
        let scores = tallies.scores(plan.aggregate);
        if let Some((axis, _)) = scores.iter().find(|(_, scores)| scores.iter().any(|score| !score.is_finite())) {
            return Err(Error::Overflow(format!("what {axis} is worth is no number: the model overflows on the calibration's text")));
        }
        search::search(plan, &comparable(scores, plan.normalise, spec), spec, &|smaller| {
            latency.as_ref().map_or(0.0, |latency| latency.of(smaller))
        })
    }

    /// In f32.
    fn load(&self, name: &str) -> Result<Tensor> {
        let compute = Compute { kind: Kind::Float, ..self.walk.compute };
        Ok(Parameter::load(self.walk.store.weight(name)?, compute).tensor().copy())
    }

    fn hidden_states(&self, store: &dyn WeightStore) -> Result<HiddenStates> {
        let embedding = EmbeddingLayer::load(store.spec(), |name| store.weight(name), self.walk.compute)?;
        Ok(HiddenStates::start(self.walk.sample.sequences, &embedding, self.walk.sample.importance))
    }

    /// What stays of all parts, number by number.
    fn gather(&self, selection: &Selection, smaller: &ModelSpec) -> Result<()> {
        smaller.parts().try_for_each(|part| self.walk.journal.part(smaller, part, || self.gathered(selection, smaller, part)).map(drop))
    }

    /// The same of one.
    fn gathered(&self, selection: &Selection, smaller: &ModelSpec, part: Part) -> Result<PartResult> {
        let spec = self.walk.store.spec();
        let weight = |p: crate::model::Parameter| {
            let there = selection.there(&p, spec);
            // What stays as it is stays in its file.
            if !spec.axes(&there).concat().iter().any(|axis| selection.cuts(*axis)) {
                return Ok((p.name, self.walk.store.weight(&there.name)?));
            }
            let values = selection.weight(&p, spec, |name| Ok(self.walk.store.weight(name)?.to_f32().into_owned()))?;
            let weight = Weight::from_f32(&p.name, p.shape, &values);
            Ok((p.name, weight))
        };
        Ok(PartResult { weights: smaller.parameters_of(part).map(weight).collect::<Result<_>>()?, layers: Vec::new() })
    }

    /// Part by part, what has lost inputs solved anew.
    fn solve(&self, plan: &PruneWidth, selection: &Selection, smaller: &ModelSpec) -> Result<Vec<LayerReport>> {
        let start = self.walk.journal.part(smaller, Part::Start, || self.gathered(selection, smaller, Part::Start))?;
        let start: BTreeMap<String, Weight> = start.weights.into_iter().collect();
        let embedding = EmbeddingLayer::load(smaller, |name| Ok(start[name].clone()), self.walk.compute)?;
        let mut after = HiddenStates::start(self.walk.sample.sequences, &embedding, self.walk.sample.importance);
        let mut before = self.hidden_states(self.walk.store)?;
        let solver = Solver { pruning: self, plan, selection, smaller };
        let cut = |block: usize| solver.cut(block).len() as u64;
        let steps: u64 = (0..smaller.blocks.len()).map(|block| (cut(block) + 2) * before.len()).sum();
        let unit = Unit::of("blocks", steps.div_ceil(smaller.blocks.len() as u64));
        self.walk.progress.begin("prune_width: solving what stays", steps, unit);
        let mut layers = Vec::new();
        for (i, block) in smaller.blocks.iter().enumerate() {
            self.walk.progress.may_go_on()?;
            let layer = selection.block_of(i);
            let whole = Parameters::block(self.walk.store, layer, self.walk.compute)?;
            let mut fresh = false;
            let made = self.walk.journal.part(smaller, Part::Block(i), || {
                fresh = true;
                solver.block(i, &whole, &before, &after)
            })?;
            if !fresh {
                self.walk.progress.advance(cut(i) * before.len());
            }
            layers.extend(made.layers);
            let weights: BTreeMap<String, Weight> = made.weights.into_iter().collect();
            let made = Parameters::of_block(smaller, i, |name| Ok(weights[name].clone()), self.walk.compute)?;
            // What the last block makes of them is of use to none.
            if i + 1 < smaller.blocks.len() {
                before.advance(&self.walk.store.spec().blocks[layer], &whole, self.walk.progress);
                after.advance(block, &made, self.walk.progress);
            }
        }
        self.walk.progress.end();
        self.walk.journal.part(smaller, Part::End, || self.gathered(selection, smaller, Part::End))?;
        Ok(layers)
    }
}

struct Solver<'a> {
    pruning: &'a Pruning<'a>,
    plan: &'a PruneWidth,
    selection: &'a Selection,
    smaller: &'a ModelSpec,
}

impl Solver<'_> {
    /// The groups of a block's layers that have lost inputs, in the order of evaluation.
    fn cut(&self, block: usize) -> Vec<InputGroup> {
        let is_cut = |group: &InputGroup| {
            let axes = self.axes(block, group.linears[0].name);
            axes[1].iter().any(|axis| self.selection.cuts(*axis))
        };
        let mut groups = self.smaller.blocks[block].input_groups(self.smaller.hidden_size);
        groups.retain(is_cut);
        groups
    }

    /// What the dimensions of a layer run over in the whole model.
    fn axes(&self, block: usize, layer: LayerName) -> Vec<Vec<crate::model::Axis>> {
        let spec = self.pruning.walk.store.spec();
        let name = self.smaller.block_name(block, layer);
        let parameter = self.smaller.parameters_of(Part::Block(block)).find(|p| p.name == name).expect("one of the block's");
        spec.axes(&self.selection.there(&parameter, spec))
    }

    fn block(&self, block: usize, whole: &Parameters, before: &HiddenStates, after: &HiddenStates) -> Result<PartResult> {
        let Walk { store, compute, progress, .. } = *self.pruning.walk;
        let (spec, layer) = (store.spec(), self.selection.block_of(block));
        let gathered = self.pruning.gathered(self.selection, self.smaller, Part::Block(block))?;
        let mut weights: BTreeMap<String, Weight> = gathered.weights.into_iter().collect();
        let mut layers = Vec::new();
        for group in self.cut(block) {
            let now = Parameters::of_block(self.smaller, block, |name| Ok(weights[name].clone()), compute)?;
            let whole = BlockWithInput { block: &spec.blocks[layer], weights: whole, hidden: before };
            let halves =
                pair(whole, BlockWithInput { block: &self.smaller.blocks[block], weights: &now, hidden: after }, group.input, progress);
            let mut paired = halves[0].zero();
            halves.iter().for_each(|half| paired.add(half));
            for linear in &group.linears {
                let axes = self.axes(block, linear.name);
                let [rows, columns] = [&axes[0], &axes[1]].map(|axes| {
                    let places: Vec<i64> = self.selection.along(axes, spec).into_iter().map(|place| place as i64).collect();
                    Tensor::from_slice(&places).to_device(compute.device)
                });
                let full = self.pruning.load(&spec.block_name(layer, linear.name))?.index_select(0, &rows);
                // Not from `now`, which may be in half precision.
                let bias = linear.bias.as_ref().map(|bias| {
                    let bias = weights[&self.smaller.block_name(block, bias)].to_f32();
                    Tensor::from_slice(&bias).to_device(compute.device)
                });
                let damp = match self.plan.damp_percent {
                    Some(damp) => damp,
                    None => least_squares::damping(&full, bias.is_some(), &columns, &halves)?,
                };
                let least_squares::Solved { weight, bias, damp_percent } =
                    least_squares::solve(&full, bias.as_ref(), &columns, &paired, damp)?;
                let name = self.smaller.block_name(block, linear.name);
                layers.push(LayerReport {
                    relative_error: paired.relative_error_of(&full, bias.is_some(), &weight),
                    bits: 16.0,
                    unseen_inputs: paired.unseen().count(),
                    name: name.clone(),
                    remarks: vec![format!("solved anew, held where it was by {damp_percent} of the mean diagonal")],
                });
                weights.insert(name.clone(), dense(&name, &weight));
                if let (Some(bias), Some(role)) = (bias, &linear.bias) {
                    let name = self.smaller.block_name(block, role);
                    weights.insert(name.clone(), dense(&name, &bias));
                }
            }
        }
        Ok(PartResult { weights: weights.into_iter().collect(), layers })
    }
}
