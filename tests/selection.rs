//! A model with heads, channels or layers taken out does what the whole one does with
//! the same things masked, on every family.

#[path = "common/data.rs"]
mod data;

use std::collections::BTreeSet;
use thimble::forward::Inner;
use thimble::model::{Axis, DenseModel, Kept, ModelSpec, Parameter, ParameterKind, Part, Selection};
use thimble::quant::{Assembled, Weight, WeightStore};
use thimble::random::Random;
use thimble::runtime::{Activations, Decoder, KvCache};
use thimble::spec::{NormKind, NormWeight};

const IDS: [u32; 12] = [3, 17, 5, 80, 41, 9, 9, 26, 63, 2, 77, 30];

fn logits(store: &dyn WeightStore) -> Vec<f32> {
    let decoder = Decoder::new(store, Activations::F32, 1).unwrap();
    let mut cache = KvCache::new(store.spec());
    decoder.logits(&decoder.read(&mut cache, &IDS).unwrap())
}

fn numbers(model: &DenseModel, name: &str) -> Vec<f32> {
    model.weight(name).unwrap().to_f32().into_owned()
}

fn selected(model: &DenseModel, selection: &Selection) -> Assembled {
    let smaller = selection.apply(model.spec()).unwrap();
    let weights: Vec<_> = smaller
        .parameters()
        .into_iter()
        .map(|p| {
            let values = selection.weight(&p, model.spec(), |name| Ok(numbers(model, name))).unwrap();
            (p.name.clone(), Weight::from_f32(&p.name, p.shape, &values))
        })
        .collect();
    Assembled::new(smaller, weights)
}

/// What an index of the residual stream is masked to.
#[derive(Clone, Copy, PartialEq)]
enum Mask {
    Zero,
    /// The mean of those that stay.
    Mean,
}

/// The whole model with what a selection takes out masked, by the definition and
/// number by number.
fn masked(model: &DenseModel, selection: &Selection) -> Assembled {
    let spec = model.spec();
    let centred = spec.final_norm.as_ref().is_some_and(|norm| norm.kind == NormKind::Layer);
    let weights: Vec<_> = spec
        .parameters()
        .into_iter()
        .map(|p| {
            let mut values = numbers(model, &p.name);
            let axes = spec.axes(&p);
            let sizes: Vec<usize> = axes.concat().iter().map(|axis| axis.size(spec)).collect();
            let mut flat = 0;
            for (dimension, of) in axes.iter().enumerate() {
                for &axis in of {
                    if selection.cuts(axis) {
                        let kept = selection.of(axis, spec);
                        mask(&mut values, &sizes, flat, &kept, how(spec, &p, dimension, axis, centred));
                    }
                    flat += 1;
                }
            }
            (p.name.clone(), Weight::from_f32(&p.name, p.shape, &values))
        })
        .collect();
    Assembled::new(spec.clone(), weights)
}

/// The value that masks: a number, or the mean of those that stay.
fn how(spec: &ModelSpec, parameter: &Parameter, dimension: usize, axis: Axis, centred: bool) -> (Mask, f32) {
    if let Some(norm) = spec.norm_of(parameter) {
        let is_weight = !parameter.name.ends_with(".bias");
        return (Mask::Zero, if is_weight && norm.weight == NormWeight::OnePlus { -1.0 } else { 0.0 });
    }
    let looked_up = parameter.kind == ParameterKind::Embedding || parameter.name == "positions";
    let writes = axis == Axis::Hidden && (if looked_up { dimension == 1 } else { dimension == 0 });
    (if writes && centred { Mask::Mean } else { Mask::Zero }, 0.0)
}

fn mask(values: &mut [f32], sizes: &[usize], dimension: usize, kept: &Kept, (mask, value): (Mask, f32)) {
    let inner: usize = sizes[dimension + 1..].iter().product();
    let stays: BTreeSet<usize> = kept.indices.iter().copied().collect();
    for outer in 0..sizes[..dimension].iter().product() {
        for i in 0..inner {
            let at = |index: usize| (outer * kept.of + index) * inner + i;
            let mean = stays.iter().map(|&index| f64::from(values[at(index)])).sum::<f64>() / stays.len() as f64;
            for index in (0..kept.of).filter(|index| !stays.contains(index)) {
                values[at(index)] = if mask == Mask::Mean { mean as f32 } else { value };
            }
        }
    }
}

/// Some of `of`, at least so many, ascending.
fn some(of: usize, least: usize, random: Random) -> Vec<usize> {
    let mut all: Vec<usize> = (0..of).collect();
    let count = least + random.below((of - least + 1) as u64, 1 << 32) as usize;
    random.shuffle(&mut all, count);
    all.truncate(count);
    all.sort_unstable();
    all
}

/// Units of an axis that may stay together.
fn units(axis: Axis, spec: &ModelSpec, random: Random) -> Vec<usize> {
    let of = axis.size(spec);
    let Axis::Block(block, Inner::QueryHeads) = axis else {
        // The norm of very few channels magnifies what is lost in single precision.
        return some(of, if axis == Axis::Hidden { of / 2 } else { 1 }, random);
    };
    let keys = Axis::Block(block, Inner::KvHeads).size(spec);
    let on_each = of / keys;
    let count = some(on_each, 1, random).len();
    let of = |key: usize| {
        let mut heads: Vec<usize> = (key * on_each..(key + 1) * on_each).collect();
        Random::named(key as u64, "heads").shuffle(&mut heads, count);
        heads.truncate(count);
        heads.sort_unstable();
        heads
    };
    (0..keys).flat_map(of).collect()
}

#[track_caller]
fn assert_same(model: &DenseModel, selection: &Selection, what: &str) {
    let (found, expected) = (logits(&selected(model, selection)), logits(&masked(model, selection)));
    let greatest = expected.iter().fold(1f32, |m, v| m.max(v.abs()));
    let off = found.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
    assert!(found.len() == expected.len() && off <= 1e-5 * greatest, "{what}: off by {off} of {greatest}");
}

#[test]
fn smaller_models_do_what_masked_ones_do() {
    let (mut kinds, mut refused) = (BTreeSet::new(), BTreeSet::new());
    for (name, dir) in data::fixtures() {
        let model = DenseModel::open_hugging_face(&dir).unwrap();
        let spec = model.spec();
        for seed in 0..4 {
            let mut together = Selection::whole(spec);
            for (i, axis) in spec.cuttable().into_iter().enumerate() {
                let mut selection = Selection::whole(spec);
                let units = units(axis, spec, Random::new(seed, i as u64));
                selection.keep(axis, &units, spec);
                if let Err(reason) = selection.apply(spec) {
                    let known = ["share their weights", "none can go", "which must be cut alike"];
                    assert!(known.iter().any(|part| reason.to_string().contains(part)), "{name}: {reason}");
                    refused.insert(name.clone());
                    continue;
                }
                // Without a query a head still has a context, the mean of the values, which a
                // norm of contexts would see: masking weights cannot silence it there.
                let seen = spec.blocks[0].attention().is_some_and(|attention| attention.context_norm.is_some());
                if seen && matches!(axis, Axis::Block(_, Inner::QueryHeads)) {
                    continue;
                }
                assert_same(&model, &selection, &format!("{name}, {axis}, {units:?}"));
                kinds.insert(match axis {
                    Axis::Block(_, inner) => inner.to_string(),
                    other => other.to_string(),
                });
                // Of heads, either whole groups go or some of each.
                if !matches!(axis, Axis::Block(_, Inner::QueryHeads)) {
                    together.keep(axis, &units, spec);
                }
            }
            if together.apply(spec).is_ok() {
                assert_same(&model, &together, &format!("{name}, all together"));
            }
        }
    }
    let all = ["the residual stream", "key-value heads", "query heads", "feed-forward", "recurrent state"];
    assert_eq!(kinds, all.map(String::from).into(), "every kind of unit is tried");
    assert!(refused.contains("mobillama-shared") && refused.contains("opt-post-norm") && !refused.contains("llama-gqa-tied"));
}

/// Without a layer, the residual stream goes past it.
#[test]
fn layers_are_left_out() {
    for fixture in ["llama-gqa-tied", "gemma2-layer-types", "rwkv-wide-attention", "opt-post-norm"] {
        let Ok(model) = DenseModel::open_hugging_face(&data::fixture(fixture)) else { panic!("{fixture}") };
        let spec = model.spec();
        let last = spec.blocks.len() - 1;
        let mut selection = Selection::whole(spec);
        selection.layers = vec![last];
        let small = selected(&model, &selection);
        assert_eq!(small.spec().blocks, [spec.blocks[last].clone()], "{fixture}");
        for p in small.spec().parameters() {
            let there = match p.part {
                Part::Block(_) => format!("blocks.{last}.{}", p.role()),
                Part::Start | Part::End => p.name.clone(),
            };
            assert_eq!(small.weight(&p.name).unwrap().to_f32(), numbers(&model, &there), "{fixture}: {}", p.name);
        }
    }
}

#[test]
fn what_cannot_be_is_refused_with_the_reason() {
    let spec = DenseModel::open_hugging_face(&data::fixture("llama-gqa-tied")).unwrap().spec().clone();
    let on_each = Axis::Block(0, Inner::QueryHeads).size(&spec) / Axis::Block(0, Inner::KvHeads).size(&spec);
    assert!(on_each > 1 && Axis::Block(0, Inner::KvHeads).size(&spec) > 1, "grouped queries");
    let refuse = |axis: Axis, units: &[usize], reason: &str| {
        let mut selection = Selection::whole(&spec);
        selection.keep(axis, units, &spec);
        let found = selection.apply(&spec).unwrap_err().to_string();
        assert!(found.contains(reason), "{found}");
    };
    let all_but_one: Vec<usize> = (1..Axis::Block(0, Inner::QueryHeads).size(&spec)).collect();
    refuse(Axis::Block(0, Inner::QueryHeads), &all_but_one, "as many from each");
    let mut none = Selection::whole(&spec);
    none.layers.clear();
    assert!(none.apply(&spec).unwrap_err().to_string().contains("no layer is left"));
}

/// A selection is kept on disk between its making and its use.
#[test]
fn selections_survive_json() {
    let spec = DenseModel::open_hugging_face(&data::fixture("llama-gqa-tied")).unwrap().spec().clone();
    let mut selection = Selection::whole(&spec);
    selection.keep(Axis::Block(1, Inner::KvHeads), &[0], &spec);
    selection.keep(Axis::Hidden, &[0, 2, 5], &spec);
    let text = serde_json::to_string(&selection).unwrap();
    assert_eq!(serde_json::from_str::<Selection>(&text).unwrap(), selection);
}
