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
