//! Quantisation-aware training (QAT): norms are inserted where the recipe asks for them, the
//! model with rounded weights is distilled from the original one, and then its weights are
//! quantised.

use super::distil::DistillationRun;
use super::walk::Walk;
use super::{StageResult, quantize};
use crate::compress::Parameters;
use crate::compress::calibrate::HiddenStates;
use crate::compress::libtorch::EmbeddingLayer;
use crate::compress::train::{Rounded, Rounding};
use crate::error::{Error, Result};
use crate::forward::names::{attn, ffn};
use crate::model::{ModelSpec, Parameter};
use crate::progress::Unit;
use crate::quant::ternary::beginning;
use crate::quant::{Weight, WeightStore};
use crate::recipe::{Method, Qat, Quantize, TernaryOptions};
use crate::runtime::Model;
use crate::spec::LayerName;
use ndarray::ArrayView2;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use tch::Kind;

/// Runs the stage on a store; the recipe's own model teaches, unless another is named.
pub fn run(
    plan: &Quantize,
    qat: &Qat,
    walk: &Walk,
    (original, store): (&Model, &Arc<dyn WeightStore>),
    threads: usize,
) -> Result<StageResult> {
    let Walk { compute, journal, progress, .. } = *walk;
    let (mut spec, mut inserted) = (store.spec().clone(), BTreeMap::new());
    if qat.sub_norms {
        // What stages before it have searched for was not known when the recipe was checked.
        spec = plan.with_sub_norms(store.spec()).map_err(|reason| Error::Usage(format!("ternary: {reason}")))?;
        inserted = journal.value("norms", || magnitudes(&spec, walk))?;
    }
    let begin = || {
        let (begun, seconds) = qat.start.map_or_else(|| Ok((BTreeMap::new(), 0.0)), |_| beginnings(plan, walk))?;
        let weight = |p: Parameter| {
            let weight = match (inserted.get(&p.name), begun.get(&p.name)) {
                (Some(&magnitude), _) => Weight::from_f32(&p.name, p.shape.clone(), &vec![magnitude; p.shape.iter().product()]),
                (None, Some(begun)) => begun.clone(),
                (None, None) => store.weight(&p.name)?,
            };
            Ok((p.name, weight))
        };
        Ok((spec.parameters().into_iter().map(weight).collect::<Result<Vec<_>>>()?, seconds))
    };
    let (mut student, mut seconds) = (store.clone(), 0.0);
    if qat.sub_norms || qat.start.is_some() {
        let begun = journal.phase("beginning", &spec, begin)?;
        (student, seconds) = (Arc::new(begun.0), begun.1);
    }
    let rounded = Some(rounded(plan, qat, inserted.into_keys().collect()));
    let trained = DistillationRun { plan: &qat.distil, student, original, compute, threads, journal, progress, rounded }.run()?;
    let mut done = quantize::run(plan, &Walk { store: &*trained.model, ..*walk })?;
    done.report.seconds += seconds + trained.report.seconds;
    done.report.training = trained.report.training;
    done.report.remarks.extend(trained.report.remarks);
    done.report.remarks.push(
        "errors of layers are from the weights that training moves, which no forward sees: perplexity and KL tell what was lost".into(),
    );
    Ok(done)
}

/// What forwards round: the linear layers that are quantised, as they will be.
fn rounded(plan: &Quantize, qat: &Qat, norms: BTreeSet<String>) -> Rounded {
    let Method::Ternary(options) = plan.method else { unreachable!("no other method is trained for") };
    let layers = plan.ternary_layers().map(|(name, _)| name.clone()).collect();
    Rounded::new(Rounding { layers, share: Some(options.scale), inputs: qat.round_inputs, norms, blend: qat.blend })
}

/// What training begins with where layers are solved first, by canonical name: weights that
/// are rounded to what was solved; and the seconds of that.
fn beginnings(plan: &Quantize, walk: &Walk) -> Result<(BTreeMap<String, Weight>, f64)> {
    let Method::Ternary(TernaryOptions { scale, .. }) = plan.method else { unreachable!("no other method is trained for") };
    let schemes = plan.ternary_layers().map(|(name, scheme)| (name.clone(), *scheme)).collect();
    let plan = Quantize { method: plan.untrained_method(), rescale: None, schemes, mixed_precision: None, qat: None };
    let solved = quantize::run(&plan, &Walk { journal: &walk.journal.step("start")?, ..*walk })?;
    let begin = |name: &String| {
        let Weight::Packed(packed) = solved.model.weight(name)? else { unreachable!("{name} is ternary") };
        let (values, shape) = (walk.store.weight(name)?, packed.tiling);
        let values = values.to_f32();
        let matrix = ArrayView2::from_shape((shape.rows, shape.columns), &values).expect("shapes are checked");
        let begun = beginning(matrix, &packed.unpack(), scale);
        Ok((name.clone(), Weight::from_f32(name, vec![shape.rows, shape.columns], begun.as_slice().expect("standard layout"))))
    };
    Ok((plan.schemes.keys().map(begin).collect::<Result<_>>()?, solved.report.seconds))
}

/// What the norms that are inserted begin with, by canonical name: the root mean square of
/// what a token brings there, on the mean of tokens. So most tokens pass them as they are.
fn magnitudes(spec: &ModelSpec, walk: &Walk) -> Result<BTreeMap<String, f32>> {
    const NORMS: [(LayerName, LayerName); 2] = [(attn::CONTEXT, attn::CONTEXT_NORM), (ffn::HIDDEN, ffn::HIDDEN_NORM)];
    let Walk { store, sample, compute, progress, .. } = *walk;
    let embedding = EmbeddingLayer::load(store.spec(), |name| store.weight(name), compute)?;
    let mut hidden = HiddenStates::start(sample.sequences, &embedding, sample.importance);
    let mut all = BTreeMap::new();
    progress.begin("reading the inputs of norms", hidden.len() * spec.blocks.len() as u64, Unit::of("blocks", hidden.len()));
    for (i, block) in store.spec().blocks.iter().enumerate() {
        progress.may_go_on()?;
        let mut sums: BTreeMap<LayerName, (f64, f64)> = BTreeMap::new();
        hidden.advance_observing(block, &Parameters::block(store, i, compute)?, progress, &mut |input, x, _| {
            if let Some((_, role)) = NORMS.into_iter().find(|(known, _)| *known == input) {
                let of_tokens = x.to_kind(Kind::Float).square().mean_dim(-1, false, None::<Kind>).sqrt();
                let (sum, count) = sums.entry(role).or_default();
                *sum += of_tokens.sum(Kind::Double).double_value(&[]);
                *count += of_tokens.numel() as f64;
            }
        });
        let has = |spec: &ModelSpec, name: LayerName| spec.roles(i).iter().any(|(there, ..)| *there == name.to_string());
        let inserted = sums.into_iter().filter(|(name, _)| has(spec, *name) && !has(store.spec(), *name));
        all.extend(inserted.map(|(name, (sum, count))| (spec.block_name(i, name), (sum / count) as f32)));
    }
    progress.end();
    Ok(all)
}
