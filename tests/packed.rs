//! The packed model on the device against the fake-quantised model in libtorch.
#![cfg(feature = "torch")]

#[path = "common/data.rs"]
mod data;

#[path = "common/compress.rs"]
mod compress;

use compress::{greatest_difference, native, run};
use thimble::compress::{Compute, TorchLogits};
use thimble::eval::{Protocol, evaluate, windows};
use thimble::progress::Silent;
use thimble::runtime::{self, Activations};

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
    let report = run(&recipe, &data.join("models/house-6m"), out.path()).unwrap();
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

/// Every data type, by rounding and by GPTQ, centred and not, over all that a model is
/// made of.
#[test]
fn every_data_type_runs_packed_as_it_was_solved() {
    let ids: Vec<u32> = (0..40).map(|i| (i * 37 + 5) % 90).collect();
    let check = |method: &str, keys: &str| {
        let recipe = format!(
            "[calibration]\nsequences = 4\nlength = 16\n[[stage]]\n[stage.{method}]\n{keys}\ngroup_size = 32\n\
             embeddings = {{ group_size = 32, {} }}\n[evaluate]\nwindow = 16\nmax_windows = 2\n",
            keys.replace('\n', ", ")
        );
        let out = tempfile::tempdir().unwrap();
        let report = run(&recipe, &data::fixture("llama-gqa-tied"), out.path()).unwrap();
        let difference = greatest_difference(&runtime::open(out.path(), None).unwrap(), &ids).max(report.max_read_back_difference);
        println!("{method}, {}: {difference:.1e}", keys.replace('\n', ", "));
        assert!(difference <= 1e-3, "{method}, {keys}: {difference}");
    };
    for bits in 3..=8 {
        for data_type in ["fp", "dynamic", "normal", "quantile"] {
            let keys = format!("bits = {bits}\ndata_type = '{data_type}'");
            check("rtn", &format!("{keys}\ncentred = true"));
            check("gptq", &keys);
        }
    }
}

/// The same on a real model, and int8 activations cost next to nothing where codebooks
/// are of whole numbers.
#[test]
fn house_runs_data_types_as_they_were_solved() {
    let Some(data) = data::shared("house_runs_data_types_as_they_were_solved") else { return };
    let text = std::fs::read_to_string(data.join("text/tinystories/valid.txt")).unwrap();
    for (method, keys, at_most) in [
        ("rtn", "data_type = 'nf4'", 1.03),
        ("gptq", "data_type = 'nf4'", 1.02),
        ("rtn", "data_type = 'e2m1'\ncentred = true", 1.03),
        ("rtn", "data_type = 'quantile'\nbits = 5", 1.02),
        ("gptq", "data_type = 'dynamic'\nbits = 6", 1.02),
    ] {
        let out = tempfile::tempdir().unwrap();
        let recipe = format!(
            "[calibration]\ntext = '{}'\nsequences = 8\nlength = 256\n[[stage]]\n[stage.{method}]\n{keys}\ngroup_size = 64\n\
             [evaluate]\ntext = '{}'\nprotocol = 'bos'\nmax_windows = 2\n",
            data.join("text/tinystories/calib.txt").display(),
            data.join("text/tinystories/valid.txt").display(),
        );
        let report = run(&recipe, &data.join("models/house-6m"), out.path()).unwrap();
        let increase = report.after.perplexity / report.before.perplexity;
        let packed = runtime::open(out.path(), None).unwrap();
        let ids = packed.tokenizer().unwrap().encode(&text).unwrap();
        let difference = greatest_difference(&packed, &ids[..256]);
        let windows = windows(&ids, packed.spec(), Protocol::Plain, 512, Some(2)).unwrap();
        let (mut plain, mut int8) = (native(&packed, Activations::F32), native(&packed, Activations::Int8));
        let kl = evaluate(&mut int8, Some(&mut plain), &windows, (Protocol::Plain, 512), &Silent).unwrap().model.divergence.unwrap();
        println!("{method}, {keys:?}: {difference:.1e}, perplexity × {increase:.4}, int8 activations {:.1e} nats", kl.kl_mean);
        assert!(difference <= 1e-3 && kl.kl_mean <= 2e-3, "{method}, {keys:?}: {difference}, {kl:?}");
        assert!(increase < at_most, "{method}, {keys:?}: {increase}");
    }
}

/// The same run gives the same bytes.
#[test]
fn runs_are_repeatable() {
    let recipe = "[calibration]\nsequences = 4\nlength = 16\n[[stage]]\n[stage.gptq]\n[evaluate]\nwindow = 16\nmax_windows = 2\n";
    let files = [(); 2].map(|()| {
        let out = tempfile::tempdir().unwrap();
        run(recipe, &data::fixture("llama-gqa-tied"), out.path()).unwrap();
        std::fs::read(out.path().join("model.thimble")).unwrap()
    });
    assert!(files[0] == files[1]);
}
