//! Peak memory of compressing follows the block, not the model: two random
//! checkpoints that differ only in depth. `make bench-memory` prints the figures
//! and writes `benches/memory.md`.

#[path = "common/process.rs"]
mod process;
#[path = "common/random_llama.rs"]
mod random_llama;

use random_llama::Shape;
use serde_json::json;
use std::path::Path;
use std::process::Command;

const SHAPE: Shape = Shape { hidden: 1024, ffn: 4096, heads: 16, kv_heads: 8, vocab: 512, layers: 0 };
const DEPTHS: [usize; 2] = [4, 16];

const RECIPE: &str =
    "[calibration]\nsequences = 8\nlength = 128\n[[stage]]\n[stage.gptq]\nbits = 4\n[evaluate]\nwindow = 128\nmax_windows = 2\n";

fn main() {
    let work = tempfile::tempdir().unwrap();
    let recipe = work.path().join("recipe.toml");
    std::fs::write(&recipe, RECIPE).unwrap();
    let mut rows = Vec::new();
    for layers in DEPTHS {
        let model = work.path().join(format!("model-{layers}"));
        std::fs::create_dir(&model).unwrap();
        random_llama::write(&model, &Shape { layers, ..SHAPE });
        let out = work.path().join(format!("out-{layers}"));
        // A process of its own, so that nothing of the other run counts.
        let mut run = Command::new(env!("CARGO_BIN_EXE_thimble"));
        run.args(["compress", "--json"]).arg(&recipe).arg("--model").arg(&model).arg("--out").arg(&out);
        let report = process::said(run);
        let weights = std::fs::metadata(model.join("model.safetensors")).unwrap().len();
        rows.push((layers, weights, report["peak_memory_bytes"].as_u64().unwrap(), report["seconds"].as_f64().unwrap()));
        std::fs::remove_dir_all(model).unwrap();
    }
    let growth = rows[1].2 as f64 / rows[0].2 as f64 - 1.0;
    let verdict = if growth < 0.25 { "met" } else { "missed" };
    let lines: String = rows
        .iter()
        .map(|(layers, weights, peak, seconds)| {
            format!("| {layers} | {:.0} MB | {:.0} MB | {seconds:.0} s |\n", *weights as f64 / 1e6, *peak as f64 / 1e6)
        })
        .collect();
    let page = format!(
        "# Memory of compressing\n\n`make bench-memory`\n\nRandom Llamas, {} wide, feed-forward {}, bf16; GPTQ at 4 bits on 8 sequences of 128 tokens.\n\n\
         | blocks | weights | peak of anonymous memory | time |\n|---|---|---|---|\n{lines}\n\
         From {} to {} blocks the peak grows by {:.1} %; the target is less than 25 %: {verdict}.\n",
        SHAPE.hidden,
        SHAPE.ffn,
        DEPTHS[0],
        DEPTHS[1],
        100.0 * growth
    );
    print!("{page}");
    std::fs::write(Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/memory.md"), page).unwrap();
    println!("{}", json!({ "peaks": rows.iter().map(|r| r.2).collect::<Vec<_>>(), "growth": growth, "target": 0.25, "verdict": verdict }));
}
