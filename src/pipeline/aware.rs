//! A stage that quantises what was trained for it: norms are inserted where they are asked
//! for, the model learns from what it was with its weights rounded, and then they are rounded
//! for good.

use super::distil::Lessons;
use super::walk::Walk;
use super::{Done, quantize};
use crate::compress::Parameters;
use crate::compress::calibrate::Stream;
use crate::compress::decoder::Entrance;
use crate::compress::train::Rounded;
use crate::error::{Error, Result};
use crate::model::{ModelSpec, Parameter, inputs, roles};
use crate::quant::{Assembled, Weight, WeightStore};
use crate::recipe::{Aware, Method, Quantize};
use crate::runtime::Model;
use std::collections::BTreeMap;
use std::sync::Arc;
use tch::Kind;

/// Runs the stage on a store; the recipe's own model teaches, unless another is named.
pub fn run(
    plan: &Quantize,
    aware: &Aware,
    walk: &Walk,
    (original, store): (&Model, &Arc<dyn WeightStore>),
    threads: usize,
) -> Result<Done> {
    let Walk { compute, journal, progress, .. } = *walk;
    let (mut student, mut norms) = (store.clone(), BTreeMap::new());
    if aware.sub_norms {
        let spec = store.spec().with_sub_norms().map_err(|reason| Error::Usage(format!("ternary: {reason}")))?;
        norms = inserted(&spec, walk)?;
        let weight = |p: Parameter| Ok((p.name.clone(), norms.get(&p.name).map_or_else(|| store.weight(&p.name), |w| Ok(w.clone()))?));
        let weights = spec.parameters().into_iter().map(weight).collect::<Result<Vec<_>>>()?;
        student = Arc::new(Assembled::new(spec, weights));
    }
    let rounded = || Some(rounded(plan, aware, &norms));
    let lessons =
        Lessons { plan: &aware.distil, student: student.clone(), original, compute, threads, journal, progress, rounded: &rounded };
    let trained = lessons.run()?;
    let mut done = quantize::run(plan, &Walk { store: &*trained.model, ..*walk })?;
    done.report.seconds += trained.report.seconds;
    done.report.training = trained.report.training;
    Ok(done)
}

/// What forwards round: the linear layers that are quantised, as they will be.
fn rounded(plan: &Quantize, aware: &Aware, inserted: &BTreeMap<String, Weight>) -> Rounded {
    let Method::Ternary(options) = plan.method else { unreachable!("no other method is trained for") };
    let layers = plan.schemes.iter().filter(|(_, scheme)| scheme.code.is_ternary()).map(|(name, _)| name.clone()).collect();
    Rounded::new(layers, Some(options.scale), aware.round_inputs, inserted.keys().cloned().collect(), aware.blend)
}

/// Weights of the norms that are inserted, by canonical name: what their inputs are like,
/// root mean square. So they change as little as norms can, on the whole.
fn inserted(spec: &ModelSpec, walk: &Walk) -> Result<BTreeMap<String, Weight>> {
    let Walk { store, sample, compute, progress, .. } = *walk;
    let entrance = Entrance::load(store.spec(), |name| store.weight(name), compute)?;
    let mut stream = Stream::start(sample.sequences, &entrance, sample.importance);
    let mut weights = BTreeMap::new();
    progress.begin("reading the inputs of norms", stream.len() * spec.blocks.len() as u64);
    let parameters = spec.parameters();
    for (i, block) in store.spec().blocks.iter().enumerate() {
        progress.may_go_on()?;
        let mut statistics = stream.advance_observed(block, &Parameters::block(store, i, compute)?, progress);
        for (role, input) in [(roles::CONTEXT_NORM, inputs::CONTEXT), (roles::HIDDEN_NORM, inputs::FFN_HIDDEN)] {
            let name = spec.block_name(i, role);
            if store.spec().roles(i).iter().any(|(there, ..)| there == role) {
                continue;
            }
            // A Hessian is twice the mean of products.
            let square = statistics.take(input).hessian.diag(0).mean(Kind::Double).double_value(&[]) / 2.0;
            let shape = parameters.iter().find(|p| p.name == name).expect("it was inserted").shape.clone();
            let values = vec![square.sqrt() as f32; shape.iter().product()];
            weights.insert(name.clone(), Weight::from_f32(&name, shape, &values));
        }
    }
    progress.end();
    Ok(weights)
}
