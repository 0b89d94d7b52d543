//! Peak memory of compressing follows the block, not the model: two random
//! checkpoints that differ only in depth. `make bench-memory` prints the figures
//! and writes `benches/memory.md`.

use serde_json::json;
use std::path::Path;
use std::process::Command;
use thimble::random::Random;

const HIDDEN: usize = 1024;
const FFN: usize = 4096;
const VOCAB: usize = 512;
const DEPTHS: [usize; 2] = [4, 16];

/// A random Llama in bf16, its norms in the weights' format too.
fn write_checkpoint(dir: &Path, layers: usize) {
    let config = json!({
        "model_type": "llama", "vocab_size": VOCAB, "hidden_size": HIDDEN, "intermediate_size": FFN, "num_hidden_layers": layers,
        "num_attention_heads": 16, "num_key_value_heads": 8, "max_position_embeddings": 512, "rms_norm_eps": 1e-5,
        "tie_word_embeddings": true, "bos_token_id": 1, "eos_token_id": 2,
    });
    std::fs::write(dir.join("config.json"), config.to_string()).unwrap();
    let mut tensors: Vec<(String, Vec<usize>)> =
        vec![("model.embed_tokens.weight".into(), vec![VOCAB, HIDDEN]), ("model.norm.weight".into(), vec![HIDDEN])];
    for i in 0..layers {
        let shapes: [(&str, Vec<usize>); 9] = [
            ("input_layernorm", vec![HIDDEN]),
            ("self_attn.q_proj", vec![HIDDEN, HIDDEN]),
            ("self_attn.k_proj", vec![HIDDEN / 2, HIDDEN]),
            ("self_attn.v_proj", vec![HIDDEN / 2, HIDDEN]),
            ("self_attn.o_proj", vec![HIDDEN, HIDDEN]),
            ("post_attention_layernorm", vec![HIDDEN]),
            ("mlp.gate_proj", vec![FFN, HIDDEN]),
            ("mlp.up_proj", vec![FFN, HIDDEN]),
            ("mlp.down_proj", vec![HIDDEN, FFN]),
        ];
        tensors.extend(shapes.map(|(name, shape)| (format!("model.layers.{i}.{name}.weight"), shape)));
    }
    let numbers = |(stream, (_, shape)): (usize, &(String, Vec<usize>))| -> Vec<u8> {
        let random = Random::new(0, stream as u64);
        let number = |i: usize| if shape.len() == 1 { 1.0 } else { (random.uniform(i as u64) as f32 - 0.5) * 0.07 };
        (0..shape.iter().product()).flat_map(|i| half::bf16::from_f32(number(i)).to_le_bytes()).collect()
    };
    let bytes: Vec<_> = tensors.iter().enumerate().map(numbers).collect();
    let views = tensors.iter().zip(&bytes).map(|((name, shape), bytes)| {
        (name.as_str(), safetensors::tensor::TensorView::new(safetensors::Dtype::BF16, shape.clone(), bytes).unwrap())
    });
    safetensors::serialize_to_file(views, None, &dir.join("model.safetensors")).unwrap();
}

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
        write_checkpoint(&model, layers);
        let out = work.path().join(format!("out-{layers}"));
        // A process of its own, so that nothing of the other run counts.
        let run = Command::new(env!("CARGO_BIN_EXE_thimble"))
            .args(["compress", "--json"])
            .arg(&recipe)
            .arg("--model")
            .arg(&model)
            .arg("--out")
            .arg(&out)
            .output()
            .unwrap();
        assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
        let report: serde_json::Value = serde_json::from_slice(&run.stdout).unwrap();
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
        "# Memory of compressing\n\n`make bench-memory`\n\nRandom Llamas, {HIDDEN} wide, feed-forward {FFN}, bf16; GPTQ at 4 bits on 8 sequences of 128 tokens.\n\n\
         | blocks | weights | peak of anonymous memory | time |\n|---|---|---|---|\n{lines}\n\
         From {} to {} blocks the peak grows by {:.1} %; the target is less than 25 %: {verdict}.\n",
        DEPTHS[0],
        DEPTHS[1],
        100.0 * growth
    );
    print!("{page}");
    std::fs::write(Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/memory.md"), page).unwrap();
    println!("{}", json!({ "peaks": rows.iter().map(|r| r.2).collect::<Vec<_>>(), "growth": growth, "target": 0.25, "verdict": verdict }));
}
