//! The commands as programs see them: one JSON object each, with the keys that
//! the contract names.

#[path = "common/data.rs"]
mod data;

use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;

fn demo_model() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/demo/model")
}

fn held_out() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/demo/held-out.txt")
}

/// Runs a command with `--json`; its only output is one object.
fn json(args: &[&str]) -> Value {
    let done = Command::new(env!("CARGO_BIN_EXE_thimble")).args(args).arg("--json").output().unwrap();
    assert!(done.status.success(), "{args:?}: {}", String::from_utf8_lossy(&done.stderr));
    let text = String::from_utf8(done.stdout).unwrap();
    assert_eq!(text.lines().count(), 1, "{text}");
    serde_json::from_str(&text).unwrap()
}

fn has_numbers(object: &Value, keys: &[&str]) {
    for key in keys {
        assert!(object[key].is_number(), "{key} in {object}");
    }
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn eval_reports_perplexity_and_divergence() {
    let (model, text) = (demo_model(), held_out());
    let args = ["eval", path(&model), "--text", path(&text), "--max-windows", "2", "--window", "64"];
    let alone = json(&args);
    has_numbers(&alone, &["perplexity", "loss", "tokens", "windows", "window", "size_bytes", "bits_per_weight", "bits_per_weight_linear"]);
    assert_eq!((alone["protocol"].as_str(), alone["tokens"].as_u64()), (Some("plain"), Some(126)));
    assert!(alone.get("kl_mean").is_none(), "no divergence without a reference");
    assert_eq!(alone["bits_per_weight"], 16.0);
    assert_eq!((alone["backend"].as_str(), alone["activations"].as_str()), (Some("native"), Some("int8")));
    let against_itself = json(&[&args[..], &["--reference", path(&model)]].concat());
    assert_eq!((against_itself["kl_max"].as_f64(), against_itself["top1_agreement"].as_f64()), (Some(0.0), Some(1.0)));
    has_numbers(&against_itself, &["kl_mean", "kl_p99"]);
}

/// What would change nothing is refused.
#[test]
fn options_without_effect_are_refused() {
    let (model, text) = (demo_model(), held_out());
    let mut cases = vec![(vec!["--tasks", path(&text), "--window", "64"], "--text")];
    if cfg!(feature = "torch") {
        cases.push((vec!["--text", path(&text), "--dtype", "bf16"], "--dtype is libtorch's"));
        cases.push((vec!["--text", path(&text), "--device", "cpu"], "--device is libtorch's"));
        cases.push((vec!["--text", path(&text), "--backend", "torch", "--activations", "int8"], "--activations is the native runtime's"));
    }
    for (args, says) in cases {
        let done = Command::new(env!("CARGO_BIN_EXE_thimble")).args(["eval", path(&model)]).args(&args).output().unwrap();
        let error = String::from_utf8_lossy(&done.stderr).into_owned();
        assert!(done.status.code() == Some(2) && error.contains(says), "{args:?}: {error}");
    }
}

/// In a build without CUDA, a GPU is refused before anything is computed.
#[cfg(all(feature = "torch", not(feature = "cuda")))]
#[test]
fn devices_of_libtorch() {
    let (model, text) = (demo_model(), held_out());
    let args = ["eval", path(&model), "--text", path(&text), "--max-windows", "1", "--window", "64", "--backend", "torch"];
    let report = json(&[&args[..], &["--device", "cpu"]].concat());
    assert_eq!([&report["backend"], &report["dtype"], &report["device"]], ["torch", "f32", "cpu"]);
    let done = Command::new(env!("CARGO_BIN_EXE_thimble")).args(args).args(["--device", "cuda"]).output().unwrap();
    let error = String::from_utf8_lossy(&done.stderr).into_owned();
    assert!(done.status.code() == Some(4) && error.contains("make cuda-binary"), "{error}");
}

/// Three ways of counting: how many tokens each scores.
#[test]
fn protocols_score_what_the_contract_says() {
    let (model, text) = (demo_model(), held_out());
    for (protocol, scored) in [("plain", 63), ("bos", 63), ("llamacpp", 31)] {
        let report = json(&["eval", path(&model), "--text", path(&text), "--max-windows", "3", "--window", "64", "--protocol", protocol]);
        assert_eq!((report["tokens"].as_u64(), report["windows"].as_u64()), (Some(3 * scored), Some(3)), "{protocol}");
    }
}

#[test]
fn run_continues_a_prompt() {
    let model = demo_model();
    let args = ["run", path(&model), "--prompt", "Once upon a time", "--max-tokens", "12"];
    let greedy = json(&[&args[..], &["--temperature", "0"]].concat());
    assert_eq!(greedy["prompt_ids"], serde_json::json!([1, 694, 580, 261, 481]));
    assert_eq!(greedy["text"], ", there was a little girl named Lily. She loved to");
    assert_eq!(greedy["ids"].as_array().unwrap().len(), 12);
    has_numbers(&greedy, &["tokens_per_s"]);
    let [a, b, c] = ["3", "3", "4"].map(|seed| json(&[&args[..], &["--seed", seed]].concat())["ids"].clone());
    assert!(a == b && a != c, "a seed repeats its text, another does not: {a} {b} {c}");
    let bare = json(&[&args[..], &["--no-bos"]].concat());
    assert_eq!(bare["prompt_ids"], serde_json::json!([694, 580, 261, 481]));
}

/// Without --json the same text goes to standard output, prompt included.
#[test]
fn run_streams_text() {
    let model = demo_model();
    let args = ["run", path(&model), "--prompt", "Once upon a time", "--max-tokens", "12", "--temperature", "0"];
    let done = Command::new(env!("CARGO_BIN_EXE_thimble")).args(args).output().unwrap();
    assert_eq!(String::from_utf8(done.stdout).unwrap(), "Once upon a time, there was a little girl named Lily. She loved to\n");
}

#[test]
fn bench_reports_speed_and_memory() {
    let model = demo_model();
    let report = json(&["bench", path(&model), "--prompt-tokens", "8", "--gen-tokens", "4", "--repeat", "2", "--threads", "1"]);
    let keys = ["prefill_tokens_per_s", "decode_tokens_per_s", "model_bytes", "bytes_per_token", "read_bandwidth_bytes_per_s", "load_ms"];
    has_numbers(&report, &keys);
    assert!(report["isa"].is_string() && report.get("peak_memory_bytes").is_some());
    assert_eq!((report["threads"].as_u64(), report["bytes_per_token"].as_u64()), (Some(1), Some(2 * 5_770_496)));
}

/// A model of 64 positions has no room for what is usual: it is said what was measured.
#[test]
fn bench_says_over_how_many_tokens() {
    let fixture = data::fixture("gpt2-unscaled");
    let bench = |more: &[&str]| {
        let args = [&["bench", path(&fixture), "--repeat", "1", "--threads", "1", "--json"], more].concat();
        let done = Command::new(env!("CARGO_BIN_EXE_thimble")).args(args).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        let report: Value = serde_json::from_slice(&done.stdout).unwrap();
        let tokens = ["prompt_tokens", "gen_tokens"].map(|key| report[key].as_u64().unwrap());
        (tokens, String::from_utf8(done.stderr).unwrap())
    };
    let (tokens, warned) = bench(&[]);
    assert_eq!(tokens, [48, 16]);
    assert!(warned.contains("48 tokens of a prompt and 16 generated ones, instead of 512 and 128: the model has 64 positions"), "{warned}");
    let (tokens, warned) = bench(&["--prompt-tokens", "50"]);
    assert_eq!(tokens, [50, 14]);
    assert!(warned.contains("instead of 50 and 128"), "{warned}");
    // What was asked for needs no word, nor does short work: standard error is no terminal here.
    assert_eq!(bench(&["--prompt-tokens", "50", "--gen-tokens", "8"]), ([50, 8], String::new()));
}

#[test]
fn inspect_shows_what_a_model_is() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/golden.thimble");
    let report = json(&["inspect", path(&golden), "--tensors"]);
    assert_eq!((report["family"].as_str(), report["spec"]["vocab_size"].as_u64()), (Some("llama"), Some(96)));
    assert_eq!(report["schemes"]["blocks.0.attn.q"]["code"], "int2");
    assert_eq!(report["recipe"], serde_json::json!({ "golden": true }));
    has_numbers(&report, &["parameters", "bits_per_weight"]);
    assert!(report.get("quality").is_some() && report["tensors"].is_array());
    // Whatever packed weights lie in.
    let bitnet = json(&["inspect", path(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/bitnet/bitlinear"))]);
    assert_eq!(bitnet["schemes"]["blocks.0.attn.q"]["code"], "ternary");
    let dense = json(&["inspect", path(&demo_model())]);
    assert_eq!((dense["parameters"].as_u64(), dense["schemes"].as_object().unwrap().len()), (Some(5_770_496), 0));
}

/// Needs no tokenizer, and tells the ids it was asked for.
#[test]
fn logits_are_written_as_safetensors() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("logits.safetensors");
    let fixture = data::fixture("llama-gqa-tied");
    let done = Command::new(env!("CARGO_BIN_EXE_thimble"))
        .args(["logits", path(&fixture), "--ids", "1,5,9", "--out", path(&out)])
        .status()
        .unwrap();
    assert!(done.success());
    let bytes = std::fs::read(out).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let logits = file.tensor("logits").unwrap();
    assert_eq!((logits.shape(), logits.dtype()), (&[3, 96][..], safetensors::Dtype::F32));
}

/// llama2.c's file, its tokenizer found beside it or named.
#[test]
fn llama2c_tokenizers_are_found_or_named() {
    let Some(data) = data::shared("llama2c_tokenizers_are_found_or_named") else { return };
    let source = data.join("models/stories260K");
    let dir = tempfile::tempdir().unwrap();
    let model = dir.path().join("model.bin");
    std::fs::copy(source.join("stories260K.bin"), &model).unwrap();
    let args = ["run", path(&model), "--prompt", "Once upon a time", "--max-tokens", "4", "--temperature", "0"];
    let without = Command::new(env!("CARGO_BIN_EXE_thimble")).args(args).output().unwrap();
    assert_eq!(without.status.code(), Some(3));
    assert!(String::from_utf8(without.stderr).unwrap().contains("--tokenizer"));
    let named = json(&[&args[..], &["--tokenizer", path(&source.join("tok512.bin"))]].concat());
    std::fs::copy(source.join("tok512.bin"), dir.path().join("tok512.bin")).unwrap();
    let found = json(&args);
    assert_eq!(named["ids"], serde_json::json!([432, 383, 286, 261]));
    assert_eq!((&found["ids"], &found["text"]), (&named["ids"], &named["text"]));
}

#[test]
fn help_has_examples() {
    for command in ["compress", "eval", "logits", "run", "bench", "inspect", "verify"] {
        let help = Command::new(env!("CARGO_BIN_EXE_thimble")).args([command, "--help"]).output().unwrap();
        let text = String::from_utf8(help.stdout).unwrap();
        assert!(text.contains("Examples:") && text.contains(&format!("thimble {command}")), "{command}: {text}");
    }
}
