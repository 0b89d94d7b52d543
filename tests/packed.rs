//! The packed model on the device against the fake-quantised model in libtorch.
#![cfg(feature = "torch")]

#[path = "common/data.rs"]
mod data;

use std::path::Path;
use thimble::compress::{Compute, TorchLogits};
use thimble::eval::{Protocol, evaluate, windows};
use thimble::model::LogitSource;
use thimble::pipeline::{Options, Unfinished, compress};
use thimble::progress::Silent;
use thimble::recipe::RawRecipe;
use thimble::report::CompressReport;
use thimble::runtime::{self, Activations, Decoder, Model, NativeLogits};

fn run(recipe: &str, model: &Path, out: &Path) -> CompressReport {
    let recipe = RawRecipe::parse(recipe, &out.join("recipe.toml"), &[]).unwrap();
    let options = Options { out, compute: Compute::CPU, threads: 0, unfinished: Unfinished::Resume };
    compress(&recipe, runtime::open(model, None).unwrap(), &options, &Silent).unwrap()
}

fn native(model: &Model, activations: Activations) -> NativeLogits {
    NativeLogits::new(Decoder::new(&*model.store, activations, 0).unwrap())
}

fn greatest_difference(packed: &Model, ids: &[u32]) -> f32 {
    let mut sources: [Box<dyn LogitSource>; 2] =
        [Box::new(native(packed, Activations::F32)), Box::new(TorchLogits::new(packed.store.clone(), Compute::CPU))];
    let [ours, theirs] = sources.each_mut().map(|source| {
        source.run_window(ids).unwrap();
        source.logits(0..ids.len()).unwrap()
    });
    ours.iter().zip(&theirs).fold(0.0f32, |m, (a, b)| m.max((a - b).abs()))
}

/// Every fixture, width, method and order: logits to 1e-3.
#[test]
fn fixtures_run_packed_as_they_were_solved() {
    let mut greatest = 0.0f32;
    for (name, dir) in data::fixtures() {
        for (method, bits) in [("rtn", 4), ("gptq", 2), ("gptq", 3), ("gptq", 4), ("gptq", 8)] {
            let out = tempfile::tempdir().unwrap();
            let recipe = format!(
                "[calibration]\nsequences = 4\nlength = 16\n[[stage]]\n[stage.{method}]\nbits = {bits}\ngroup_size = 32\n\
                 [evaluate]\nwindow = 16\nmax_windows = 2\n"
            );
            let report = run(&recipe, &dir, out.path());
            let packed = runtime::open(out.path(), None).unwrap();
            let ids: Vec<u32> = (3..43).map(|i| i * 7 % 90).collect();
            let difference = greatest_difference(&packed, &ids);
            assert!(difference <= 1e-3, "{name}, {method} {bits} bits: {difference}");
            assert!(report.max_read_back_difference <= 1e-3, "{name}: {}", report.max_read_back_difference);
            greatest = greatest.max(difference);
        }
    }
    println!("greatest difference over all fixtures: {greatest:.1e}");
}

/// GPTQ's layers are closer to the original than rounding's, on every fixture.
#[test]
fn gptq_lowers_the_error_of_layers() {
    for (name, dir) in data::fixtures() {
        let errors = ["rtn", "gptq"].map(|method| {
            let out = tempfile::tempdir().unwrap();
            let recipe = format!(
                "[calibration]\nsequences = 16\nlength = 32\n[[stage]]\n[stage.{method}]\nbits = 4\ngroup_size = 32\n\
                 [evaluate]\nwindow = 16\nmax_windows = 2\n"
            );
            let layers = run(&recipe, &dir, out.path()).stages.remove(0).layers;
            let inner: Vec<f64> = layers.iter().filter(|l| l.name.starts_with("blocks.")).map(|l| l.relative_error).collect();
            inner.iter().sum::<f64>() / inner.len() as f64
        });
        println!("{name}: mean relative error {:.4} by rounding, {:.4} by GPTQ", errors[0], errors[1]);
        assert!(errors[1] < errors[0], "{name}: {errors:?}");
    }
}

/// A real model by the default recipe: the file agrees with libtorch, and int8
/// activations cost next to nothing.
#[test]
fn house_runs_packed_as_it_was_solved() {
    let Some(data) = data::shared("house_runs_packed_as_it_was_solved") else { return };
    let out = tempfile::tempdir().unwrap();
    let text = |name: &str| data.join("text/tinystories").join(name);
    let recipe = format!(
        "[calibration]\ntext = '{}'\nsequences = 16\nlength = 256\n[[stage]]\n[stage.gptq]\nbits = 4\ngroup_size = 64\n\
         [evaluate]\ntext = '{}'\nprotocol = 'bos'\nmax_windows = 4\n",
        text("calib.txt").display(),
        text("valid.txt").display()
    );
    let report = run(&recipe, &data.join("models/house-6m"), out.path());
    assert!(report.after.perplexity / report.before.perplexity < 1.03, "{report:?}");
    assert!((4.9..5.3).contains(&report.footprint.bits_per_weight), "{}", report.footprint.bits_per_weight);

    let packed = runtime::open(out.path(), None).unwrap();
    let ids = packed.tokenizer().unwrap().encode(&std::fs::read_to_string(text("valid.txt")).unwrap()).unwrap();
    let difference = greatest_difference(&packed, &ids[..512]);
    let windows = windows(&ids, packed.spec(), Protocol::Plain, 512, Some(4)).unwrap();
    let mut solved = TorchLogits::new(packed.store.clone(), Compute::CPU);
    let mut shipped = native(&packed, Activations::Int8);
    let kl = evaluate(&mut shipped, Some(&mut solved), &windows, (Protocol::Plain, 512), &Silent).unwrap().model.divergence.unwrap();
    println!("logits differ by {difference:.1e}; int8 activations: mean KL {:.1e} nats, agreement {:.4}", kl.kl_mean, kl.top1_agreement);
    assert!(difference <= 1e-3, "{difference}");
    assert!(kl.kl_mean <= 2e-3, "{kl:?}");
}

/// The same run gives the same bytes.
#[test]
fn runs_are_repeatable() {
    let recipe = "[calibration]\nsequences = 4\nlength = 16\n[[stage]]\n[stage.gptq]\n[evaluate]\nwindow = 16\nmax_windows = 2\n";
    let files = [(); 2].map(|()| {
        let out = tempfile::tempdir().unwrap();
        run(recipe, &data::fixture("llama-gqa-tied"), out.path());
        std::fs::read(out.path().join("model.thimble")).unwrap()
    });
    assert!(files[0] == files[1]);
}
