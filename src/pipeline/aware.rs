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
use std::collections::{BTreeMap, BTreeSet};
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
    let (mut student, mut inserted) = (store.clone(), BTreeMap::new());
    if aware.sub_norms {
        // What stages before it have searched for was not known when the recipe was checked.
        let spec = plan.with_sub_norms(store.spec()).map_err(|reason| Error::Usage(format!("ternary: {reason}")))?;
        inserted = journal.value("norms", || magnitudes(&spec, walk))?;
        let weight = |p: Parameter| {
            let Some(&magnitude) = inserted.get(&p.name) else { return Ok((p.name.clone(), store.weight(&p.name)?)) };
            let values = vec![magnitude; p.shape.iter().product()];
            Ok((p.name.clone(), Weight::from_f32(&p.name, p.shape, &values)))
        };
        let weights = spec.parameters().into_iter().map(weight).collect::<Result<Vec<_>>>()?;
        student = Arc::new(Assembled::new(spec, weights));
    }
    let rounded = Some(rounded(plan, aware, inserted.into_keys().collect()));
    let trained = Lessons { plan: &aware.distil, student, original, compute, threads, journal, progress, rounded }.run()?;
    let mut done = quantize::run(plan, &Walk { store: &*trained.model, ..*walk })?;
    done.report.seconds += trained.report.seconds;
    done.report.training = trained.report.training;
    done.report.remarks.push(
        "errors of layers are from the weights that training moves, which no forward sees: perplexity and KL tell what was lost".into(),
    );
    Ok(done)
}

/// What forwards round: the linear layers that are quantised, as they will be.
fn rounded(plan: &Quantize, aware: &Aware, norms: BTreeSet<String>) -> Rounded {
    let Method::Ternary(options) = plan.method else { unreachable!("no other method is trained for") };
    let layers = plan.schemes.iter().filter(|(_, scheme)| scheme.code.is_ternary()).map(|(name, _)| name.clone()).collect();
    Rounded::new(layers, Some(options.scale), aware.round_inputs, norms, aware.blend)
}

/// What the norms that are inserted begin with, by canonical name: the root mean square of
/// what a token brings there, on the mean of tokens. So most tokens pass them as they are.
fn magnitudes(spec: &ModelSpec, walk: &Walk) -> Result<BTreeMap<String, f32>> {
    const NORMS: [(&str, &str); 2] = [(inputs::CONTEXT, roles::CONTEXT_NORM), (inputs::FFN_HIDDEN, roles::HIDDEN_NORM)];
    let Walk { store, sample, compute, progress, .. } = *walk;
    let entrance = Entrance::load(store.spec(), |name| store.weight(name), compute)?;
    let mut stream = Stream::start(sample.sequences, &entrance, sample.importance);
    let mut all = BTreeMap::new();
    progress.begin("reading the inputs of norms", stream.len() * spec.blocks.len() as u64);
    for (i, block) in store.spec().blocks.iter().enumerate() {
        progress.may_go_on()?;
        let mut sums: BTreeMap<&str, (f64, f64)> = BTreeMap::new();
        stream.advance_heard(block, &Parameters::block(store, i, compute)?, progress, &mut |input, x, _| {
            if let Some((_, role)) = NORMS.into_iter().find(|(known, _)| *known == input) {
                let of_tokens = x.to_kind(Kind::Float).square().mean_dim(-1, false, None::<Kind>).sqrt();
                let (sum, count) = sums.entry(role).or_default();
                *sum += of_tokens.sum(Kind::Double).double_value(&[]);
                *count += of_tokens.numel() as f64;
            }
        });
        let has = |spec: &ModelSpec, role: &str| spec.roles(i).iter().any(|(there, ..)| there == role);
        let inserted = sums.into_iter().filter(|(role, _)| has(spec, role) && !has(store.spec(), role));
        all.extend(inserted.map(|(role, (sum, count))| (spec.block_name(i, role), (sum / count) as f32)));
    }
    progress.end();
    Ok(all)
}
