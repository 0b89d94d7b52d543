//! LLM.int8() as a method: which columns it keeps, what it makes of the rest, and the
//! models it writes.
#![cfg(feature = "torch")]

#[path = "common/compress.rs"]
mod compress;
#[path = "common/data.rs"]
mod data;
#[path = "common/statistics.rs"]
mod statistics;
#[path = "naive/vector_wise.rs"]
mod vector_wise;

use ndarray::Array2;
use statistics::{statistics, tensor};
use std::sync::Arc;
use thimble::checkpoint::FloatType;
use thimble::compress::quantize::{LayerMethod, LlmInt8, TargetLayer};
use thimble::eval::{Protocol, evaluate, windows};
use thimble::kernels::supported;
use thimble::progress::Silent;
use thimble::quant::{Code, Layout, Scheme, Weight};
use thimble::random::Random;
use thimble::recipe::LlmInt8Options;
use thimble::runtime::{self, Activations, product};

const VECTOR_WISE: Scheme = Scheme::integers(Code::Int8, 0, true);

/// Uniform in ±1.
fn uniform(seed: u64, shape: (usize, usize)) -> Array2<f32> {
    let random = Random::new(seed, 1);
    Array2::from_shape_fn(shape, |(row, column)| (2.0 * random.uniform((row * shape.1 + column) as u64) - 1.0) as f32)
}

/// Columns that reach the threshold anywhere, and only they, in all layers of an input;
/// everything else, and the product, as the paper's equations have it.
#[test]
fn layers_are_those_of_the_paper() {
    let (tokens, width) = (23, 77);
    let mut x = uniform(1, (tokens, width));
    x[[4, 9]] = 6.0;
    x[[22, 10]] = -5.99;
    x[[0, 76]] = -41.0;
    let weights = [uniform(2, (19, width)), uniform(3, (16, width)), uniform(4, (1, width))];
    let layers: Vec<TargetLayer> = weights
        .iter()
        .zip(["q", "k", "v"])
        .map(|(w, name)| TargetLayer { name: name.into(), scheme: VECTOR_WISE, weight: tensor(w) })
        .collect();
    let method = LlmInt8 { options: LlmInt8Options { threshold: 6.0 } };
    let outcomes = method.compress(&layers, statistics(&x)).unwrap();
    let columns = |i: usize| &outcomes[i].tensor.outliers.as_ref().unwrap().columns;
    assert_eq!((&columns(0).name[..], &columns(0).places[..]), ("q.outlier_columns", &[9, 76][..]));
    assert!(Arc::ptr_eq(columns(0), columns(1)) && Arc::ptr_eq(columns(0), columns(2)));
    assert_eq!(outcomes[0].remarks, ["2 of 77 columns of its input reach 6 and are kept in 16 bits"]);
    assert!(outcomes[1].remarks.is_empty() && outcomes[2].remarks.is_empty(), "one remark an input");

    let mut greatest = 0.0f64;
    for (weight, outcome) in weights.iter().zip(&outcomes) {
        let naive = vector_wise::product(&x.mapv(f64::from), &weight.mapv(f64::from), &[9, 76]);
        for kernels in supported() {
            let packed = Weight::pack("w", &outcome.tensor, Layout::Tiles);
            let y = product(packed, x.as_slice().unwrap(), Activations::Int8Token, kernels);
            for (i, y) in y.into_iter().enumerate() {
                let entry = &naive[i / weight.nrows()][i % weight.nrows()];
                let off = (f64::from(y) - entry.value).abs();
                assert!(off <= entry.bound(width + 5), "{}: {y} for {}, off by {off:e}", kernels.isa, entry.value);
                greatest = greatest.max(off);
            }
        }
    }
    println!("greatest difference from the equations in f64: {greatest:.1e}");

    // Nothing reaches a greater one, all columns a small one, and more than half of them
    // one between: codes beside so many would take more than 16 bits.
    let none = LlmInt8 { options: LlmInt8Options { threshold: 41.5 } }.compress(&layers, statistics(&x)).unwrap();
    assert!(none.iter().all(|o| o.tensor.outliers.is_none() && o.remarks.is_empty()));
    let mut greatest: Vec<f32> = x.columns().into_iter().map(|c| c.iter().fold(0.0, |m: f32, v| m.max(v.abs()))).collect();
    greatest.sort_by(f32::total_cmp);
    for (reach, crowded) in [(77, true), (39, true), (37, false)] {
        let threshold = f64::from(greatest[77 - reach]);
        let outcomes = LlmInt8 { options: LlmInt8Options { threshold } }.compress(&layers, statistics(&x)).unwrap();
        for outcome in &outcomes {
            assert!(outcome.tensor.is_kept() == crowded && (outcome.tensor.bits_per_weight() == 16.0) == crowded);
            assert!(matches!(Weight::pack("w", &outcome.tensor, Layout::Tiles), Weight::Dense(_)) == crowded);
        }
        let remark = &outcomes[0].remarks[0];
        assert!(remark.starts_with(&format!("{reach} of 77 columns")) && remark.contains("too many") == crowded, "{remark}");
    }
    assert!(method.compress(&[], statistics(&x)).unwrap().is_empty());
}

fn recipe(threshold: f64, more: &str, activations: &str) -> String {
    format!(
        "[calibration]\nsequences = 4\nlength = 16\n[[stage]]\n[stage.llm_int8]\nthreshold = {threshold}\n{more}\n\
         [evaluate]\nwindow = 16\nmax_windows = 2\nactivations = '{activations}'\n"
    )
}

/// Layers that keep columns in a written file, and all that are quantised in its blocks.
fn kept(model: &runtime::Model) -> (usize, usize) {
    let schemes = model.native.as_ref().unwrap().schemes();
    let layers = schemes.iter().filter(|(name, _)| name.starts_with("blocks."));
    (layers.clone().filter(|(_, stored)| stored.outlier_columns.is_some()).count(), layers.count())
}

/// Plain, fused, parallel, shared, gated, recurrent: packed on the device is what was
/// solved, with columns kept in some layers, and a scale a token costs little.
#[test]
fn fixtures_of_many_families_run_packed_as_they_were_solved() {
    for name in [
        "llama-gqa-tied",
        "gpt2-unscaled",
        "gpt_neox-parallel",
        "opt-post-norm",
        "mobillama-shared",
        "phi3-window",
        "rwkv-narrow-mlp",
        "gemma2-softcaps",
    ] {
        for (threshold, more) in [(3.0, ""), (2.8, "bits = 4\ngroup_size = 32\nsymmetric = false")] {
            let out = tempfile::tempdir().unwrap();
            let report = compress::run(&recipe(threshold, more, "int8_token"), &data::fixture(name), out.path()).unwrap();
            let packed = runtime::open(out.path(), None).unwrap();
            let ids: Vec<u32> = (3..43).map(|i| i * 7 % 90).collect();
            let difference = compress::greatest_difference(&packed, &ids).max(report.max_read_back_difference);
            let (kept, layers) = kept(&packed);
            println!("{name}, threshold {threshold}: {kept} of {layers} layers keep columns; packed and solved differ by {difference:.1e}");
            assert!(difference <= 1e-3, "{name}: {difference}");
            assert!(kept > 0, "{name}: no layer keeps columns");
            let layers = &report.stages[0].layers;
            let remarks: usize = layers.iter().map(|l| l.remarks.len()).sum();
            assert!(remarks > 0 && remarks <= kept + layers.iter().filter(|l| l.bits == 16.0).count(), "{name}: {remarks} remarks");
            // What the report says of a layer is what the file holds, padding and lists aside.
            for layer in layers.iter().filter(|l| l.name.starts_with("blocks.")) {
                let weight = packed.store.weight(&layer.name).unwrap();
                let stored = 8.0 * weight.len_bytes() as f64 / weight.shape().iter().product::<usize>() as f64;
                assert!(stored >= layer.bits - 1e-9 && stored < 2.5 * layer.bits, "{name}, {}: {stored} for {}", layer.name, layer.bits);
            }
        }
    }
}

/// A layer whose every input is an outlier is not quantised.
#[test]
fn layers_of_outliers_alone_stay_in_16_bits() {
    let out = tempfile::tempdir().unwrap();
    let report = compress::run(&recipe(1e-9, "", "f32"), &data::fixture("llama-gqa-tied"), out.path()).unwrap();
    let packed = runtime::open(out.path(), None).unwrap();
    for layer in report.stages[0].layers.iter().filter(|l| l.name.starts_with("blocks.")) {
        let Weight::Dense(dense) = packed.store.weight(&layer.name).unwrap() else { panic!("{} is packed", layer.name) };
        assert!(dense.float_type == FloatType::F16 && layer.bits == 16.0 && layer.relative_error < 1e-3, "{}", layer.name);
    }
    assert!(report.after.perplexity / report.before.perplexity - 1.0 < 1e-3);
}

/// `after` is measured with the activations that the recipe names.
#[test]
fn a_recipe_says_what_activations_it_is_measured_with() {
    let measured = ["int8", "int8_token", "f32"].map(|activations| {
        let out = tempfile::tempdir().unwrap();
        let report = compress::run(&recipe(6.0, "", activations), &data::fixture("llama-gqa-tied"), out.path()).unwrap();
        let native = runtime::open(out.path(), None).unwrap().native.unwrap();
        assert_eq!(native.notes().recipe["evaluate"]["activations"], activations);
        assert!(std::fs::read_to_string(out.path().join("README.md")).unwrap().contains(&format!("activations `{activations}`")));
        (report.after.loss, report.before.loss)
    });
    assert!(measured[0].1 == measured[1].1 && measured[1].1 == measured[2].1, "the original is measured alike");
    assert!(measured[0].0 != measured[1].0 && measured[1].0 != measured[2].0 && measured[0].0 != measured[2].0, "{measured:?}");
}

/// A real model: the written file is what was solved, and a scale a token costs next to
/// nothing, against f32 activations and against libtorch.
#[test]
fn house_runs_in_8_bits() {
    let Some(data) = data::shared("house_runs_in_8_bits") else { return };
    let out = tempfile::tempdir().unwrap();
    let text = |name: &str| data.join("text/tinystories").join(name);
    let recipe = format!(
        "[calibration]\ntext = '{}'\nsequences = 16\nlength = 256\n[[stage]]\n[stage.llm_int8]\n\
         [evaluate]\ntext = '{}'\nprotocol = 'bos'\nmax_windows = 4\nactivations = 'int8_token'\n",
        text("calib.txt").display(),
        text("valid.txt").display()
    );
    let report = compress::run(&recipe, &data.join("models/house-6m"), out.path()).unwrap();
    let packed = runtime::open(out.path(), None).unwrap();
    let (kept, layers) = kept(&packed);
    println!("{kept} of {layers} layers keep columns; {:.3} bits a weight", report.footprint.bits_per_weight);
    assert!(kept > 0 && report.after.perplexity / report.before.perplexity < 1.01, "{report:?}");

    let ids = packed.tokenizer().unwrap().encode(&std::fs::read_to_string(text("valid.txt")).unwrap()).unwrap();
    let difference = compress::greatest_difference(&packed, &ids[..512]);
    assert!(difference <= 1e-3, "{difference}");
    let windows = windows(&ids, packed.spec(), Protocol::Plain, 512, Some(4)).unwrap();
    let mut exact = compress::native(&packed, Activations::F32);
    let mut by_token = compress::native(&packed, Activations::Int8Token);
    let kl = evaluate(&mut by_token, Some(&mut exact), &windows, (Protocol::Plain, 512), &Silent).unwrap().model.divergence.unwrap();
    println!("logits differ by {difference:.1e}; a scale a token: mean KL {:.1e} nats, agreement {:.4}", kl.kl_mean, kl.top1_agreement);
    assert!(kl.kl_mean <= 5e-3, "{kl:?}");
}
