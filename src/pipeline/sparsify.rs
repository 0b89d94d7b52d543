//! A stage that sparsifies: weights of each block's linear layers become zero, and
//! everything is stored as densely as before.

use super::StageResult;
use super::journal::PartResult;
use super::walk::{BlockWork, Walk, own_groups};
use crate::compress::calibrate::{HiddenStates, Statistics};
use crate::compress::solve::relative_error::relative_error;
use crate::compress::sparsify::sparsifier;
use crate::compress::{Compute, Parameter, Parameters, dense};
use crate::error::Result;
use crate::export::kept;
use crate::model::{ParameterKind, Part};
use crate::progress::Progress;
use crate::quant::{Weight, WeightStore};
use crate::recipe::{Sparsify, SparsityMethod};
use crate::report::LayerReport;
use std::collections::{BTreeMap, BTreeSet};
use tch::{Kind, Tensor};

/// Runs the stage; matrices are `narrowed` to 16 bits where the output format has them so.
pub fn run(plan: &Sparsify, walk: &Walk, narrowed: bool) -> Result<StageResult> {
    let mut done = walk.run(&Work { store: walk.store, plan, narrowed, compute: walk.compute, progress: walk.progress })?;
    let share = 100.0 * share_of_zeros(&plan.layers, &*done.model)?;
    done.report.remarks.push(format!("{share:.1} % of the weights of {} layers are zero; {}", plan.layers.len(), Work::NO_SMALLER));
    Ok(done)
}

/// What a later stage has left of the zeros of layers that were sparsified.
pub fn left(layers: &BTreeSet<String>, model: &dyn WeightStore) -> Result<String> {
    let share = 100.0 * share_of_zeros(layers, model)?;
    Ok(format!("{share:.1} % of the weights of {} sparsified layers are zero behind this stage", layers.len()))
}

fn share_of_zeros(layers: &BTreeSet<String>, model: &dyn WeightStore) -> Result<f64> {
    let (mut zero, mut all) = (0, 0);
    for name in layers {
        let weight = model.weight(name)?;
        zero += zeros(&weight);
        all += weight.shape().iter().product::<usize>();
    }
    Ok(zero as f64 / all.max(1) as f64)
}

fn zeros(weight: &Weight) -> usize {
    weight.to_f32().iter().filter(|&&value| value == 0.0).count()
}

struct Work<'a> {
    store: &'a dyn WeightStore,
    plan: &'a Sparsify,
    narrowed: bool,
    compute: Compute,
    progress: &'a dyn Progress,
}

impl BlockWork for Work<'_> {
    fn method(&self) -> &'static str {
        "sparsify"
    }

    fn doing(&self) -> &'static str {
        "sparsifying"
    }

    fn steps(&self, pass: u64) -> u64 {
        let spec = self.store.spec();
        // A block is observed once, and solved group by group.
        pass + spec.blocks.first().map_or(0, |b| b.input_groups(spec.hidden_size).len() as u64)
    }

    /// As they were.
    fn outside_blocks(&self, part: Part) -> Result<PartResult> {
        Ok(PartResult { weights: self.weights(part, BTreeMap::new())?, layers: Vec::new() })
    }

    /// All layers on what the block as it was makes of the calibration, as in both
    /// papers' programs.
    fn block(&self, index: usize, hidden: &mut HiddenStates, later_uses: Option<Statistics>) -> Result<PartResult> {
        let spec = self.store.spec();
        let own = own_groups(spec, index);
        let inputs: Vec<_> = own.iter().map(|group| group.input).collect();
        let parameters = Parameters::block(self.store, index, self.compute)?;
        let mut statistics = hidden.observe(&spec.blocks[index], &parameters, &inputs, self.progress);
        let mut later_uses = later_uses.unwrap_or_default();
        inputs.iter().for_each(|input| statistics.take_over(&mut later_uses, *input));
        let method = sparsifier(self.plan);
        let (mut changed, mut layers) = (BTreeMap::new(), Vec::new());
        for group in &own {
            let mut input = statistics.take(group.input);
            let names = group.linears.iter().map(|linear| spec.block_name(index, linear.name));
            let names: Vec<_> = names.filter(|name| self.plan.layers.contains(name)).collect();
            if names.is_empty() {
                self.progress.advance(1);
                continue;
            }
            input.check(&names)?;
            let weights = names.iter().map(|name| Ok(self.load(self.store.weight(name)?))).collect::<Result<Vec<_>>>()?;
            let unseen = input.fill_unseen();
            let outcomes = method.sparsify(&weights, &input)?;
            let hessian = unseen.as_ref().map_or(&input.hessian, |unseen| &unseen.hessian);
            let unseen_inputs = unseen.as_ref().map(|unseen| unseen.inputs).filter(|_| self.plan.method != SparsityMethod::Magnitude);
            for ((name, weight), mut outcome) in names.into_iter().zip(&weights).zip(outcomes) {
                let stored = self.kept(dense(&name, &outcome.weight), ParameterKind::Linear);
                let count = weight.numel();
                let share = 100.0 * zeros(&stored) as f64 / count as f64;
                outcome.remarks.push(format!("{share:.1} % zeros; {}", Self::NO_SMALLER));
                layers.push(LayerReport {
                    relative_error: relative_error(weight, &self.load(stored.clone()), hessian),
                    unseen_inputs,
                    bits: 8.0 * if self.narrowed { stored.len_bytes() } else { self.store.stored(&name)?.len_bytes() } as f64
                        / count as f64,
                    remarks: outcome.remarks,
                    name: name.clone(),
                });
                changed.insert(name, stored);
            }
            self.progress.advance(1);
        }
        Ok(PartResult { weights: self.weights(Part::Block(index), changed)?, layers })
    }
}

impl Work<'_> {
    /// What a reader of a report must not expect.
    const NO_SMALLER: &'static str = "the file is not smaller for them";

    /// A part's parameters, some of them changed.
    fn weights(&self, part: Part, mut changed: BTreeMap<String, Weight>) -> Result<Vec<(String, Weight)>> {
        let weight = |parameter: crate::model::Parameter| {
            let weight = changed.remove(&parameter.name).map_or_else(|| self.store.weight(&parameter.name), Ok)?;
            Ok((parameter.name, self.kept(weight, parameter.kind)))
        };
        self.store.spec().parameters_of(part).map(weight).collect()
    }

    /// A parameter as this stage leaves it.
    fn kept(&self, weight: Weight, kind: ParameterKind) -> Weight {
        if self.narrowed { kept(weight, kind) } else { weight }
    }

    /// Numbers in f32.
    fn load(&self, weight: Weight) -> Tensor {
        Parameter::load(weight, Compute { kind: Kind::Float, ..self.compute }).tensor().copy()
    }
}
