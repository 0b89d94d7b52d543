//! Peak anonymous memory of `compress` follows the block, not the model: models that differ only
//! in depth need about the same. Each run is a process of its own, which measures itself.
#![cfg(feature = "torch")]

#[path = "common/binary.rs"]
mod binary;
#[path = "../benches/common/random_llama.rs"]
mod random_llama;

use random_llama::Shape;
use serde_json::Value;
use std::path::Path;

/// A block is 0.8 million weights, 3.1 MB in f32: 28 of them are 88 MB, more than a shallow model
/// takes in all.
const SHAPE: Shape = Shape { hidden: 256, ffn: 768, heads: 4, kv_heads: 2, vocab: 256, layers: 0 };
const SHALLOW: usize = 4;
const DEEP: usize = 32;
/// The deeper model may take this much more.
const GROWTH: f64 = 1.25;

/// Names and stages.
const STAGES: [(&str, &str); 6] = [
    ("rtn", "[stage.rtn]\nbits = 4\ngroup_size = 64"),
    ("gptq", "[stage.gptq]\nbits = 4\ngroup_size = 64"),
    ("awq", "[stage.awq]\nbits = 4\ngroup_size = 64\npoints = 4"),
    ("ternary", "[stage.ternary]\nrounds = 1"),
    ("prune_depth", "[stage.prune_depth]\nlayers = 1"),
    ("prune_width", "[stage.prune_width]\nratio = 0.25"),
];

#[test]
fn memory_follows_the_block() {
    let work = tempfile::tempdir().unwrap();
    let models = [SHALLOW, DEEP].map(|layers| {
        let model = work.path().join(format!("model-{layers}"));
        std::fs::create_dir(&model).unwrap();
        random_llama::write(&model, &Shape { layers, ..SHAPE });
        model
    });
    let mut missed = Vec::new();
    for (name, stage) in STAGES {
        let recipe = work.path().join(format!("{name}.toml"));
        let text = format!("[calibration]\nsequences = 2\nlength = 16\n[[stage]]\n{stage}\n[evaluate]\nwindow = 16\nmax_windows = 1\n");
        std::fs::write(&recipe, text).unwrap();
        let peaks = models.each_ref().map(|model| peak(&recipe, model, &work.path().join("out")));
        let growth = peaks[1] as f64 / peaks[0] as f64;
        println!("{name}: {:.0} MB with {SHALLOW} blocks, {:.0} MB with {DEEP}", peaks[0] as f64 / 1e6, peaks[1] as f64 / 1e6);
        assert!(peaks[0] > 10 << 20, "{name}: {} bytes are less than libtorch takes: nothing was measured", peaks[0]);
        if growth > GROWTH {
            missed.push(format!("{name} grows by {:.0} %", 100.0 * (growth - 1.0)));
        }
    }
    assert!(missed.is_empty(), "peak memory from {SHALLOW} to {DEEP} blocks: {}", missed.join(", "));
}

/// Peak of anonymous memory in bytes.
fn peak(recipe: &Path, model: &Path, out: &Path) -> u64 {
    let paths = [recipe, model, out].map(|path| path.to_str().unwrap());
    let output = binary::run(["compress", "--json", paths[0], "--model", paths[1], "--out", paths[2], "--fresh"]);
    let report: Value = serde_json::from_str(&binary::done(&output)).unwrap();
    std::fs::remove_dir_all(out).unwrap();
    report["peak_memory_bytes"].as_u64().unwrap()
}
