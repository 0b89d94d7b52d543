//! Moving scale between activations and weights: that it changes nothing by itself
//! on any family, and that AWQ's and SmoothQuant's choices are those of naive
//! restatements in float64.
#![cfg(feature = "torch")]

#[path = "naive/awq.rs"]
mod awq;
#[path = "common/compress.rs"]
mod compress;
#[path = "common/data.rs"]
mod data;
#[path = "common/normal.rs"]
mod normal;

use ndarray::{Array1, Array2, Axis};
use std::collections::BTreeMap;
use tch::{Kind, Tensor};
use thimble::compress::calibrate::InputStatistics;
use thimble::compress::quantize::{TargetLayer, layer_method};
use thimble::compress::rescale::{Channels, Reader, divided, rescaling};
use thimble::compress::{Compute, TorchLogits, dense, to_vec};
use thimble::forward::trace::{Producer, ScaleMigration};
use thimble::model::{LogitSource, ModelSpec};
use thimble::quant::{Assembled, Code, Scheme, Weight, WeightStore};
use thimble::random::Random;
use thimble::recipe::{AwqOptions, AwqScales, Method, Rescale};
use thimble::runtime;
use thimble::spec::LayerName;

fn tensor(weight: &Weight) -> Tensor {
    let shape: Vec<i64> = weight.shape().iter().map(|&n| n as i64).collect();
    Tensor::from_slice(&weight.to_f32()).view(&shape[..])
}

/// The model with every input scaled that can be, by random numbers from a half to 2.
fn scaled(store: &dyn WeightStore) -> (Assembled, usize) {
    let spec: &ModelSpec = store.spec();
    let mut weights: BTreeMap<String, Weight> =
        spec.parameters().into_iter().map(|p| (p.name.clone(), store.weight(&p.name).unwrap())).collect();
    let mut count = 0;
    for (i, block) in spec.blocks.iter().enumerate() {
        if block.weights_of.is_some() {
            continue;
        }
        for (f, migration) in spec.scale_migrations(i).into_iter().enumerate() {
            if matches!(migration.producer, Producer::Nothing(_)) {
                continue;
            }
            count += 1;
            let random = Random::new(i as u64, f as u64);
            let channels = Channels::of(&migration);
            let n = migration.channels.iter().max().unwrap() + 1;
            let scales: Vec<f32> = (0..n).map(|c| (2.0 * random.uniform(c as u64) - 1.0).exp2() as f32).collect();
            let scales = Tensor::from_slice(&scales);
            let name = |layer: LayerName| spec.block_name(i, layer);
            let groups = block.input_groups(spec.hidden_size).into_iter();
            for linear in groups.filter(|group| migration.inputs.contains(&group.input)).flat_map(|group| group.linears) {
                let weight = tensor(&weights[&name(linear.name)]) * channels.spread(&scales);
                weights.insert(name(linear.name), dense("", &weight));
            }
            for (role, numbers) in divided(&migration.producer, &scales, |role| Ok(tensor(&weights[&spec.block_name(i, role)]))).unwrap() {
                weights.insert(spec.block_name(i, &role), dense("", &numbers));
            }
        }
    }
    (Assembled::new(spec.clone(), weights), count)
}

/// The sharp test of [`ModelSpec::scale_migrations`]: what it says can be divided is divided, on
/// every family, and the logits stay.
#[test]
fn scaling_what_feeds_an_input_changes_nothing() {
    let mut failed = Vec::new();
    for (name, dir) in data::fixtures() {
        let model = runtime::open(&dir, None).unwrap();
        let (changed, count) = scaled(&*model.store);
        let ids: Vec<u32> = (3..35).map(|i| i * 7 % 90).collect();
        let logits = |store| {
            let mut source = TorchLogits::new(store, Compute::CPU);
            source.run_window(&ids).unwrap();
            source.logits(0..ids.len()).unwrap()
        };
        let (before, after) = (logits(model.store.clone()), logits(std::sync::Arc::new(changed)));
        let (difference, greatest) =
            before.iter().zip(&after).fold((0.0f32, 0.0f32), |(d, g), (a, b)| (d.max((a - b).abs()), g.max(a.abs())));
        println!("{name}: {count} scale migrations, logits differ by {difference:.1e} of {greatest:.1}");
        if difference.is_nan() || difference > 1e-4 * greatest.max(1.0) {
            failed.push(format!("{name}: logits differ by {difference} of {greatest}"));
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

/// Producers of inputs, of families that differ in them.
#[test]
fn scale_migrations_follow_from_the_forward() {
    let of = |fixture: &str| -> Vec<(String, String)> {
        let model = runtime::open(&data::fixture(fixture), None).unwrap();
        let producer = |migration: &ScaleMigration| match migration.producer {
            Producer::Norm { name, .. } | Producer::Rows { name, .. } => name.to_string(),
            Producer::Nothing(why) => format!("nothing: {why}"),
        };
        let inputs = |migration: &ScaleMigration| migration.inputs.iter().map(LayerName::to_string).collect::<Vec<_>>().join(" ");
        model.spec().scale_migrations(0).iter().map(|migration| (inputs(migration), producer(migration))).collect()
    };
    let pairs = |pairs: &[(&str, &str)]| pairs.iter().map(|(a, b)| (a.to_string(), b.to_string())).collect::<Vec<_>>();
    let llama = [("attn.input", "attn_norm"), ("attn.context", "attn.v"), ("ffn.input", "ffn_norm"), ("ffn.hidden", "ffn.up")];
    assert_eq!(of("llama-gqa-tied"), pairs(&llama));
    let weightless = "nothing: the norm before it has no weights";
    assert!(of("olmo-clipped").iter().filter(|(_, by)| by == weightless).count() == 2, "{:?}", of("olmo-clipped"));
    assert!(of("olmo2-biases").iter().filter(|(_, by)| by == "nothing: it reads the residual stream itself").count() == 2);
}

/// A family without producers that can be divided says so, layer by layer.
#[test]
fn what_cannot_be_rescaled_is_reported() {
    let out = tempfile::tempdir().unwrap();
    let recipe =
        "[calibration]\nsequences = 4\nlength = 16\n[[stage]]\n[stage.awq]\ngroup_size = 32\n[evaluate]\nwindow = 16\nmax_windows = 2\n";
    let report = compress::run(recipe, &data::fixture("olmo2-biases"), out.path()).unwrap();
    let layer = |name: &str| report.stages[0].layers.iter().find(|layer| layer.name == name).unwrap();
    assert_eq!(layer("blocks.0.attn.q").remarks, ["not rescaled: it reads the residual stream itself"]);
    assert!(layer("blocks.0.ffn.down").remarks.is_empty());
}

/// Normal numbers by a seed.
fn normal(seed: u64, shape: (usize, usize)) -> Array2<f64> {
    normal::normal(Random::new(seed, 1), shape)
}

/// Activations with some channels far larger than others.
fn activations(seed: u64, columns: usize) -> Array2<f64> {
    let mut x = normal(seed, (200, columns));
    for (i, mut column) in x.axis_iter_mut(Axis(1)).enumerate() {
        column.mapv_inplace(|v| v * if i % 11 == 3 { 12.0 } else { 0.3 + (i % 5) as f64 });
    }
    x
}

fn f32s(array: &Array2<f64>) -> Tensor {
    let values: Vec<f32> = array.iter().map(|&v| v as f32).collect();
    Tensor::from_slice(&values).view([array.nrows() as i64, array.ncols() as i64])
}

fn statistics(x: &Array2<f64>) -> InputStatistics {
    let x = f32s(x).to_kind(Kind::Double);
    let hessian = x.tr().matmul(&x) * (2.0 / x.size()[0] as f64);
    InputStatistics {
        tokens: x.size()[0] as f64,
        power: 1.0,
        hessian: hessian.to_kind(Kind::Float),
        mean_magnitude: x.abs().mean_dim(0, false, Kind::Float),
        greatest_magnitude: x.abs().amax(0, false).to_kind(Kind::Float),
    }
}

fn array(tensor: &Tensor) -> Array1<f64> {
    to_vec(tensor).into_iter().map(f64::from).collect()
}

/// Layers and groups of several shapes, with and without duo scaling.
#[test]
fn awq_chooses_the_scales_of_its_naive_restatement() {
    for (seed, columns, rows, bits, group_size, duo) in
        [(1, 64, [8, 5], 4, 32, true), (2, 100, [6, 6], 3, 32, true), (3, 96, [7, 3], 4, 0, false), (4, 172, [4, 9], 2, 64, true)]
    {
        let x = activations(seed, columns);
        let code = Code::from_bits(bits).unwrap();
        let scheme = Scheme::integers(code, group_size, false);
        let group = if group_size == 0 { columns } else { group_size };
        let levels = f64::from((1 << bits) - 1);
        let layers: Vec<awq::Layer> = rows
            .iter()
            .enumerate()
            .map(|(i, &rows)| awq::Layer {
                weight: normal(10 * seed + i as u64, (rows, columns)).mapv(|w| f64::from(w as f32)),
                levels,
                group,
            })
            .collect();
        let input = statistics(&x);
        let readers: Vec<Reader> =
            layers.iter().map(|layer| Reader { weight: f32s(&layer.weight), scheme: Some(scheme), input: &input }).collect();
        let migration =
            ScaleMigration { inputs: vec![LayerName::outside("x")], producer: Producer::Nothing(""), channels: (0..columns).collect() };
        let method = rescaling(Rescale::Awq(AwqScales { points: 20, duo_scaling: duo }));
        let ours = array(&method.scales(&readers, &Channels::of(&migration)).expect("scales help"));
        let naive = awq::scales(&layers, &x, 20, duo).expect("scales help");
        let apart = ours.iter().zip(&naive).fold(0.0f64, |most, (a, b)| most.max((a / b - 1.0).abs()));
        let (of_ours, of_naive) = (awq::loss(&layers, &x, &ours), awq::loss(&layers, &x, &naive));
        let without = awq::loss(&layers, &x, &Array1::ones(columns));
        println!("{columns} columns, {bits} bits: scales {apart:.1e} apart, loss {of_ours:.4} and {of_naive:.4}, {without:.4} without");
        assert!(apart < 1e-4, "scales are {apart} apart");
        assert!(of_ours < without);

        for layer in &layers {
            let target = TargetLayer { name: "w".into(), scheme, weight: f32s(&layer.weight) };
            let method = layer_method(Method::Awq(AwqOptions { clip: true }));
            let outcome = method.compress(&[target], input.copy()).unwrap().remove(0);
            let (ours, naive) = (outcome.tensor.dequantize().mapv(f64::from), awq::clipped(layer, &x));
            let apart = (&ours - &naive).mapv(f64::abs).iter().copied().fold(0.0, f64::max);
            assert!(apart < 1e-6, "clipped layers are {apart} apart");
        }
    }
}

/// Equation 4, channel by channel, over two readers; and heads that share values.
#[test]
fn smoothquant_is_equation_4() {
    let (columns, alpha) = (48, 0.7);
    let x = activations(5, columns);
    let weights = [normal(6, (9, columns)), normal(7, (4, columns))];
    let input = statistics(&x);
    let readers: Vec<Reader> = weights.iter().map(|w| Reader { weight: f32s(w), scheme: None, input: &input }).collect();
    // Pairs of channels come from one.
    for shared_by in [1, 2] {
        let migration = ScaleMigration {
            inputs: vec![LayerName::outside("x")],
            producer: Producer::Nothing(""),
            channels: (0..columns).map(|i| i / shared_by).collect(),
        };
        let ours = array(&rescaling(Rescale::Smooth { alpha }).scales(&readers, &Channels::of(&migration)).unwrap());
        for (channel, scale) in ours.iter().enumerate() {
            let of = |array: &Array2<f64>| {
                let columns = (channel * shared_by..(channel + 1) * shared_by).map(|c| array.column(c));
                columns.flat_map(|c| c.to_vec()).fold(0.0f64, |most, v| most.max(v.abs()))
            };
            let expected = of(&x).powf(alpha) / weights.iter().map(of).fold(0.0, f64::max).powf(1.0 - alpha);
            assert!((scale / expected - 1.0).abs() < 1e-5, "channel {channel}: {scale}, expected {expected}");
        }
    }
}
