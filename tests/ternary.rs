//! Ternary weights: rounding and its gradients against BitNet's published functions, codes
//! and scales in turn against a naive solver in float64, and what is packed against what was
//! trained.
#![cfg(feature = "torch")]

#[path = "common/compress.rs"]
mod compress;
#[path = "common/data.rs"]
mod data;
#[path = "naive/ternary.rs"]
mod naive;
#[path = "common/normal.rs"]
mod normal;
#[path = "common/stop.rs"]
mod stop;
#[path = "common/uniform.rs"]
mod uniform;

use ndarray::{Array2, Axis};
use normal::normal;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use tch::{Kind, Tensor};
use thimble::compress::quantize::{TargetLayer, in_turn};
use thimble::compress::sensitivity::Trials;
use thimble::compress::straight_through::{int8, straight, ternary};
use thimble::compress::train::{Network, Recording, Rounded, Rounding, run};
use thimble::compress::{Compute, TorchLogits};
use thimble::model::{DenseModel, LogitSource, ParameterKind};
use thimble::pipeline::{Options, Unfinished};
use thimble::progress::Silent;
use thimble::quant::ternary::{Share, mean_magnitudes, round};
use thimble::quant::{Assembled, Code, Layout, Weight, WeightStore};
use thimble::random::Random;
use thimble::recipe::{Candidate, RawRecipe, Stage};
use thimble::runtime::{self, Activations};
use uniform::uniform;

fn tensor(array: &Array2<f64>) -> Tensor {
    Tensor::from_slice(array.as_standard_layout().as_slice().unwrap()).view([array.nrows() as i64, array.ncols() as i64])
}

fn numbers(tensor: &Tensor) -> Vec<f64> {
    Vec::try_from(&tensor.to_kind(Kind::Double).contiguous().view(-1)).unwrap()
}

fn greatest_difference(found: &Tensor, expected: &Value) -> f64 {
    let expected: Vec<f64> = serde_json::from_value(expected.clone()).unwrap();
    let found = numbers(found);
    assert_eq!(found.len(), expected.len());
    found.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
}

/// Codes, scales, outputs and both gradients, of a scale a tensor as published.
#[test]
fn rounding_and_gradients_are_bitnets() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/ternary.json");
    let cases: Vec<Value> = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    assert_eq!(cases.len(), 3);
    for case in cases {
        let size = |key: &str| case[key].as_u64().unwrap();
        let (seed, rows, columns, tokens) = (size("seed"), size("rows") as usize, size("columns") as usize, size("tokens") as usize);
        let weight = uniform(3 * seed, (rows, columns));
        let narrow = weight.mapv(|v| v as f32);

        let scales = mean_magnitudes(narrow.view(), Share::Tensor);
        let expected = half::f16::from_f64(case["scale"].as_f64().unwrap());
        assert!(scales.iter().all(|&scale| scale == expected), "{scales} for {expected}");
        let packed = round(narrow.view(), Share::Tensor.scheme(Code::Ternary), scales);
        let codes: Vec<String> = packed.codes.outer_iter().map(|row| row.iter().map(|&c| ['-', '0', '+'][c as usize]).collect()).collect();
        assert_eq!(serde_json::to_value(codes).unwrap(), case["codes"], "case {seed}");

        let w = tensor(&weight).set_requires_grad(true);
        let x = tensor(&uniform(3 * seed + 1, (tokens, columns))).set_requires_grad(true);
        let y = straight(&x, int8(&x), 1.0).linear(&straight(&w, ternary(&w, Share::Tensor), 1.0), None::<&Tensor>);
        (&y * tensor(&uniform(3 * seed + 2, (tokens, rows)))).sum(Kind::Double).backward();
        for (what, found) in [("output", y.detach()), ("weight_gradient", w.grad()), ("input_gradient", x.grad())] {
            let difference = greatest_difference(&found, &case[what]);
            assert!(difference < 1e-12, "case {seed}: {what} is {difference:e} off");
        }
    }
}

/// What forwards see while they are trained is, number for number, what is packed.
#[test]
fn packed_weights_are_those_of_training() {
    for (seed, share) in [Share::Tensor, Share::Row, Share::Group(32), Share::Group(64)].into_iter().enumerate() {
        for (rows, columns) in [(1, 1), (5, 64), (17, 100), (3, 300)] {
            let weight = normal(Random::new(seed as u64, 5), (rows, columns)).mapv(|v| 0.02 * v as f32);
            let seen = ternary(&Tensor::from_slice(weight.as_slice().unwrap()).view([rows as i64, columns as i64]), share);
            let seen: Vec<f32> = Vec::try_from(&seen.contiguous().view(-1)).unwrap();
            for code in [Code::Ternary, Code::Base3] {
                let packed = round(weight.view(), share.scheme(code), mean_magnitudes(weight.view(), share));
                assert_eq!(packed.dequantize().as_slice().unwrap(), seen, "{share:?} of {rows} × {columns}");
            }
        }
    }
}

/// Codes by explicit inverses on scales by explicit systems, turn by turn.
#[test]
fn codes_and_scales_in_turn_are_the_naive_ones() {
    let mut greatest = 0.0f64;
    for (seed, (rows, columns, share)) in
        [(6, 64, Share::Row), (4, 100, Share::Tensor), (5, 96, Share::Group(32)), (3, 160, Share::Group(64)), (1, 40, Share::Row)]
            .into_iter()
            .enumerate()
    {
        let random = |stream| Random::new(seed as u64, stream);
        let weight = normal(random(1), (rows, columns)) * 0.1;
        let mut x = normal(random(3), (3 * columns, columns)).dot(&normal(random(2), (columns, columns)));
        x.axis_iter_mut(Axis(1)).enumerate().for_each(|(i, mut column)| column *= 0.2 + (i % 7) as f64);
        let hessian = x.t().dot(&x) * (2.0 / x.nrows() as f64);
        for rounds in [1, 3] {
            let layer = TargetLayer { name: "w".into(), scheme: share.scheme(Code::Ternary), weight: tensor(&weight) };
            let found = in_turn::<f64>(&[layer], &tensor(&hessian), share, 0.01, rounds).unwrap().remove(0).tensor;
            let expected = naive::solve(&weight, &hessian, share, 0.01, rounds);
            let difference = (&found.dequantize().mapv(f64::from) - &expected).mapv(f64::abs).fold(0.0, |a: f64, &b| a.max(b));
            greatest = greatest.max(difference);
            let error = |q: &Array2<f64>| ((&weight - q).dot(&hessian) * (&weight - q)).sum();
            let nearest = round(
                weight.mapv(|v| v as f32).view(),
                share.scheme(Code::Ternary),
                mean_magnitudes(weight.mapv(|v| v as f32).view(), share),
            );
            assert!(error(&expected) < 0.8 * error(&nearest.dequantize().mapv(f64::from)), "{share:?}: solving pays");
        }
    }
    println!("greatest difference {greatest:.1e}");
    // Scales are in f16 on both sides: the same, or next to each other.
    assert!(greatest < 1e-4, "{greatest}");
}

const TRAINED: &str = "[calibration]\nsequences = 4\nlength = 16\n[[stage]]\n[stage.ternary]\npacking = 'PACKING'\nscale = SCALE\nskip = ['embeddings']\nsub_norms = NORMS\n\
                       [stage.ternary.distil.training]\ntext = ['ids.bin']\ntokens = 2048\nlength = 16\nbatch = 8\nheld_out = 4\nlearning_rate = 3e-3\n\
                       [evaluate]\nwindow = 16\nmax_windows = 2\nactivations = 'int8_token'\n";

/// The packed model on the device, its activations in int8, against the forward that was
/// trained, all of it rounded. The head is not: it stays in 16 bits.
#[test]
fn packed_logits_are_those_of_the_trained_forward() {
    for (packing, scale, norms) in [("two_bits", "'row'", "false"), ("five_a_byte", "'tensor'", "true"), ("two_bits", "32", "true")] {
        let out = tempfile::tempdir().unwrap();
        write_ids(&out.path().join("ids.bin"));
        let recipe = TRAINED.replace("PACKING", packing).replace("SCALE", scale).replace("NORMS", norms);
        let dir = data::fixture("llama-gqa-tied");
        let report = compress::run(&recipe, &dir, out.path()).unwrap();
        let stage = &report.stages[0];
        assert!(stage.method == "ternary" && stage.training.len() == 1 && !stage.layers.is_empty());

        let packed = runtime::open(out.path(), None).unwrap();
        let spec = packed.spec();
        assert_eq!(spec.blocks.iter().all(|block| block.feed_forward().is_some_and(|ffn| ffn.hidden_norm.is_some())), norms == "true");
        let code = if packing == "five_a_byte" { Code::Base3 } else { Code::Ternary };
        let layers: BTreeSet<String> =
            spec.parameters().into_iter().map(|p| p.name).filter(|name| is(&*packed.store, name, code)).collect();
        assert_eq!(layers.len(), 7 * spec.blocks.len());

        // Weights that are rounded already stay as they are, so that inputs alone are left.
        let network = Network::frozen(&*packed.store, Compute::CPU).unwrap();
        let rounding = Rounding { layers, share: None, inputs: true, norms: BTreeSet::new(), blend: 0.0 };
        let network = network.rounding(Some(Rounded::new(rounding)));
        let ids: Vec<u32> = (3..19).map(|i| i * 7 % 90).collect();
        let _no_grad = tch::no_grad_guard();
        let hidden = run(&network, &[&ids], Recording::whole(&network), &mut |_, _| ());
        let expected: Vec<f32> = Vec::try_from(&network.lm_head().forward(&hidden).to_kind(Kind::Float).contiguous().view(-1)).unwrap();
        let mut device = compress::native(&packed, Activations::Int8Token);
        device.run_window(&ids).unwrap();
        let found = device.logits(0..ids.len()).unwrap();
        let difference = found.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        println!("{packing}, {scale}, sub-norms {norms}: {difference:.1e}");
        assert!(difference < 1e-3, "{packing}, {scale}, sub-norms {norms}: {difference}");
    }
}

/// Where training moves nothing, what was solved first is what is stored.
#[test]
fn training_begins_with_what_was_solved() {
    for scale in ["'tensor'", "'row'", "32"] {
        let trained = TRAINED.replace("PACKING", "two_bits").replace("SCALE", scale);
        let trained = trained.replace("sub_norms = NORMS", "start = 'gptq'\nrounds = 2").replace("2048", "128").replace("3e-3", "1e-12");
        let solved =
            "[calibration]\nsequences = 4\nlength = 16\n[[stage]]\n[stage.ternary]\nrounds = 2\n[evaluate]\nwindow = 16\nmax_windows = 2\n";
        let solved = solved.replace("rounds", &format!("scale = {scale}\nskip = ['embeddings']\nrounds"));
        let made = [trained, solved].map(|recipe| {
            let out = tempfile::tempdir().unwrap();
            write_ids(&out.path().join("ids.bin"));
            compress::run(&recipe, &data::fixture("llama-gqa-tied"), out.path()).unwrap();
            runtime::open(out.path(), None).unwrap()
        });
        let mut layers = 0;
        for parameter in made[0].spec().parameters() {
            let [Weight::Packed(begun), Weight::Packed(found)] = made.each_ref().map(|model| model.store.weight(&parameter.name).unwrap())
            else {
                continue;
            };
            if begun.tiling.scheme.code.is_ternary() {
                // Where all codes of a group are zero, any scale is the same.
                assert_eq!(begun.unpack().dequantize(), found.unpack().dequantize(), "{scale}: {}", parameter.name);
                layers += 1;
            }
        }
        assert_eq!(layers, 14, "{scale}");
    }
}

/// What a layer alone costs is what models with that layer exchanged say by themselves, window
/// by window; shared layers are exchanged wherever they are used.
#[test]
fn sensitivities_are_divergences_of_models_with_one_layer_exchanged() {
    for fixture in ["llama-gqa-tied", "mobillama-shared"] {
        let model = DenseModel::open_hugging_face(&data::fixture(fixture)).unwrap();
        let spec = model.spec().clone();
        let linear: Vec<_> = spec.parameters().into_iter().filter(|p| p.kind == ParameterKind::Linear).collect();
        let names: BTreeSet<String> = linear.iter().map(|p| p.name.clone()).collect();
        let weight = |name: &str| WeightStore::weight(&model, name).unwrap();
        let exchanged = |names: &BTreeSet<String>| {
            let weights = spec.parameters().into_iter().map(|p| {
                if !names.contains(&p.name) {
                    return (p.name.clone(), weight(&p.name));
                }
                let dense = Array2::from_shape_vec((p.shape[0], p.shape[1]), weight(&p.name).to_f32().into_owned()).unwrap();
                let ternary = round(dense.view(), Share::Row.scheme(Code::Ternary), mean_magnitudes(dense.view(), Share::Row));
                (p.name.clone(), Weight::pack(&p.name, &ternary, Layout::Tiles))
            });
            Assembled::new(spec.clone(), weights.collect::<Vec<_>>())
        };
        let sequences: Vec<Vec<u32>> = (0..5).map(|s| (0..16).map(|i| (7 * i + 11 * s) % 90).collect()).collect();
        let other = exchanged(&names);
        let found = |kind| {
            let compute = Compute { kind, ..Compute::CPU };
            let mut trials = Trials::start(&model, &other, &names, &sequences, compute, &Silent).unwrap();
            let mut all = BTreeMap::new();
            for block in 0..spec.blocks.len() {
                all.extend(trials.block(block).unwrap());
                trials.advance(block).unwrap();
            }
            all
        };
        let (found, half) = (found(Kind::Float), found(Kind::BFloat16));
        assert_eq!(found.keys().cloned().collect::<BTreeSet<_>>(), names);

        let logits = |store: Assembled| {
            let mut source = TorchLogits::new(Arc::new(store), Compute::CPU);
            let mut logits = |ids: &Vec<u32>| {
                source.run_window(ids).unwrap();
                source.logits(0..ids.len()).unwrap()
            };
            sequences.iter().flat_map(&mut logits).collect::<Vec<f32>>()
        };
        let original = logits(exchanged(&BTreeSet::new()));
        for (name, found) in found {
            let changed = logits(exchanged(&BTreeSet::from([name.clone()])));
            let tokens = original.chunks_exact(spec.vocab_size).zip(changed.chunks_exact(spec.vocab_size));
            let expected = tokens.map(|(p, q)| divergence(p, q)).sum::<f64>() / 80.0;
            assert!(expected > 1e-4 && (found / expected - 1.0).abs() < 1e-3, "{fixture}, {name}: {found}, expected {expected}");
            println!("{fixture}, {name}: {expected:.5}, in half precision {:.5}", half[&name]);
            assert!(
                (half[&name] / expected - 1.0).abs() < 0.2,
                "{fixture}, {name}: {} in half precision, expected {expected}",
                half[&name]
            );
        }
    }
}

/// No choice of layers within the budget covers much more loss: against all there are.
#[test]
fn a_budget_goes_where_most_is_lost() {
    let model = DenseModel::open_hugging_face(&data::fixture("llama-gqa-tied")).unwrap();
    let spec = model.spec();
    for budget in [2.6, 3.0, 3.5, 4.0] {
        let text = format!("[[stage]]\n[stage.ternary]\nmixed_precision = {{ bits_per_weight = {budget}, group_size = 32 }}\n");
        let recipe = RawRecipe::parse(&text, Path::new("r.toml"), &[]).unwrap().resolve(spec).unwrap();
        let Stage::Quantize(plan) = &recipe.stages[0] else { panic!("it quantises") };
        let mixed = plan.mixed_precision.unwrap();
        let layers: Vec<_> = mixed.candidates(&plan.schemes, spec).collect();
        assert_eq!(layers.len(), 14);
        let random = Random::new(3, 0);
        let drawn = |(i, l): (usize, &Candidate)| (l.name.clone(), random.uniform(i as u64) * l.weights);
        let lost: BTreeMap<String, f64> = layers.iter().enumerate().map(drawn).collect();
        let room = layers.iter().map(|l| budget * l.weights - l.bits).sum::<f64>();
        let of = |wanted: &dyn Fn(usize) -> bool| {
            let some = layers.iter().enumerate().filter(|(i, _)| wanted(*i)).map(|(_, l)| l);
            some.fold((0.0, 0.0), |(more, covered), l| (more + l.wide_bits - l.bits, covered + lost[&l.name]))
        };
        let wide = mixed.allocate(&plan.schemes, spec, &lost);
        let (more, covered) = of(&|i| wide.contains(&layers[i].name));
        let best = (0..1 << layers.len()).map(|set| of(&|i| set >> i & 1 == 1)).filter(|(more, _)| *more <= room);
        let best = best.map(|(_, covered)| covered).fold(0.0, f64::max);
        assert!(more <= room && covered > 0.9 * best, "{budget}: {more} of {room} bits, {covered} of {best}");
    }
}

/// Trained or not, the schemes of what is stored keep the budget, and what it spends is worth it.
#[test]
fn mixed_precision_keeps_its_budget() {
    let untrained = "[calibration]\nsequences = 4\nlength = 16\n[[stage]]\n[stage.ternary]\nskip = ['embeddings']\n\
                     [evaluate]\nwindow = 16\nmax_windows = 2\n";
    let trained = TRAINED.replace("PACKING", "five_a_byte").replace("SCALE", "'row'").replace("NORMS", "false").replace("2048", "256");
    for recipe in [untrained, &trained] {
        let [without, with] = ["", "mixed_precision = { bits_per_weight = 3.5, group_size = 32 }\n"].map(|mix| {
            let out = tempfile::tempdir().unwrap();
            write_ids(&out.path().join("ids.bin"));
            let recipe = recipe.replace("skip", &format!("{mix}skip"));
            let report = compress::run(&recipe, &data::fixture("llama-gqa-tied"), out.path()).unwrap();
            (report, runtime::open(out.path(), None).unwrap())
        });
        let (mut wide, mut bits, mut weights) = (0, 0.0, 0.0);
        for parameter in with.1.spec().parameters().into_iter().filter(|p| p.kind == ParameterKind::Linear) {
            let Weight::Packed(packed) = with.1.store.weight(&parameter.name).unwrap() else { panic!("{} is packed", parameter.name) };
            let count = (parameter.shape[0] * parameter.shape[1]) as f64;
            bits += count * packed.tiling.scheme.bits_per_weight([parameter.shape[0], parameter.shape[1]]);
            weights += count;
            wide += usize::from(packed.tiling.scheme.code == Code::Int4);
        }
        assert!((1..14).contains(&wide) && bits <= 3.5 * weights, "{wide} layers, {} bits a weight", bits / weights);
        let remark = &with.0.stages[0].remarks.last().unwrap();
        assert!(remark.contains(&format!("{wide} of 14 layers have 4 bits, groups of 32")), "{remark}");
        let kl = [&without, &with].map(|(report, _)| report.after.divergence.as_ref().unwrap().kl_mean);
        assert!(kl[1] < kl[0], "{kl:?}");
    }
}

/// Wherever it is stopped: while layers are tried and norms' inputs are read, in training, in
/// packing.
#[test]
fn a_run_that_was_stopped_ends_with_the_same_file() {
    let folder = tempfile::tempdir().unwrap();
    write_ids(&folder.path().join("ids.bin"));
    let keys = "true\nstart = 'gptq'\nmixed_precision = { bits_per_weight = 3.5, group_size = 32 }";
    let text = TRAINED.replace("PACKING", "two_bits").replace("SCALE", "'row'").replace("NORMS", keys);
    let recipe = RawRecipe::parse(&text, &folder.path().join("recipe.toml"), &["ternary.distil.training.tokens=512".into()]).unwrap();
    let (dir, [whole, stopped]) = (data::fixture("llama-gqa-tied"), ["whole", "stopped"].map(|name| folder.path().join(name)));
    let options = Options { out: &whole, compute: Compute::CPU, threads: 0, unfinished: Unfinished::Resume };
    thimble::pipeline::compress(&recipe, runtime::open(&dir, None).unwrap(), &options, &Silent).unwrap();
    let stops = stop::run(&recipe, &dir, &stopped);
    assert!(stops > 5, "it was stopped {stops} times");
    let read = |dir: &Path| std::fs::read(dir.join("model.thimble")).unwrap();
    assert!(read(&whole) == read(&stopped));
}

/// Half of it rounded is half way: forwards of a network at λ are those of weights that were
/// moved there by hand.
#[test]
fn rounding_sets_in_by_degrees() {
    let model = DenseModel::open_hugging_face(&data::fixture("llama-gqa-tied")).unwrap();
    let names: BTreeSet<String> =
        model.spec().parameters().into_iter().filter(|p| p.kind == ParameterKind::Linear).map(|p| p.name).collect();
    let ids: Vec<u32> = (3..19).map(|i| i * 7 % 90).collect();
    let forward = |network: &Network| run(network, &[&ids], Recording::whole(network), &mut |_, _| ());
    let _no_grad = tch::no_grad_guard();
    for (step, lambda) in [(0, 0.25), (1, 0.5), (3, 1.0), (9, 1.0)] {
        let layers = names.clone();
        let rounded = Rounded::new(Rounding { layers, share: Some(Share::Row), inputs: false, norms: BTreeSet::new(), blend: 0.4 });
        rounded.at(step, 10);
        assert_eq!(rounded.is_rising(), lambda < 1.0);
        let found = forward(&Network::frozen(&model, Compute::CPU).unwrap().rounding(Some(rounded)));
        let moved = model.spec().parameters().into_iter().map(|p| {
            let weight = WeightStore::weight(&model, &p.name).unwrap();
            if !names.contains(&p.name) {
                return (p.name, weight);
            }
            let values = weight.to_f32().into_owned();
            let dense = Array2::from_shape_vec((p.shape[0], p.shape[1]), values).unwrap();
            let ternary = round(dense.view(), Share::Row.scheme(Code::Ternary), mean_magnitudes(dense.view(), Share::Row)).dequantize();
            let between: Vec<f32> = dense.iter().zip(&ternary).map(|(a, b)| a + (b - a) * lambda).collect();
            (p.name.clone(), Weight::from_f32(&p.name, p.shape, &between))
        });
        let moved = Assembled::new(model.spec().clone(), moved.collect::<Vec<_>>());
        let expected = forward(&Network::frozen(&moved, Compute::CPU).unwrap());
        let difference = (found - expected).abs().max().double_value(&[]);
        assert!(difference < 1e-5, "step {step}: {difference:e}");
    }
}

/// Before any weight is read, with the reason and what to do.
#[test]
fn what_cannot_be_done_is_refused() {
    let training = "[stage.ternary.distil.training]\ntext = ['t.txt']\n";
    let cases = [
        ("llama-gqa-tied", "scale = 0", "\"row\" is a scale a row"),
        ("llama-gqa-tied", "scale = 48", "scale = 48 cannot work: it must be a multiple of 32 (such as 32), or \"row\" or \"tensor\""),
        ("llama-gqa-tied", "scale = 'column'", "expected \"tensor\", \"row\", or a number of columns such as 128"),
        ("llama-gqa-tied", "packing = 'dense'", "expected `two_bits` or `five_a_byte`"),
        ("llama-gqa-tied", "bits = 2", "unknown field `bits`"),
        ("llama-gqa-tied", "rounds = 0", "rounds 0 must be from 1 to 100"),
        ("llama-gqa-tied", "damp_percent = 0.0", "damp_percent 0 must be above 0"),
        ("llama-gqa-tied", "solver = 'absmean'\nrounds = 3", "are for solver = \"gptq\"; leave them out"),
        ("llama-gqa-tied", "skip = ['blocks.*']", "skip leaves no layer to be ternary"),
        ("llama-gqa-tied", "skip = ['block.*']", "names no matrix of this model"),
        (
            "llama-gqa-tied",
            "blend = 0.5",
            "blend is for training: leave it out, or say what is trained on with [stage.ternary.distil.training]",
        ),
        ("llama-gqa-tied", "mixed_precision = { bits_per_weight = 2.2 }", "bits_per_weight = 2.2 must be at least 2."),
        ("llama-gqa-tied", "mixed_precision = { bits_per_weight = 6.0 }", "where all layers have"),
        ("llama-gqa-tied", "mixed_precision = { bits_per_weight = nan }", "bits_per_weight = NaN must be at least"),
        ("llama-gqa-tied", "mixed_precision = { bits_per_weight = 3.0, bits = 7 }", "mixed_precision: bits = 7 is not known"),
        ("llama-gqa-tied", "mixed_precision = { bits_per_weight = 3.0, bits = 3 }", "bits = 3 lose much themselves; 4 at least"),
        ("llama-gqa-tied", "mixed_precision = 2.4", "expected a budget, as in mixed_precision = { bits_per_weight = 2.4 }"),
        ("llama-gqa-tied", "sub_norms = true", "sub_norms is for training: leave it out"),
        ("llama-gqa-tied", "start = 'gptq'", "start is for training: leave it out"),
        ("llama-gqa-tied", &format!("rounds = 3\n{training}"), "are for start = \"gptq\"; leave them out"),
        ("llama-gqa-tied", &format!("blend = 1.5\n{training}"), "blend 1.5 is a share of the steps"),
        ("llama-gqa-tied", &format!("solver = 'gptq'\n{training}"), "finds other codes than those that were trained"),
        ("llama-gqa-tied", "[stage.ternary.distil]\nkd_weight = 1.0", "text names nothing to train on"),
        (
            "llama-gqa-tied",
            &format!("[stage.ternary.distil]\nprogressive = 0.5\nhidden = {{ loss = 'mean_square', weight = 1.0 }}\n{training}"),
            "progressive trains blocks alone, which are rounded together; leave it out",
        ),
        (
            "llama-gqa-tied",
            &format!("[stage.ternary.distil]\non_policy = {{ method = 'gkd', prompt = 4 }}\n{training}"),
            "on_policy writes with weights that are not rounded; leave it out",
        ),
        ("llama-gqa-tied", &format!("sub_norms = true\n{training}trainable = {{ rank = 4 }}"), "which adapters do not train"),
        ("rwkv-narrow-mlp", &format!("sub_norms = true\n{training}"), "has no attention to insert a norm into; leave it out"),
        ("mobillama-shared", &format!("sub_norms = true\n{training}"), "shares weights with another; leave it out"),
    ];
    for (fixture, keys, says) in cases {
        let model = DenseModel::open_hugging_face(&data::fixture(fixture)).unwrap();
        let text = format!("[[stage]]\n[stage.ternary]\n{keys}\n");
        let error =
            RawRecipe::parse(&text, Path::new("r.toml"), &[]).and_then(|recipe| recipe.resolve(model.spec())).unwrap_err().to_string();
        assert!(error.contains(says), "{keys}: {says:?} is not in {error}");
    }
}

/// KL(p ‖ q) of logits, in nats.
fn divergence(p: &[f32], q: &[f32]) -> f64 {
    let [p, q] = [p, q].map(|logits| {
        let sum: f64 = logits.iter().map(|l| f64::from(*l).exp()).sum();
        logits.iter().map(|l| f64::from(*l) - sum.ln()).collect::<Vec<_>>()
    });
    p.iter().zip(&q).map(|(p, q)| p.exp() * (p - q)).sum()
}

fn write_ids(file: &Path) {
    let ids: Vec<u8> = (0..3000u16).flat_map(|i| (3 + i * 7 % 90).to_le_bytes()).collect();
    std::fs::write(file, ids).unwrap();
}

fn is(store: &dyn WeightStore, name: &str, code: Code) -> bool {
    matches!(store.weight(name).unwrap(), Weight::Packed(packed) if packed.tiling.scheme.code == code)
}
