//! Hashes of the native file: computed anew here from the bytes by the format's own reader and
//! the blake3 crate; any damage is found when a file is opened and named by `thimble verify`.

#[path = "common/binary.rs"]
mod binary;
#[path = "common/damage.rs"]
mod damage;
#[path = "common/data.rs"]
mod data;

use binary::{BAD_INPUT, command, demo, done, refused, stderr};
use damage::{copy_of, edit_bytes, edit_tensors};
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};
use std::process::Output;
use thimble::quant::native::{self, NativeFile, Notes};
use thimble::random::Random;
use thimble::runtime;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
}

/// A golden file in a folder of its own.
fn copied(name: &str) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.thimble");
    std::fs::copy(golden(name), &path).unwrap();
    (dir, path)
}

fn verify(path: &Path) -> (Option<i32>, Value) {
    let output = command(["verify", "--json"]).arg(path).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    (output.status.code(), serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}")))
}

/// The hashes by their definition, from what the safetensors crate reads.
#[test]
fn hashes_are_those_of_the_bytes() {
    let bytes = std::fs::read(golden("golden.thimble")).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    let mut metadata: std::collections::BTreeMap<_, _> = header.metadata().clone().unwrap().into_iter().collect();
    let stored: Map<String, Value> = serde_json::from_str(&metadata.remove("thimble.hashes").unwrap()).unwrap();
    let hash = |bytes: &[u8]| Value::from(blake3::hash(bytes).to_hex().to_string());
    let mut names: Vec<_> = file.names().into_iter().collect();
    names.sort();
    let mut header: Vec<Value> = metadata.iter().map(|(key, text)| json!([key, text])).collect();
    for name in &names {
        let tensor = file.tensor(name).unwrap();
        assert_eq!(stored[*name], hash(tensor.data()), "{name}");
        header.push(json!([name, tensor.dtype().to_string(), tensor.shape()]));
    }
    assert_eq!(stored["__metadata__"], hash(Value::Array(header).to_string().as_bytes()));
    assert_eq!(stored.len(), names.len() + 1);
}

#[test]
fn a_sound_file_is_verified_with_what_was_measured() {
    let (code, report) = verify(&golden("golden.thimble"));
    assert_eq!((code, &report["ok"], &report["tensors"], &report["hashed"]), (Some(0), &json!(true), &json!([]), &json!(true)));
    assert!(report.as_object().unwrap().contains_key("quality"));
    // Files of an earlier version.
    let old = golden("golden-without-hashes.thimble");
    let (code, report) = verify(&old);
    assert_eq!((code, &report["ok"], &report["hashed"]), (Some(0), &json!(true), &json!(false)));
    done(&command(["inspect"]).arg(&old).output().unwrap());
}

#[test]
fn each_damaged_tensor_is_named() {
    let (_dir, path) = copied("golden.thimble");
    for name in
        ["blocks.0.attn.q.codes", "embeddings.scales", "blocks.0.ffn.down.zeros", "blocks.0.attn.q.perm", "final_norm.dense", "tokenizer"]
    {
        std::fs::copy(golden("golden.thimble"), &path).unwrap();
        let offset = {
            let bytes = std::fs::read(&path).unwrap();
            let (length, header) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
            8 + length + header.info(name).unwrap_or_else(|| panic!("{name}")).data_offsets.0
        };
        // Two entries of the permutation change places, so that only the hash can tell.
        edit_bytes(&path, |bytes| match name.ends_with("perm") {
            true => bytes[offset..offset + 8].rotate_left(4),
            false => bytes[offset] ^= 1,
        });
        let (code, report) = verify(&path);
        assert_eq!((code, &report["ok"], &report["tensors"]), (Some(BAD_INPUT), &json!(false), &json!([name])), "{report}");
        let out = path.with_file_name("logits");
        refused(&run_logits(&path, &out), BAD_INPUT, &["model.thimble", "damaged", name]);
        assert!(!out.exists());
    }
}

fn run_logits(model: &Path, out: &Path) -> Output {
    command(["logits"]).arg(model).args(["--ids", "1,2,3", "--out"]).arg(out).output().unwrap()
}

/// Numbers of the header that change what weights mean, and nothing that is checked: the base of
/// the rotary embedding, an epsilon.
#[test]
fn a_damaged_header_is_found() {
    let (_dir, path) = copied("golden.thimble");
    let sound = std::fs::read(&path).unwrap();
    let theta = sound.windows(7).position(|text| text == b"theta\\\"").unwrap() + 8;
    edit_bytes(&path, |bytes| bytes[theta] = if bytes[theta] == b'9' { b'8' } else { b'9' });
    let (code, report) = verify(&path);
    assert_eq!((code, &report["tensors"]), (Some(BAD_INPUT), &json!(["__metadata__"])), "{report}");
    refused(&run_logits(&path, &path.with_file_name("logits")), BAD_INPUT, &["damaged", "metadata"]);
}

/// Any bit, anywhere: the file is refused, or the bit is of no meaning (padding of the header).
#[test]
fn no_flipped_bit_is_passed_over() {
    let sound = std::fs::read(golden("golden-books.thimble")).unwrap();
    let random = Random::new(12, 1);
    let path = Path::new("flipped.thimble");
    let mut found = 0;
    for i in 0..2000 {
        let mut bytes = sound.clone();
        let bit = random.below(8 * bytes.len() as u64, i) as usize;
        bytes[bit / 8] ^= 1 << (bit % 8);
        let opened = NativeFile::from_bytes(thimble::checkpoint::Bytes::from_vec(bytes), path);
        // `opened` may fail, `damaged` may find it, and what has lost its hashes is not checked.
        match opened.map(|file| file.damaged().unwrap()) {
            Err(_) => found += 1,
            Ok(Some(names)) => {
                assert!(!names.is_empty(), "bit {bit} was passed over");
                found += 1;
            }
            // Only a flip in the 14 letters of the key takes the hashes away.
            Ok(None) => assert!(sound[..bit / 8 + 14].windows(14).rev().take(28).any(|text| text == b"thimble.hashes"), "bit {bit}"),
        }
    }
    assert!(found > 1990, "{found}");
}

/// Written again, the bytes are the same.
#[test]
fn hashes_do_not_depend_on_the_run() {
    let dir = tempfile::tempdir().unwrap();
    let model = runtime::open_weights(&golden("golden.thimble")).unwrap();
    let [a, b] = ["a", "b"].map(|name| {
        let path = dir.path().join(name);
        native::write_model(&path, &*model.store, None, &Notes::default()).unwrap();
        std::fs::read(path).unwrap()
    });
    assert!(a == b);
}

/// A directory of transformers: whether all weights are there and finite.
#[test]
fn directories_are_read_to_the_end() {
    let (_dir, model) = copy_of("llama-gqa-tied");
    let (code, report) = verify(&model);
    assert_eq!((code, &report["ok"], &report["hashed"]), (Some(0), &json!(true), &json!(false)));
    let weights = model.join("model.safetensors");
    let name = "model.layers.1.mlp.up_proj.weight";
    let sound = std::fs::read(&weights).unwrap();
    edit_tensors(&weights, |tensors| tensors.put(name, 7, &f32::NAN.to_le_bytes()));
    let (code, report) = verify(&model);
    assert_eq!((code, &report["ok"]), (Some(BAD_INPUT), &json!(false)));
    assert!(report["problems"][0].as_str().unwrap().contains(name), "{report}");
    std::fs::write(&weights, &sound).unwrap();
    edit_tensors(&weights, |tensors| tensors.remove(name));
    let (code, report) = verify(&model);
    assert!(code == Some(BAD_INPUT) && report["problems"][0].as_str().unwrap().contains(name), "{report}");
    std::fs::write(&weights, &sound[..sound.len() - 5]).unwrap();
    let (code, report) = verify(&model);
    assert!(code == Some(BAD_INPUT) && report["problems"][0].as_str().unwrap().contains("truncated"), "{report}");
    let output = command(["verify"]).arg(demo("model")).output().unwrap();
    assert!(done(&output).contains("ok"), "{}", stderr(&output));
}

/// Weights that are sound and a sum that is not: no command prints `inf`, `NaN` or `null`.
#[test]
fn results_that_are_not_finite_are_errors() {
    let (_dir, model) = damage::copy_with_tokenizer("llama-gqa-tied");
    edit_tensors(&model.join("model.safetensors"), |tensors| {
        for value in tensors.bytes("model.norm.weight").chunks_exact_mut(4) {
            value.copy_from_slice(&3e38f32.to_le_bytes());
        }
    });
    let text = damage::file(model.join("text"), damage::text(200));
    let tasks = damage::file(model.join("task.jsonl"), r#"{"query": "w5 w6", "choices": ["w7", "w8"], "gold": 0}"#);
    let out = model.join("logits.safetensors");
    let with = |args: &[&str], rest: &[&Path]| {
        let mut command = command(&args[..1]);
        command.arg(&model).args(&args[1..]).args(rest);
        command.output().unwrap()
    };
    let cases = [
        with(&["eval", "--window", "32", "--text"], &[&text]),
        with(&["eval", "--window", "32", "--json", "--text"], &[&text]),
        with(&["eval", "--json", "--tasks"], &[&tasks]),
        with(&["run", "--prompt", "w5", "--json"], &[]),
        with(&["run", "--prompt", "w5", "--temperature", "0"], &[]),
        with(&["logits", "--ids", "1,2,3", "--out"], &[&out]),
    ];
    for output in &cases {
        refused(output, BAD_INPUT, &["not finite"]);
        let printed = String::from_utf8_lossy(&output.stdout);
        assert!(!["inf", "NaN", "null", "\u{fffd}"].iter().any(|word| printed.contains(word)), "{printed}");
    }
    assert!(!out.exists());
}

/// Logits of 10^30 are finite, and their perplexity is not.
#[test]
fn a_loss_of_thirty_digits_is_an_error() {
    let (_dir, model) = damage::copy_with_tokenizer("llama-gqa-tied");
    edit_tensors(&model.join("model.safetensors"), |tensors| {
        for value in tensors.bytes("model.norm.weight").chunks_exact_mut(4) {
            value.copy_from_slice(&1e30f32.to_le_bytes());
        }
    });
    let text = damage::file(model.join("text"), damage::text(200));
    let output = command(["eval"]).arg(&model).args(["--window", "32", "--json", "--text"]).arg(&text).output().unwrap();
    refused(&output, BAD_INPUT, &["perplexity", "not finite"]);
    assert!(output.stdout.is_empty());
}
