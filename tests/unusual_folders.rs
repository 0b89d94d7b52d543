//! Folders as people have them: the hub's cache, a clone without Git LFS, an unfinished
//! download, files of other names than usual, JSON that Python wrote.

#[path = "common/damage.rs"]
mod damage;
#[path = "common/data.rs"]
mod data;
#[path = "common/openings.rs"]
mod openings;

use damage::{copy_of, copy_with_tokenizer, edit_tensors, file, text};
use openings::{WEIGHTS, assert_close, expected, is_refused, opens_as_transformers, says, warns};
use std::path::Path;
use thimble::runtime;

const CONFIG: &str = "config.json";
const INDEX: &str = "model.safetensors.index.json";
const SHARDED: &str = "llama-sharded-bf16";
const MODEL: &str = "llama-untied-biases";
const QUERY: &str = "model.layers.1.self_attn.q_proj.weight";
const POINTER: &str = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 2471645608\n";

fn shard(number: usize) -> String {
    format!("model-{number:05}-of-00005.safetensors")
}

/// `thimble eval` of a model on a text.
fn eval(model: &Path, text: &Path) -> std::process::Output {
    let mut command = assert_cmd::Command::new(env!("CARGO_BIN_EXE_thimble"));
    command.args(["eval", "--window", "16", "--json"]).arg(model).arg("--text").arg(text).output().unwrap()
}

/// Every file that is read: weights, shards, PyTorch's, configuration, index, tokenizer, text.
#[test]
fn git_lfs_pointers_are_named() {
    let pointer = ["a Git LFS pointer", "git lfs pull", "2.47 GB are missing"];
    let (_sharded, sharded) = copy_of(SHARDED);
    let (_single, single) = copy_with_tokenizer(MODEL);
    for (folder, name) in [(&sharded, shard(3)), (&sharded, INDEX.to_owned()), (&single, WEIGHTS.to_owned()), (&single, CONFIG.to_owned())]
    {
        let path = folder.join(&name);
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, POINTER).unwrap();
        is_refused(&name, folder, &[&pointer[..], &[&name]].concat());
        std::fs::write(&path, whole).unwrap();
    }
    let (_bin, bin) = copy_of(MODEL);
    std::fs::remove_file(bin.join(WEIGHTS)).unwrap();
    std::fs::write(bin.join("pytorch_model.bin"), POINTER).unwrap();
    is_refused("bin", &bin, &[&pointer[..], &["pytorch_model.bin"]].concat());

    let corpus = file(single.with_file_name("corpus.txt"), text(400));
    assert!(eval(&single, &corpus).status.success());
    for (path, folder) in [(single.join("tokenizer.json"), &single), (corpus.clone(), &single)] {
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, POINTER).unwrap();
        let output = eval(folder, &corpus);
        says("a text", &output, &[&pointer[..], &[path.file_name().unwrap().to_str().unwrap()]].concat());
        assert_eq!(output.status.code(), Some(3));
        std::fs::write(&path, whole).unwrap();
    }
}

/// The hub's cache: the folder of a repository, a snapshot of links, a blob that is gone.
#[cfg(unix)]
#[test]
fn the_hubs_cache_is_opened() {
    let (dir, source) = copy_with_tokenizer(MODEL);
    let top = dir.path().join("hub/models--org--name");
    let snapshot = top.join("snapshots/0123abcd");
    for folder in [&snapshot, &top.join("blobs"), &top.join("refs")] {
        std::fs::create_dir_all(folder).unwrap();
    }
    std::fs::write(top.join("refs/main"), "0123abcd").unwrap();
    for (i, entry) in std::fs::read_dir(&source).unwrap().flatten().enumerate() {
        std::fs::copy(entry.path(), top.join(format!("blobs/b{i}"))).unwrap();
        std::os::unix::fs::symlink(format!("../../blobs/b{i}"), snapshot.join(entry.file_name())).unwrap();
    }
    opens_as_transformers("a snapshot", &snapshot);
    let model = runtime::open(&top, None).unwrap();
    assert!(model.path == snapshot && model.tokenizer.is_some(), "{}", model.path.display());

    std::fs::create_dir(top.join("snapshots/4567")).unwrap();
    opens_as_transformers("a snapshot", &runtime::open(&top, None).unwrap().path);
    std::fs::remove_file(top.join("refs/main")).unwrap();
    is_refused("two snapshots", &top, &["snapshots/0123abcd", "snapshots/4567"]);

    let blob = std::fs::read_link(snapshot.join(WEIGHTS)).unwrap();
    std::fs::remove_file(snapshot.join(&blob)).unwrap();
    let stderr = is_refused("a blob that is gone", &snapshot, &[WEIGHTS, &format!("links to {}, which is not there", blob.display())]);
    assert!(!stderr.contains("neither"), "{stderr}");
}

/// What a compressed model says of its source is the repository's name, and no hash. The
/// source may lie where nothing can be written.
#[cfg(all(unix, feature = "torch"))]
#[test]
fn a_snapshot_is_known_by_its_repository() {
    use std::os::unix::fs::PermissionsExt;
    let (dir, source) = copy_with_tokenizer(MODEL);
    let snapshot = dir.path().join("models--org--name/snapshots/0123abcd");
    std::fs::create_dir_all(snapshot.parent().unwrap()).unwrap();
    std::fs::rename(&source, &snapshot).unwrap();
    let permit = |mode| std::fs::set_permissions(&snapshot, std::fs::Permissions::from_mode(mode)).unwrap();
    permit(0o555);
    let recipe = file(dir.path().join("recipe.toml"), "[[stage]]\n[stage.rtn]\nbits = 8\ngroup_size = 32\n");
    let out = dir.path().join("small");
    let mut command = assert_cmd::Command::new(env!("CARGO_BIN_EXE_thimble"));
    let output = command.arg("compress").arg(recipe).arg("--model").arg(&snapshot).arg("--out").arg(&out).output().unwrap();
    permit(0o755);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let native = runtime::open(&out, None).unwrap();
    assert_eq!(native.notes.provenance["source"], "org/name");
}

/// A folder of checkpoints, and a file that is no model.
#[test]
fn folders_without_a_model_say_where_there_is_one() {
    let (dir, model) = copy_of(MODEL);
    for name in ["checkpoint-500", "checkpoint-1000"] {
        std::fs::create_dir(dir.path().join(name)).unwrap();
        std::fs::copy(model.join(CONFIG), dir.path().join(name).join(CONFIG)).unwrap();
    }
    is_refused("checkpoints", dir.path(), &["checkpoint-1000, checkpoint-500, model"]);
    is_refused("a configuration", &model.join(CONFIG), &["a JSON file", "name the folder"]);
}

/// A tensor of an earlier save in another shard: with other numbers, and of another model.
#[test]
fn the_index_decides_where_a_tensor_is_read() {
    for number in [1, 3, 5] {
        let (_dir, model) = copy_of(SHARDED);
        edit_tensors(&model.join(shard(number)), |tensors| {
            tensors.insert(QUERY, "BF16", &[36, 36], &[1; 2 * 36 * 36]);
            tensors.insert("vision.weight", "BF16", &[2], &[0; 4]);
        });
        opens_as_transformers("stale", &model);
        warns(
            "stale",
            &model,
            &["1 tensors lie in shards", QUERY, &format!("in {}, read from {}", shard(number), shard(2)), "vision.weight"],
        );
    }
}

/// transformers reads all shards, and so finds a tensor wherever it is.
#[test]
fn a_tensor_in_another_shard_than_the_index_says_is_found() {
    let (_dir, model) = copy_of(SHARDED);
    damage::edit_json(&model.join(INDEX), |index| index["weight_map"][QUERY] = shard(5).into());
    opens_as_transformers("elsewhere", &model);
    warns("elsewhere", &model, &[&format!("the index gives {} for {QUERY}", shard(5)), &format!("read from {}", shard(2))]);
}

/// What a download without a login leaves.
#[test]
fn web_pages_are_no_weights() {
    let (_dir, model) = copy_of(MODEL);
    for page in ["<!DOCTYPE html><html><head><title>Login</title></head></html>", "\n  <HTML></HTML>"] {
        std::fs::write(model.join(WEIGHTS), page).unwrap();
        is_refused(page, &model, &[WEIGHTS, "a web page"]);
    }
}

/// As transformers does: the index's names are relative to the folder. None may lead out of it.
#[test]
fn shards_may_lie_in_a_folder_below() {
    let (_dir, model) = copy_of(SHARDED);
    std::fs::create_dir(model.join("weights")).unwrap();
    for number in 1..=5 {
        std::fs::rename(model.join(shard(number)), model.join("weights").join(shard(number))).unwrap();
    }
    let index = std::fs::read_to_string(model.join(INDEX)).unwrap();
    std::fs::write(model.join(INDEX), index.replace("\"model-0000", "\"weights/model-0000")).unwrap();
    opens_as_transformers("below", &model);
    for outside in ["/weights/model-0000", "../model/weights/model-0000", "weights/../weights/model-0000", ".weights/model-0000"] {
        std::fs::write(model.join(INDEX), index.replace("\"model-0000", &format!("\"{outside}"))).unwrap();
        is_refused(outside, &model, &[INDEX, "no file in this folder or below it"]);
    }
}

/// transformers reads the first of `model.safetensors`, its index, and `pytorch_model.bin`.
#[test]
fn a_second_set_of_weights_is_warned_of() {
    let (_dir, model) = copy_of(MODEL);
    let (_other, sharded) = copy_of(SHARDED);
    std::fs::copy(sharded.join(INDEX), model.join(INDEX)).unwrap();
    opens_as_transformers("an index beside", &model);
    warns("an index beside", &model, &["model.safetensors is read", INDEX]);

    let (_dir, model) = copy_of(MODEL);
    let bin = file(model.join("pytorch_model.bin"), "of a later save");
    let output = openings::inspect(&model);
    assert!(output.status.success() && output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    let later = std::time::SystemTime::now() + std::time::Duration::from_secs(48 * 3600);
    std::fs::File::options().write(true).open(bin).unwrap().set_modified(later).unwrap();
    opens_as_transformers("a newer file", &model);
    warns("a newer file", &model, &["model.safetensors is read", "pytorch_model.bin is not"]);
}

#[test]
fn missing_shards_are_counted() {
    let (_dir, model) = copy_of(SHARDED);
    for number in [2, 4] {
        std::fs::remove_file(model.join(shard(number))).unwrap();
    }
    let missing = ["2 of its 5 shards are not there", &shard(2), &shard(4), "download"];
    is_refused("with an index", &model, &[&missing[..], &[INDEX]].concat());
    std::fs::remove_file(model.join(INDEX)).unwrap();
    is_refused("without an index", &model, &missing);
}

/// Names that transformers does not look for: the files are read where they can only be the
/// model's, and that is said.
#[test]
fn weights_of_other_names_are_read_where_they_are_plain() {
    let (_dir, model) = copy_of(SHARDED);
    std::fs::remove_file(model.join(INDEX)).unwrap();
    opens_as_transformers("shards without an index", &model);
    warns("shards without an index", &model, &["there is no model.safetensors.index.json", "all 5 shards"]);

    let (_dir, model) = copy_of(MODEL);
    let (ids, logits) = expected(&model);
    std::fs::remove_file(model.join("expected.safetensors")).unwrap();
    let other = model.join("pytorch_model.safetensors");
    std::fs::rename(model.join(WEIGHTS), &other).unwrap();
    assert_close("another name", &openings::logits(&runtime::open(&model, None).unwrap(), &ids), &logits);
    warns("another name", &model, &["there is no model.safetensors", "pytorch_model.safetensors, is read"]);
    std::fs::copy(&other, model.join("consolidated.safetensors")).unwrap();
    is_refused("two of them", &model, &["neither model.safetensors nor", "consolidated.safetensors, ", "pytorch_model.safetensors"]);
}

/// What Python's json writes and reads, and what editors put in front of it.
#[test]
fn json_is_read_as_python_writes_it() {
    let (_dir, model) = copy_with_tokenizer(MODEL);
    let path = model.join(CONFIG);
    let plain = std::fs::read_to_string(&path).unwrap();
    let with = |name: &str, bytes: Vec<u8>| std::fs::write(model.join(name), bytes).unwrap();
    let inside = |more: &str| plain.replacen('{', &format!("{{ {more},"), 1).into_bytes();
    let marked = |text: &str| [b"\xef\xbb\xbf", text.as_bytes()].concat();
    let utf_16 = |text: &str| [0xfeff].into_iter().chain(text.encode_utf16()).flat_map(u16::to_le_bytes).collect::<Vec<u8>>();

    with(CONFIG, inside("\"best_loss\": NaN, \"limits\": [0.0, Infinity, -Infinity], \"note\": \"NaN, \\\"Infinity\""));
    opens_as_transformers("NaN in keys that nobody reads", &model);
    for (key, number) in [("rms_norm_eps", "NaN"), ("max_position_embeddings", "Infinity"), ("hidden_size", "-Infinity")] {
        let mut config: serde_json::Value = serde_json::from_str(&plain).unwrap();
        config[key] = "HERE".into();
        with(CONFIG, config.to_string().replace("\"HERE\"", number).into_bytes());
        is_refused(key, &model, &[CONFIG, &format!("\"{key}\""), number]);
    }
    with(CONFIG, marked(&plain));
    with("tokenizer_config.json", marked("{\"eos_token\": \"</s>\", \"model_max_length\": Infinity}"));
    let tokenizer = std::fs::read_to_string(model.join("tokenizer.json")).unwrap();
    let corpus = file(model.with_file_name("corpus.txt"), text(400));
    let perplexity = |output: std::process::Output| -> serde_json::Value {
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice::<serde_json::Value>(&output.stdout).unwrap()
    };
    let before = perplexity(eval(&model, &corpus));
    with("tokenizer.json", marked(&tokenizer));
    assert_eq!(perplexity(eval(&model, &corpus))["perplexity"], before["perplexity"]);

    for name in ["tokenizer.json", "tokenizer_config.json", CONFIG] {
        let whole = std::fs::read(model.join(name)).unwrap();
        with(name, utf_16("{\"a\": 1}"));
        let output = eval(&model, &corpus);
        says(name, &output, &[name, "UTF-16"]);
        assert_eq!(output.status.code(), Some(3), "{name}");
        with(name, whole);
    }
    let (_dir, sharded) = copy_of(SHARDED);
    let index = std::fs::read_to_string(sharded.join(INDEX)).unwrap();
    std::fs::write(sharded.join(INDEX), marked(&index.replacen('{', "{ \"best\": NaN,", 1))).unwrap();
    opens_as_transformers("index", &sharded);
}
