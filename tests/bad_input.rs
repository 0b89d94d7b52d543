//! Hostile and broken input: the binary answers with the right exit code and one
//! line that names the file, the place, what was expected and what was found, and
//! leaves no broken file behind.
//!
//! Exit codes: 0 done, 1 gate missed, 2 usage or recipe, 3 bad input, 4 environment.

#[path = "common/damage.rs"]
mod damage;
#[path = "common/data.rs"]
mod data;

use damage::{copy_of, copy_with_tokenizer, edit_bytes, edit_json, edit_tensors, file};
use ndarray::ArrayView2;
use serde_json::{Value, json};
use std::ffi::OsStr;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::time::Duration;
use thimble::quant::native::{self, Notes};
use thimble::quant::rounding::round_to_nearest;
use thimble::quant::{Code, Columns, Layout, Outliers, PackedTensor, Permutation, Scheme, Weight};
use thimble::recipe::RawRecipe;
use thimble::runtime::{Activations, Decoder, KvCache, Step};

const USAGE: i32 = 2;
const BAD_INPUT: i32 = 3;
const ENVIRONMENT: i32 = 4;

/// Deeper than any parser may follow on the stack.
const DEEP: usize = 200_000;

/// The binary with arguments; none of these may take long.
fn thimble<S: AsRef<OsStr>>(args: &[S]) -> assert_cmd::Command {
    let mut command = assert_cmd::Command::new(env!("CARGO_BIN_EXE_thimble"));
    command.args(args).timeout(Duration::from_secs(60));
    command
}

fn run<S: AsRef<OsStr>>(args: &[S]) -> Output {
    thimble(args).output().unwrap()
}

/// Exactly one line begins with `error:`; from there on everything in `says` is
/// said. What the error is about must be there, not only that there is one.
#[track_caller]
fn refused(what: &str, output: &Output, code: i32, says: &[&str]) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{what}: {stderr}");
    assert_eq!(stderr.lines().filter(|line| line.starts_with("error:")).count(), 1, "{what}: {stderr}");
    let message = &stderr[stderr.find("error:").unwrap()..];
    for part in says {
        assert!(message.contains(part), "{what}: {part:?} is not in\n{stderr}");
    }
    assert!(!stderr.contains("panicked"), "{what}: {stderr}");
    assert!(output.stdout.is_empty(), "{what}: {}", String::from_utf8_lossy(&output.stdout));
}

#[track_caller]
fn done(what: &str, output: &Output) -> String {
    assert!(output.status.success(), "{what}: {:?}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn text_of(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// No temporary file, no model and no logits lie below a folder; what a run has drafted
/// before it failed is its own, and no model.
#[track_caller]
fn nothing_left(what: &str, dir: &Path) {
    let is_draft = dir.ends_with(".unfinished/draft");
    for entry in std::fs::read_dir(dir).unwrap().map(Result::unwrap) {
        let name = entry.file_name().into_string().unwrap();
        let is_model = name == native::FILE_NAME && !is_draft;
        assert!(!name.ends_with(".part") && !is_model && name != LOGITS, "{what}: {} was left", entry.path().display());
        if entry.path().is_dir() {
            nothing_left(what, &entry.path());
        }
    }
}

const LOGITS: &str = "logits.safetensors";

/// A model that no command may run.
#[track_caller]
fn model_is_refused(what: &str, model: &Path, says: &[&str]) {
    let out = tempfile::tempdir().unwrap();
    let logits = out.path().join(LOGITS);
    let output = run(&["logits", text_of(model), "--ids", "1,2,3", "--out", text_of(&logits)]);
    refused(what, &output, BAD_INPUT, says);
    nothing_left(what, out.path());
}

/// Opens a model and runs some tokens, in this process: starting one takes a
/// quarter of a second where libtorch is loaded, and there are many cases.
fn open_and_run(model: &Path) -> thimble::Result<()> {
    let model = thimble::runtime::open(model, None)?;
    let decoder = Decoder::new(&*model.store, Activations::Int8, 1)?;
    let mut cache = KvCache::new(model.spec());
    let hidden = decoder.forward(&mut [Step { cache: &mut cache, ids: &[1, 2, 3] }])?;
    decoder.logits(&hidden);
    if let Some(tokenizer) = &model.tokenizer {
        tokenizer.decode(&tokenizer.encode("w5 w6")?)?;
    }
    Ok(())
}

/// As [`model_is_refused`], by the error that the binary would print.
#[track_caller]
fn opening_is_refused(what: &str, model: &Path, says: &[&str]) {
    let error = open_and_run(model).expect_err(what);
    assert_eq!(i32::from(error.exit_code()), BAD_INPUT, "{what}: {error}");
    let message = error.to_string();
    for part in says {
        assert!(message.contains(part), "{what}: {part:?} is not in\n{message}");
    }
}

const WEIGHTS: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
const DOWN: &str = "model.layers.1.mlp.down_proj.weight";
const NORM: &str = "model.norm.weight";

/// A way to break a folder, and what must be said of it.
type Case = (&'static str, Box<dyn Fn(&Path)>, &'static [&'static str]);

fn case(what: &'static str, damage: impl Fn(&Path) + 'static, says: &'static [&'static str]) -> Case {
    (what, Box::new(damage), says)
}

fn each_is_refused(fixture: &str, cases: Vec<Case>) {
    for (what, damage, says) in cases {
        let (_dir, model) = copy_of(fixture);
        damage(&model);
        model_is_refused(what, &model, says);
    }
}

/// Every damage below is done to a model that is accepted without it.
#[test]
fn sound_models_are_accepted() {
    for fixture in ["llama-gqa-tied", "llama-sharded-bf16", "llama-f16", "mistral-window"] {
        let (dir, model) = copy_with_tokenizer(fixture);
        // Taken apart and put together, for the damage is to be in what changes.
        if model.join(WEIGHTS).exists() {
            edit_tensors(&model.join(WEIGHTS), |_| ());
        }
        let out = dir.path().join(LOGITS);
        done(fixture, &run(&["logits", text_of(&model), "--ids", "1,2,3", "--out", text_of(&out)]));
        let bytes = std::fs::read(out).unwrap();
        let logits = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        assert_eq!(logits.tensor("logits").unwrap().shape()[0], 3, "{fixture}");
    }
}

/// Edits the one file of weights.
fn tensors(what: &'static str, edit: impl Fn(&mut damage::Tensors) + 'static, says: &'static [&'static str]) -> Case {
    case(what, move |dir| edit_tensors(&dir.join(WEIGHTS), &edit), says)
}

/// Writes the one file of weights with a header of one's own.
fn header(what: &'static str, make: impl Fn() -> String + 'static, says: &'static [&'static str]) -> Case {
    let write = move |dir: &Path| {
        let header = make();
        file(dir.join(WEIGHTS), [&(header.len() as u64).to_le_bytes(), header.as_bytes()].concat());
    };
    case(what, write, says)
}

#[test]
fn broken_weights_are_refused() {
    let bytes = |what, edit: fn(&mut Vec<u8>), says| case(what, move |dir| edit_bytes(&dir.join(WEIGHTS), edit), says);
    each_is_refused(
        "llama-gqa-tied",
        vec![
            bytes("cut in the header", |b| b.truncate(1_000), &[WEIGHTS, "truncated", "ends at byte 2024", "1000 bytes"]),
            bytes("cut in the data", |b| b.truncate(50_000), &[WEIGHTS, "truncated", "80208 bytes", "50000 bytes"]),
            bytes("cut to nothing", |b| b.clear(), &[WEIGHTS, "truncated", "0 bytes"]),
            bytes("bytes behind the end", |b| b.push(0), &[WEIGHTS, "1 extra bytes follow", "82232 bytes"]),
            bytes("longest header there is", |b| b[..8].fill(0xff), &[WEIGHTS, "18446744073709551615"]),
            bytes("header is no JSON", |b| b[8] = b'?', &[WEIGHTS, "header", "expected value"]),
            header("deep header", || "[".repeat(DEEP), &[WEIGHTS, "header"]),
            header("deep entry", || format!("{{\"a\":{}", "[".repeat(DEEP)), &[WEIGHTS, "header"]),
            tensors(
                "overlap",
                |t| t.header[NORM]["data_offsets"] = json!([47_000, 47_144]),
                &[WEIGHTS, NORM, "overlaps", "47088", "47000"],
            ),
            tensors(
                "gap",
                |t| drop(t.header.as_object_mut().unwrap().remove("model.layers.0.mlp.up_proj.weight")),
                &[WEIGHTS, "model.layers.0.post_attention_layernorm.weight leaves a gap", "26640", "32976"],
            ),
            tensors("backwards", |t| t.header[NORM]["data_offsets"] = json!([80_064, 80_000]), &[WEIGHTS, NORM, "80064", "80000"]),
            tensors("offset beyond all bytes", |t| t.header[NORM]["data_offsets"][1] = u64::MAX.into(), &[WEIGHTS, NORM, "144 bytes"]),
            tensors("more numbers than there can be", |t| t.header[NORM]["shape"] = json!([1u64 << 40, 1u64 << 40]), &[WEIGHTS, NORM]),
            header("sizes whose sum overflows", sizes_whose_sum_overflows, &[WEIGHTS, "truncated"]),
            tensors("no number type", |t| t.header[NORM]["dtype"] = "F7".into(), &[WEIGHTS, "F7"]),
            tensors(
                "numbers of 8 bits",
                |t| {
                    t.header[NORM]["dtype"] = "F8_E4M3".into();
                    t.header[NORM]["shape"] = json!([144]);
                },
                &[NORM, "F16", "F8_E4M3"],
            ),
            tensors("transposed", |t| t.header[DOWN]["shape"] = json!([44, 36]), &[WEIGHTS, DOWN, "[36, 44]", "[44, 36]"]),
            tensors("flat", |t| t.header[DOWN]["shape"] = json!([44 * 36]), &[WEIGHTS, DOWN, "[36, 44]", "[1584]"]),
            tensors("tensor absent", |t| t.remove(DOWN), &[DOWN, "is missing"]),
            tensors(
                "NaN",
                |t| {
                    t.put(DOWN, 5, &f32::NAN.to_le_bytes());
                    t.put(DOWN, 1_583, &f32::NAN.to_le_bytes());
                },
                &[WEIGHTS, DOWN, "2 NaN", "index 5"],
            ),
            case("no weights", |dir| std::fs::remove_file(dir.join(WEIGHTS)).unwrap(), &[WEIGHTS, "No such file"]),
            case(
                "weights are a folder",
                |dir| {
                    std::fs::remove_file(dir.join(WEIGHTS)).unwrap();
                    std::fs::create_dir(dir.join(WEIGHTS)).unwrap();
                },
                &[WEIGHTS, "not a regular file"],
            ),
        ],
    );
    each_is_refused(
        "llama-f16",
        vec![tensors(
            "infinite",
            |t| t.put(DOWN, 7, &half::f16::NEG_INFINITY.to_le_bytes()),
            &[WEIGHTS, DOWN, "1 NaN or infinite", "index 7"],
        )],
    );
}

/// Nine tensors of nearly 2⁶¹ bytes: each can be counted, the file cannot.
fn sizes_whose_sum_overflows() -> String {
    let size = (1u64 << 61) - 1;
    let entry = |i: u64| (format!("t{i}"), json!({ "dtype": "U8", "shape": [size], "data_offsets": [i * size, (i + 1) * size] }));
    Value::Object((0..8).map(entry).collect()).to_string()
}

#[test]
fn broken_shards_are_refused() {
    const SECOND: &str = "model-00002-of-00005.safetensors";
    const LAST: &str = "model-00005-of-00005.safetensors";
    const Q: &str = "model.layers.1.self_attn.q_proj.weight"; // in the second
    let index = |what, edit: fn(&mut Value), says| case(what, move |dir| edit_json(&dir.join(INDEX), edit), says);
    each_is_refused(
        "llama-sharded-bf16",
        vec![
            case("shard absent", |dir| std::fs::remove_file(dir.join(SECOND)).unwrap(), &[SECOND, "1 of its 5 shards are not there"]),
            case("shard cut", |dir| edit_bytes(&dir.join(SECOND), |b| b.truncate(9_000)), &[SECOND, "truncated", "9000"]),
            index(
                "a tensor no shard has",
                |i| i["weight_map"]["model.layers.9.mlp.up_proj.weight"] = SECOND.into(),
                &[SECOND, "model.layers.9.mlp.up_proj.weight", "is missing"],
            ),
            index("shard above the folder", |i| i["weight_map"][Q] = "../other.safetensors".into(), &[INDEX, "../other.safetensors"]),
            index("shard from the root", |i| i["weight_map"][Q] = "/etc/passwd".into(), &[INDEX, "/etc/passwd"]),
            index("shard without a name", |i| i["weight_map"][Q] = "".into(), &[INDEX, "\"\""]),
            index("shard with a zero byte", |i| i["weight_map"][Q] = "a\0b".into(), &[INDEX, "a\\0b"]),
            index("index without a map", |i| drop(i.as_object_mut().unwrap().remove("weight_map")), &[INDEX, "weight_map"]),
            case("index is no JSON", |dir| edit_bytes(&dir.join(INDEX), |b| b.truncate(100)), &[INDEX, "EOF"]),
            case("deep index", |dir| drop(file(dir.join(INDEX), "[".repeat(DEEP))), &[INDEX]),
            case(
                "infinite in bf16",
                |dir| edit_tensors(&dir.join(LAST), |t| t.put("lm_head.weight", 3, &half::bf16::INFINITY.to_le_bytes())),
                &[LAST, "lm_head.weight", "1 NaN or infinite", "index 3"],
            ),
        ],
    );
}

#[test]
fn configurations_that_make_no_sense_are_refused() {
    const CONFIG: &str = "config.json";
    let text = |what, text: fn() -> String, says| case(what, move |dir| drop(file(dir.join(CONFIG), text())), says);
    let mut cases = vec![
        text("cut", || "{\"model_type\": \"llama\"".into(), &[CONFIG, "not JSON", "EOF"]),
        text("no object", || "[1, 2]".into(), &[CONFIG, "object"]),
        text("empty", String::new, &[CONFIG, "not JSON"]),
        text("deep", || "[".repeat(DEEP), &[CONFIG, "not JSON", "recursion"]),
    ];
    let keys: [(&[&str], Value, &[&str]); 38] = [
        (&["model_type"], Value::Null, &["\"model_type\" is missing"]),
        (&["model_type"], json!("frobnicate"), &["\"frobnicate\"", "known are", "llama", "mistral"]),
        (&["model_type"], json!(7), &["\"model_type\"", "found 7"]),
        (&["hidden_size"], Value::Null, &["\"hidden_size\" is missing"]),
        (&["vocab_size"], Value::Null, &["\"vocab_size\" is missing"]),
        (&["intermediate_size"], Value::Null, &["\"intermediate_size\" is missing"]),
        (&["num_attention_heads"], Value::Null, &["\"num_attention_heads\" is missing"]),
        (&["num_hidden_layers"], Value::Null, &["\"num_hidden_layers\" is missing"]),
        (&["head_dim"], json!(1 << 22), &["6 heads of 4194304", "16777216"]),
        (&["hidden_act"], json!("tanhshrink"), &["\"tanhshrink\"", "silu"]),
        (&["head_dim"], json!(0), &["\"head_dim\"", "found 0"]),
        (&["head_dim"], json!(5), &["head_dim is 5", "even"]),
        (&["head_dim"], json!(1u64 << 31), &["head_dim is 2147483648", "16777216"]),
        (&["num_key_value_heads"], json!(0), &["\"num_key_value_heads\"", "found 0"]),
        (&["num_key_value_heads"], json!(-2), &["\"num_key_value_heads\"", "found -2"]),
        (&["num_key_value_heads"], json!(1.5), &["\"num_key_value_heads\"", "found 1.5"]),
        (&["num_key_value_heads"], json!("2"), &["\"num_key_value_heads\"", "found \"2\""]),
        (&["num_key_value_heads"], json!(4), &["6 heads", "4 kv heads", "multiple"]),
        (&["num_attention_heads"], json!(u32::MAX), &["number of heads is 4294967295", "16777216"]),
        (&["num_hidden_layers"], json!(1u64 << 40), &["\"num_hidden_layers\"", "1099511627776"]),
        (&["num_hidden_layers"], json!(1u64 << 31), &["\"num_hidden_layers\"", "at most 4096", "2147483648"]),
        (&["num_hidden_layers"], json!(3), &["model.layers.2.", "is missing"]),
        (&["hidden_size"], json!(u32::MAX), &["hidden_size is 4294967295", "16777216"]),
        (&["vocab_size"], json!(0), &["\"vocab_size\"", "found 0"]),
        (&["vocab_size"], json!(97), &["model.embed_tokens.weight", "is 97", "96 rows"]),
        (&["intermediate_size"], json!(45), &["[45, 36]", "[44, 36]"]),
        (&["max_position_embeddings"], json!(0), &["\"max_position_embeddings\"", "found 0"]),
        (&["tie_word_embeddings"], json!(false), &["lm_head.weight", "is missing"]),
        (&["tie_word_embeddings"], json!("yes"), &["\"tie_word_embeddings\"", "true or false"]),
        (&["rms_norm_eps"], json!(0.0), &["\"rms_norm_eps\"", "found 0"]),
        (&["bos_token_id"], json!("one"), &["\"bos_token_id\"", "\"one\""]),
        (&["bos_token_id"], json!(1.5), &["\"bos_token_id\"", "1.5"]),
        (&["eos_token_id"], json!(["x"]), &["\"eos_token_id\"", "[\"x\"]"]),
        (&["rope_parameters"], json!(5), &["\"rope_parameters\"", "found 5"]),
        (&["rope_parameters", "rope_theta"], json!(-1), &["\"rope_theta\"", "found -1"]),
        (&["rope_parameters", "rope_type"], json!("magic"), &["\"magic\"", "known are", "llama3"]),
        (
            &["rope_parameters"],
            json!({ "rope_type": "llama3", "factor": 8, "low_freq_factor": 4, "high_freq_factor": 4 }),
            &["low_freq_factor 4", "high_freq_factor 4"],
        ),
        (&["rope_scaling"], json!({ "type": "linear" }), &["\"factor\" is missing"]),
    ];
    let what = |keys: &[&str], value: &Value| -> &'static str { format!("{} = {value}", keys.join(".")).leak() };
    cases.extend(keys.map(|(keys, value, says)| {
        let name = what(keys, &value);
        let edit = move |config: &mut Value| *keys.iter().fold(config, |at, key| &mut at[*key]) = value.clone();
        case(name, move |dir| edit_json(&dir.join(CONFIG), &edit), says)
    }));
    cases.push(case(
        "heads that do not divide the width",
        |dir| edit_json(&dir.join(CONFIG), |c| (c["num_attention_heads"], c["head_dim"]) = (json!(7), Value::Null)),
        &[CONFIG, "hidden_size 36", "num_attention_heads 7"],
    ));
    cases.push(case("no configuration", |dir| std::fs::remove_file(dir.join(CONFIG)).unwrap(), &["config.json"]));
    for (what, damage, says) in cases {
        let (_dir, model) = copy_of("llama-gqa-tied");
        damage(&model);
        opening_is_refused(what, &model, says);
    }
    let (_dir, model) = copy_of("mistral-window");
    edit_json(&model.join(CONFIG), |c| c["sliding_window"] = json!(0));
    model_is_refused("window of nothing", &model, &[CONFIG, "\"sliding_window\"", "found 0"]);
}

#[test]
fn what_is_no_model_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let empty = file(dir.path().join("empty"), "");
    let text = file(dir.path().join("text"), "Once upon a time there was a thimble.");
    let gguf = file(dir.path().join("gguf"), "GGUF and more");
    let later = file(dir.path().join("later.bin"), [&b"24ka"[..], &[1, 0, 0, 0], &[0; 256]].concat());
    let alone = dir.path().join("alone.safetensors");
    std::fs::copy(data::fixture("llama-gqa-tied").join(WEIGHTS), &alone).unwrap();
    let below = text.join("below");
    let cases: [(&Path, &[&str]); 9] = [
        (Path::new("no/such/place"), &["no/such/place", "No such file"]),
        (&below, &["text/below", "Not a directory"]),
        (&empty, &["empty", "not a model"]),
        (&text, &["text", "not a model"]),
        (&gguf, &["gguf", "GGUF"]),
        (&later, &["later.bin", "later version than 0", "--version 0"]),
        (&alone, &["alone.safetensors", "config.json"]),
        (dir.path(), &["model.thimble", "config.json"]),
        (Path::new("/dev/null"), &["/dev/null", "not a regular file"]),
    ];
    for (path, says) in cases {
        model_is_refused(&path.display().to_string(), path, says);
    }
}

/// A llama2.c checkpoint of one block; what the header says may be changed.
fn llama2c(dim: i32, n_heads: i32) -> Vec<u8> {
    let (hidden, vocab, context) = (8, 10, 16);
    let head_dim = dim / n_heads;
    let floats = vocab * dim + 2 * dim + 4 * dim * dim + 3 * dim * hidden + dim + 2 * context * (head_dim / 2);
    let header = [dim, hidden, 1, n_heads, n_heads, vocab, context];
    let weights = (0..floats).flat_map(|i| ((i % 17) as f32 / 17.0 - 0.5).to_le_bytes());
    header.into_iter().flat_map(i32::to_le_bytes).chain(weights).collect()
}

#[test]
fn broken_llama2c_files_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let bin = |content: Vec<u8>| file(dir.path().join("model.bin"), content);
    let sound = llama2c(8, 2);
    let out = dir.path().join(LOGITS);
    done("sound", &run(&["logits", text_of(&bin(sound.clone())), "--ids", "1,2", "--out", text_of(&out)]));
    let with = |edit: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = sound.clone();
        edit(&mut bytes);
        bytes
    };
    let size: &'static str = sound.len().to_string().leak();
    let cases: [(&str, Vec<u8>, &[&str]); 7] = [
        ("cut in the weights", with(&|b| b.truncate(1_000)), &["model.bin", "truncated", size, "found 1000"]),
        ("cut in the header", with(&|b| b.truncate(20)), &["model.bin", "truncated"]),
        ("a byte too many", with(&|b| b.push(0)), &["model.bin", size]),
        ("greatest header", with(&|b| b[..28].fill(0x7f)), &["model.bin"]),
        ("heads of an odd width", llama2c(6, 2), &["model.bin", "head_dim is 3", "even"]),
        ("heads of one number", llama2c(8, 8), &["model.bin", "head_dim is 1", "even"]),
        ("NaN", with(&|b| b[28..32].copy_from_slice(&f32::NAN.to_le_bytes())), &["model.bin", "tok_embeddings", "index 0"]),
    ];
    for (what, bytes, says) in cases {
        model_is_refused(what, &bin(bytes), says);
    }
}

/// Writes a fixture in the native format: every matrix in 4 bits and groups of 32,
/// the first block's q, k and v in another order of columns.
fn native_model(path: &Path) {
    let (_dir, source) = copy_with_tokenizer("llama-head-dim");
    let model = thimble::runtime::open(&source, None).unwrap();
    let order: Vec<u32> = (0..32).map(|i| (i * 7 + 3) % 32).collect();
    let permutation = Arc::new(Permutation { name: PERM.into(), order });
    let kept = Arc::new(Columns { name: COLUMNS.into(), places: vec![2, 3, 31] });
    let quantize = |parameter: thimble::model::Parameter| {
        let weight = model.store.weight(&parameter.name).unwrap();
        let &[rows, columns] = &parameter.shape[..] else { return (parameter.name, weight) };
        let values = weight.to_f32();
        let matrix = ArrayView2::from_shape((rows, columns), &values).unwrap();
        let mut tensor = round_to_nearest(matrix, Scheme::integers(Code::Int4, 32, false));
        let reads_input = ["q", "k", "v"].iter().any(|end| parameter.name == format!("blocks.0.attn.{end}"));
        tensor.permutation = reads_input.then(|| permutation.clone());
        // The second block's keep columns; its codes stay as they are, which nothing reads.
        let keeps = ["q", "k", "v"].iter().any(|end| parameter.name == format!("blocks.1.attn.{end}"));
        tensor.outliers = keeps.then(|| Outliers::take(&mut matrix.to_owned(), &kept));
        let layout = if parameter.name == "embeddings" { Layout::Rows } else { Layout::Tiles };
        (parameter.name, Weight::Packed(PackedTensor::pack(&tensor, layout)))
    };
    let weights: Vec<_> = model.spec().parameters().into_iter().map(quantize).collect();
    let tokenizer = model.tokenizer.as_ref().map(|t| t.file());
    native::write(path, model.spec(), &weights, tokenizer, &Notes::default()).unwrap();
}

const PERM: &str = "blocks.0.attn.q.perm";
const COLUMNS: &str = "blocks.1.attn.q.outlier_columns";
const SPEC: &str = "thimble.spec";
const SCHEMES: &str = "thimble.schemes";
const VECTOR_SCHEME: &str = r#"{"code":"int4","group_size":0,"symmetric":true,"layout":"tiles","shape":[32,1]}"#;
const ATTENTION: &str = "/blocks/1/mixer/attention";

/// Sets a value of the spec or of the schemes.
fn metadata(key: &'static str, pointer: String, value: Value, says: &'static [&'static str]) -> Case {
    let what: &'static str = format!("{key}{pointer} = {value:.60}").leak();
    let edit = move |m: &mut Value| {
        let (parent, last) = pointer.rsplit_once('/').unwrap();
        m.pointer_mut(parent).unwrap()[last] = value.clone();
    };
    case(what, move |path| edit_tensors(path, |t| t.edit_metadata(key, &edit)), says)
}

fn cut_kept_values(tensors: &mut damage::Tensors) {
    tensors.resize("blocks.1.attn.k.outliers", 4);
    tensors.header["blocks.1.attn.k.outliers"]["shape"] = json!([2]);
}

#[test]
fn broken_native_files_are_refused() {
    let bytes = |what, edit: fn(&mut Vec<u8>), says| case(what, move |path| edit_bytes(path, edit), says);
    let tensors = |what, edit: fn(&mut damage::Tensors), says| case(what, move |path| edit_tensors(path, edit), says);
    let cases = vec![
        bytes("cut in the header", |b| b.truncate(600), &["truncated", "600 bytes"]),
        bytes("cut in the data", |b| b.truncate(b.len() - 1), &["truncated"]),
        tensors("a newer version", |t| t.header["__metadata__"]["thimble.version"] = "3".into(), &["version 3", "up to 2", "newer"]),
        tensors("no version", |t| t.header["__metadata__"]["thimble.version"] = "one".into(), &["thimble.version"]),
        tensors("no spec", |t| drop(t.header["__metadata__"].as_object_mut().unwrap().remove(SPEC)), &["no thimble.spec"]),
        tensors("deep spec", |t| t.header["__metadata__"][SPEC] = "[".repeat(DEEP).into(), &[SPEC]),
        tensors("deep schemes", |t| t.header["__metadata__"][SCHEMES] = "{\"a\":".repeat(DEEP).into(), &[SCHEMES, "recursion"]),
        tensors("codes cut", |t| t.resize("blocks.0.ffn.gate.codes", 704), &["blocks.0.ffn.gate.codes", "768 × U8", "[704] × U8"]),
        tensors("codes absent", |t| t.remove("blocks.0.ffn.gate.codes"), &["blocks.0.ffn.gate.codes", "is missing"]),
        tensors("zero points absent", |t| t.remove("blocks.0.ffn.gate.zeros"), &["blocks.0.ffn.gate.zeros", "is missing"]),
        tensors("scales of another type", |t| t.header["head.scales"]["dtype"] = "BF16".into(), &["head.scales", "× F16", "× BF16"]),
        tensors("scale infinite", |t| t.put("head.scales", 9, &half::f16::INFINITY.to_le_bytes()), &["head.scales", "index 9"]),
        tensors("norm NaN", |t| t.put("final_norm.dense", 1, &f32::NAN.to_le_bytes()), &["final_norm.dense", "index 1"]),
        tensors("norm absent", |t| t.remove("blocks.1.attn_norm.dense"), &["blocks.1.attn_norm.dense", "is missing"]),
        tensors("norm of integers", |t| t.header["final_norm.dense"]["dtype"] = "I32".into(), &["final_norm.dense", "f32", "I32"]),
        tensors("order absent", |t| t.remove(PERM), &[PERM, "is missing"]),
        tensors("order with a column twice", |t| t.put(PERM, 3, &3u32.to_le_bytes()), &[PERM, "0 … 31", "3 again"]),
        tensors("columns absent", |t| t.remove(COLUMNS), &[COLUMNS, "is missing"]),
        tensors("columns of another type", |t| t.header[COLUMNS]["dtype"] = "F32".into(), &[COLUMNS, "U32", "[3] × F32"]),
        tensors("columns in a square", |t| t.header[COLUMNS]["shape"] = json!([1, 3]), &[COLUMNS, "list of U32", "[1, 3]"]),
        tensors("no columns", |t| t.resize(COLUMNS, 0), &["blocks.1.attn.", "below 32", COLUMNS, "none"]),
        tensors("columns that fall", |t| t.put(COLUMNS, 1, &1u32.to_le_bytes()), &["blocks.1.attn.", COLUMNS, "do not ascend"]),
        tensors("a column twice", |t| t.put(COLUMNS, 1, &2u32.to_le_bytes()), &["blocks.1.attn.", COLUMNS, "do not ascend"]),
        tensors("a column outside", |t| t.put(COLUMNS, 2, &32u32.to_le_bytes()), &["blocks.1.attn.", "below 32", COLUMNS, "column 32"]),
        tensors("kept values absent", |t| t.remove("blocks.1.attn.k.outliers"), &["blocks.1.attn.k.outliers", "is missing"]),
        tensors("kept values cut", cut_kept_values, &["blocks.1.attn.k.outliers", "× F16", "[2] × F16"]),
        tensors("kept value NaN", |t| t.put("blocks.1.attn.k.outliers", 7, &half::f16::NAN.to_le_bytes()), &["attn.k.outliers", "index 7"]),
        tensors("order with a column outside", |t| t.put(PERM, 3, &u32::MAX.to_le_bytes()), &[PERM, "0 … 31", "4294967295"]),
    ];
    each_native_file(cases, |what, path, says| model_is_refused(what, path, says));
}

#[test]
fn native_headers_that_lie_are_refused() {
    let spec = |pointer: &str, value, says| metadata(SPEC, pointer.into(), value, says);
    let attention = |key: &str, value, says| metadata(SPEC, format!("{ATTENTION}/{key}"), value, says);
    let scheme = |key: &str, value, says| metadata(SCHEMES, format!("/blocks.0.ffn.gate/{key}"), value, says);
    let cases = vec![
        // How weights are stored.
        metadata(SCHEMES, "/blocks.1.ffn.down/perm".into(), json!(PERM), &["blocks.1.ffn.down", "44 columns", PERM, "of 32"]),
        scheme("outlier_columns", json!("nowhere"), &["nowhere", "is missing"]),
        scheme("outlier_columns", json!(COLUMNS), &["blocks.0.ffn.gate.outliers", "is missing"]),
        scheme("outlier_columns", json!(PERM), &["blocks.0.ffn.gate", "below 32", PERM, "do not ascend"]),
        scheme("outlier_columns", json!(3), &[SCHEMES]),
        scheme("code", json!("int7"), &[SCHEMES, "int7", "int4"]),
        scheme("group_size", json!(48), &["blocks.0.ffn.gate", "multiple of 32", "48"]),
        scheme("group_size", json!(-32), &[SCHEMES, "-32"]),
        scheme("shape", json!([1u64 << 40, 1u64 << 40]), &["blocks.0.ffn.gate", "[44, 32]", "1099511627776"]),
        scheme("shape", json!([0, 0]), &["blocks.0.ffn.gate", "[44, 32]", "[0, 0]"]),
        scheme("shape", json!([32, 44]), &["blocks.0.ffn.gate", "[44, 32]", "[32, 44]"]),
        scheme("layout", json!("rows"), &["blocks.0.ffn.gate", "layout tiles", "layout rows"]),
        scheme("layout", json!("heaps"), &[SCHEMES, "heaps"]),
        scheme("colour", json!("red"), &[SCHEMES, "colour"]),
        metadata(SCHEMES, "/blocks.0.ffn.gate".into(), Value::Null, &[SCHEMES, "null"]),
        metadata(SCHEMES, "/final_norm".into(), VECTOR_SCHEME.parse().unwrap(), &["final_norm", "[32]", "[32, 1]"]),
        metadata(SCHEMES, "/head/layout".into(), json!("rows"), &["head", "layout tiles", "layout rows"]),
        // What the model is.
        spec("/vocab_size", json!(0), &[SPEC, "vocab_size is 0"]),
        spec("/vocab_size", json!(u64::MAX), &[SPEC, "vocab_size is 18446744073709551615"]),
        spec("/vocab_size", json!(1 << 24), &["embeddings", "16777216", "96"]),
        spec("/hidden_size", json!(0), &[SPEC, "hidden_size is 0"]),
        spec("/hidden_size", json!(1u64 << 63), &[SPEC, "hidden_size is 9223372036854775808"]),
        spec("/context", json!(0), &[SPEC, "context is 0"]),
        spec("/blocks", json!([]), &[SPEC, "number of blocks is 0"]),
        spec("/blocks", json!(1u64 << 40), &[SPEC, "1099511627776"]),
        spec("/final_norm/epsilon", json!(-1.0), &[SPEC, "final norm", "-1"]),
        spec("/special/bos", json!(96), &[SPEC, "token is 96", "96 tokens"]),
        spec("/tied", json!(true), &["embeddings", "layout tiles", "layout rows"]),
        spec("/colour", json!("red"), &[SPEC, "colour"]),
        spec("/blocks/1/mixer", json!({ "wand": {} }), &[SPEC, "wand"]),
        spec("/blocks/1/ffn/width", json!(0), &[SPEC, "block 1", "width is 0"]),
        spec("/blocks/1/ffn/bias", json!(true), &["blocks.1.ffn.gate.bias.dense", "is missing"]),
        attention("n_heads", json!(0), &[SPEC, "block 1", "number of heads is 0"]),
        attention("n_heads", json!(1 << 20), &["blocks.1.attn.q", "[12582912, 32]"]),
        attention("n_heads", json!(1 << 24), &[SPEC, "block 1", "16777216 heads of 12"]),
        attention("n_kv_heads", json!(0), &[SPEC, "block 1", "kv heads is 0"]),
        attention("n_kv_heads", json!(3), &[SPEC, "block 1", "4 heads", "3 kv heads"]),
        attention("head_dim", json!(0), &[SPEC, "block 1", "head_dim is 0"]),
        attention("head_dim", json!(1), &[SPEC, "block 1", "head_dim is 1"]),
        attention("head_dim", json!(1u64 << 62), &[SPEC, "block 1", "head_dim is 4611686018427387904"]),
        attention("window", json!(0), &[SPEC, "block 1", "window of 0"]),
        attention("scale", json!(0.0), &[SPEC, "block 1", "scale of attention is 0"]),
        attention("rotary", json!({ "theta": 0.0, "scaling": "none" }), &[SPEC, "block 1", "theta is 0"]),
        attention("rotary", json!({ "theta": 1e4, "scaling": { "linear": { "factor": 0.0 } } }), &[SPEC, "block 1", "factor is 0"]),
    ];
    // Group sizes are compared, never added up: this one means whole rows.
    let absurd = vec![scheme("group_size", json!(u64::MAX - 31), &[])];
    each_native_file(cases, opening_is_refused);
    each_native_file(absurd, |what, path, _| open_and_run(path).unwrap_or_else(|e| panic!("{what}: {e}")));
}

/// Damages a sound native file in each way.
fn each_native_file(cases: Vec<Case>, check: impl Fn(&str, &Path, &[&str])) {
    each_file(native_model, cases, check);
}

/// The same of another file.
fn each_file(write: impl Fn(&Path), cases: Vec<Case>, check: impl Fn(&str, &Path, &[&str])) {
    let dir = tempfile::tempdir().unwrap();
    let [sound, broken] = ["sound", "broken"].map(|name| dir.path().join(format!("{name}.thimble")));
    write(&sound);
    open_and_run(&sound).unwrap();
    for (what, damage, says) in cases {
        std::fs::copy(&sound, &broken).unwrap();
        damage(&broken);
        check(what, &broken, &[says, &["broken.thimble"][..]].concat());
    }
}

/// A table of numbers is looked into without another thought: none may pass that is
/// shorter than its codes reach, or of numbers that kernels do not take.
#[test]
fn codebooks_that_lie_are_refused() {
    const OWN: &str = "blocks.0.ffn.down.book";
    let golden = |path: &Path| {
        std::fs::copy(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/golden-books.thimble"), path).unwrap();
        edit_tensors(path, |t| t.remove("tokenizer"));
    };
    let tensors = |what, edit: fn(&mut damage::Tensors), says| case(what, move |path| edit_tensors(path, edit), says);
    let scheme = |key: &str, value, says| metadata(SCHEMES, format!("/blocks.0.ffn.gate/{key}"), value, says);
    let put = |t: &mut damage::Tensors, codebook: &str, place: usize, value: f32| t.put(codebook, place, &value.to_le_bytes());
    let value = |what, codebook: &'static str, place, value: f32, says| {
        case(what, move |path| edit_tensors(path, |t| put(t, codebook, place, value)), says)
    };
    let cases = vec![
        tensors("codebook absent", |t| t.remove("book.nf6"), &["book.nf6", "is missing"]),
        tensors("own codebook absent", |t| t.remove(OWN), &[OWN, "is missing"]),
        tensors(
            "codebook cut",
            |t| {
                t.resize("book.nf6", 128);
                t.header["book.nf6"]["shape"] = json!([32]);
            },
            &["book.nf6", "64 × F32", "[32]"],
        ),
        tensors("codebook of another type", |t| t.header["book.nf6"]["dtype"] = "I32".into(), &["book.nf6", "× F32", "× I32"]),
        value("NaN", "book.nf6", 9, f32::NAN, &["book.nf6", "ascend", "NaN"]),
        value("infinite", "book.nf6", 63, f32::INFINITY, &["book.nf6", "finite", "inf"]),
        value("out of order", "book.nf6", 9, 0.5, &["book.nf6", "ascend", "0.5 before"]),
        value("a fraction", "book.nf4", 0, -100.5, &["book.nf4", "whole", "-100.5"]),
        value("−128", "book.nf4", 0, -128.0, &["book.nf4", "±127", "-128"]),
        tensors(
            "offset infinite",
            |t| t.put("blocks.0.ffn.gate.zeros", 5, &half::f16::INFINITY.to_le_bytes()),
            &["ffn.gate.zeros", "index 5"],
        ),
        tensors("offsets of integers", |t| t.header["blocks.0.ffn.gate.zeros"]["dtype"] = "U16".into(), &["ffn.gate.zeros", "F16", "U16"]),
        scheme("book", Value::Null, &["blocks.0.ffn.gate", "a codebook"]),
        scheme("book", json!("book.nf4"), &["book.nf4", "64 × F32", "[16]"]),
        scheme("book", json!("blocks.0.ffn.gate.codes"), &["blocks.0.ffn.gate.codes", "F32", "U8"]),
        scheme("code", json!("int6"), &["blocks.0.ffn.gate", "no codebook"]),
        scheme("code", json!("book9"), &[SCHEMES, "book9", "book8"]),
        metadata(SCHEMES, "/blocks.1.ffn.down/book".into(), json!("book.nf4"), &["blocks.1.ffn.down", "no codebook"]),
    ];
    each_file(golden, cases, opening_is_refused);
    // A name is for people: one that is not known runs by its codebook.
    let unknown = vec![scheme("data_type", json!("posit"), &[])];
    each_file(golden, unknown, |what, path, _| open_and_run(path).unwrap_or_else(|e| panic!("{what}: {e}")));
}

/// More blocks than any model has, all of them written out.
#[test]
fn a_native_file_of_too_many_blocks_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.thimble");
    native_model(&path);
    edit_tensors(&path, |t| {
        t.edit_metadata(SPEC, |spec| {
            let block = spec["blocks"][0].clone();
            spec["blocks"] = vec![block; 4_097].into();
        })
    });
    refused("blocks", &run(&["inspect", text_of(dir.path())]), BAD_INPUT, &[SPEC, "number of blocks is 4097", "4096"]);
}

/// A file whose tensors lie at odd places runs all the same: nothing in a kernel
/// may rely on what a header promises.
#[test]
fn native_tensors_may_lie_anywhere() {
    let dir = tempfile::tempdir().unwrap();
    let [aligned, shifted] = ["aligned", "shifted"].map(|name| dir.path().join(format!("{name}.thimble")));
    native_model(&aligned);
    std::fs::copy(&aligned, &shifted).unwrap();
    edit_bytes(&shifted, |bytes| {
        let header = u64::from_le_bytes(bytes[..8].try_into().unwrap());
        bytes[..8].copy_from_slice(&(header + 1).to_le_bytes());
        bytes.insert(8 + header as usize, b' ');
    });
    for activations in ["int8", "f32"] {
        let logits = [&aligned, &shifted].map(|path| {
            let out = dir.path().join(LOGITS);
            let args = ["logits", text_of(path), "--ids", "1,2,3", "--activations", activations, "--out", text_of(&out)];
            done(activations, &run(&args));
            std::fs::read(out).unwrap()
        });
        assert!(logits[0] == logits[1], "{activations}");
    }
}

#[test]
fn tokenizers_and_texts_that_do_not_fit_are_refused() {
    let (dir, model) = copy_with_tokenizer("llama-gqa-tied");
    let at = |name: &str| dir.path().join(name);
    let text = file(at("text.txt"), damage::text(300));
    let eval = |extra: &[&str]| run(&[&["eval", text_of(&model), "--text", text_of(&text)], extra].concat());
    let windows = |stdout: String| serde_json::from_str::<Value>(&stdout).unwrap()["windows"].as_u64();
    assert_eq!(windows(done("sound", &eval(&["--window", "64", "--json"]))), Some(4));

    // A tokenizer saved behind training cuts texts: it must not here.
    let mut cutting = damage::tokenizer(damage::VOCABULARY);
    cutting["truncation"] = json!({ "direction": "Right", "max_length": 8, "strategy": "LongestFirst", "stride": 0 });
    let cutting = file(at("cutting.json"), cutting.to_string());
    assert_eq!(windows(done("cutting", &eval(&["--window", "64", "--json", "--tokenizer", text_of(&cutting)]))), Some(4));

    // Further words are no fault until a text has one.
    let large = file(at("large.json"), damage::tokenizer(damage::VOCABULARY + 4).to_string());
    assert_eq!(windows(done("large", &eval(&["--window", "64", "--json", "--tokenizer", text_of(&large)]))), Some(4));
    let beyond = file(at("beyond.txt"), format!("{} w99\n", damage::text(300)));
    let output = run(&["eval", text_of(&model), "--text", text_of(&beyond), "--tokenizer", text_of(&large)]);
    refused("a word without a row", &output, BAD_INPUT, &["beyond.txt", "\"w99\"", "id 99", "96 rows"]);
    let broken = file(at("broken.json"), "{\"model\": 3}");
    let deep = file(at("deep.json"), format!("{{\"a\":{}", "[".repeat(DEEP)));
    let binary = file(at("tokenizer.bin"), [0xff; 64]);
    let missing = at("missing.json");
    let mut decoder = damage::tokenizer(damage::VOCABULARY);
    decoder["decoder"] = json!(5);
    let decoder = file(at("decoder.json"), decoder.to_string());
    let tokenizers: [(&Path, &[&str]); 6] = [
        (&decoder, &["decoder.json", "not a valid tokenizer.json"]),
        (&broken, &["broken.json", "not a valid tokenizer.json"]),
        (&deep, &["deep.json", "not a valid tokenizer.json"]),
        (&binary, &["tokenizer.bin", "neither"]),
        (&missing, &["missing.json", "No such file"]),
        (dir.path(), &["Is a directory"]),
    ];
    for (tokenizer, says) in tokenizers {
        refused(&tokenizer.display().to_string(), &eval(&["--tokenizer", text_of(tokenizer)]), BAD_INPUT, says);
    }

    let short = file(at("short.txt"), damage::text(20));
    let latin = file(at("latin.txt"), b"caf\xe9".repeat(50));
    let empty = file(at("empty.txt"), "");
    let nowhere = at("nowhere.txt");
    let texts: [(&Path, i32, &[&str]); 5] = [
        (&short, USAGE, &["20 tokens", "window of 64"]),
        (&empty, USAGE, &["0 tokens", "window of 64"]),
        (&latin, BAD_INPUT, &["latin.txt", "UTF-8"]),
        (&nowhere, BAD_INPUT, &["nowhere.txt", "No such file"]),
        (dir.path(), BAD_INPUT, &["Is a directory"]),
    ];
    for (text, code, says) in texts {
        let output = run(&["eval", text_of(&model), "--text", text_of(text), "--window", "64"]);
        refused(&text.display().to_string(), &output, code, says);
    }

    let native = at("model.thimble");
    native_model(&native);
    edit_tensors(&native, |t| t.bytes("tokenizer")[0] = b'?');
    let output = run(&["run", text_of(&native), "--prompt", "w5"]);
    refused("in a native file", &output, BAD_INPUT, &["model.thimble", "neither", "tokenizer.json"]);

    let config = model.join("tokenizer_config.json");
    std::fs::write(&config, "{").unwrap();
    refused("tokenizer_config.json", &eval(&[]), BAD_INPUT, &["tokenizer_config.json", "not JSON"]);
    std::fs::remove_file(config).unwrap();
    std::fs::remove_file(model.join("tokenizer.json")).unwrap();
    refused("no tokenizer", &eval(&[]), BAD_INPUT, &["model", "no tokenizer", "--tokenizer"]);
}

/// Finite weights whose products are not finite are bad input too, and no number
/// is made of them.
#[test]
fn models_that_overflow_are_refused() {
    let (dir, model) = copy_with_tokenizer("llama-gqa-tied");
    edit_tensors(&model.join(WEIGHTS), |t| (0..36).for_each(|i| t.put(NORM, i, &3e38f32.to_le_bytes())));
    let text = file(dir.path().join("text.txt"), damage::text(200));
    let output = run(&["eval", text_of(&model), "--text", text_of(&text), "--window", "64"]);
    refused("overflow", &output, BAD_INPUT, &["logits", "not finite"]);
}

#[test]
fn command_lines_that_make_no_sense_are_refused() {
    let (dir, model) = copy_with_tokenizer("llama-gqa-tied");
    let text = file(dir.path().join("text.txt"), damage::text(300));
    let out = dir.path().join(LOGITS);
    let (model, text, out) = (text_of(&model), text_of(&text), text_of(&out));
    let no_bos = copy_with_tokenizer("llama-gqa-tied");
    edit_json(&no_bos.1.join("config.json"), |c| c["bos_token_id"] = Value::Null);
    let no_bos = text_of(&no_bos.1);
    let long = damage::text(200);
    let cases: [(&[&str], i32, &[&str]); 22] = [
        (&["frobnicate"], USAGE, &["frobnicate"]),
        (&["inspect"], USAGE, &["<MODEL>"]),
        (&["inspect", model, "--frobnicate"], USAGE, &["--frobnicate"]),
        (&["logits", model, "--ids", "1,9999", "--out", out], BAD_INPUT, &["token id 9999", "position 1", "96 tokens"]),
        (&["logits", model, "--ids", "1,-2", "--out", out], USAGE, &["-2"]),
        (&["logits", model, "--ids", "1,4294967296", "--out", out], USAGE, &["4294967296"]),
        (&["logits", model, "--ids", "", "--out", out], USAGE, &["--ids"]),
        (&["eval", model, "--text", text, "--window", "3"], USAGE, &["window of 3", "4 at least"]),
        (&["eval", model, "--text", text, "--window", "18446744073709551615"], USAGE, &["18446744073709551615"]),
        (&["eval", model, "--text", text, "--max-windows", "0"], USAGE, &["--max-windows", "0"]),
        (&["eval", model, "--text", text, "--protocol", "guess"], USAGE, &["guess", "plain"]),
        (&["eval", no_bos, "--text", text, "--protocol", "bos"], USAGE, &["needs a BOS token", "--protocol plain"]),
        (&["run", no_bos, "--prompt", ""], USAGE, &["prompt has no tokens"]),
        (&["run", model, "--prompt", &long], USAGE, &["200 tokens", "context 128"]),
        (&["run", model, "--temperature", "NaN"], USAGE, &["--temperature", "NaN", "0 or more"]),
        (&["run", model, "--temperature=-1"], USAGE, &["--temperature", "-1", "0 or more"]),
        (&["run", model, "--top-p", "0"], USAGE, &["--top-p", "0", "above 0"]),
        (&["bench", model, "--prompt-tokens", "0"], USAGE, &["--prompt-tokens", "0"]),
        (&["bench", model, "--gen-tokens", "18446744073709551615"], USAGE, &["--gen-tokens", "18446744073709551615"]),
        (&["bench", model, "--repeat", "0"], USAGE, &["--repeat", "0"]),
        (&["inspect", model, "--threads", "1000000000"], USAGE, &["--threads", "1000000000"]),
        (&["inspect", model, "--threads", "-1"], USAGE, &["-1"]),
    ];
    for (args, code, says) in cases {
        refused(&args.join(" "), &run(args), code, says);
    }
    nothing_left("command lines", dir.path());
    let output = thimble(&["bench", model]).env("THIMBLE_ISA", "abacus").output().unwrap();
    refused("instruction set", &output, ENVIRONMENT, &["THIMBLE_ISA=abacus", "scalar"]);
}

/// What cannot be written is said, and leaves nothing; a device is not replaced.
#[test]
fn output_that_cannot_be_written_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let model = data::fixture("llama-gqa-tied");
    let model = text_of(&model);
    let logits = |out: &Path| run(&["logits", model, "--ids", "1", "--out", text_of(out)]);
    let below = file(dir.path().join("file"), "content").join(LOGITS);
    refused("below a file", &logits(&below), ENVIRONMENT, &["cannot write", LOGITS, "Not a directory"]);
    let absent = dir.path().join("absent").join(LOGITS);
    refused("in no folder", &logits(&absent), ENVIRONMENT, &["cannot write", LOGITS, "No such file"]);
    refused("over a folder", &logits(dir.path()), ENVIRONMENT, &["cannot write", "Is a directory"]);
    if !cfg!(target_os = "linux") {
        return;
    }
    refused("in /proc", &logits(Path::new("/proc/logits.safetensors")), ENVIRONMENT, &["cannot write", "/proc/logits.safetensors"]);

    // Through a link, so that a mistake replaces the link and not the device.
    let full = dir.path().join("full");
    std::os::unix::fs::symlink("/dev/full", &full).unwrap();
    refused("a full device", &logits(&full), ENVIRONMENT, &["cannot write", "full", "No space left", "hint: free some space"]);
    assert_eq!(std::fs::read_link(&full).unwrap(), Path::new("/dev/full"));
    nothing_left("output", dir.path());

    let inspect = |stdout: Stdio| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_thimble"));
        command.args(["inspect", model, "--tensors"]).stdout(stdout).stderr(Stdio::piped());
        command.spawn().unwrap()
    };
    let output = inspect(std::fs::File::create("/dev/full").unwrap().into()).wait_with_output().unwrap();
    refused("standard output is full", &output, ENVIRONMENT, &["cannot write standard output", "No space left"]);
    // A reader that has gone wants no more: `thimble inspect … | head -1`.
    let mut child = inspect(Stdio::piped());
    drop(child.stdout.take());
    done("standard output is closed", &child.wait_with_output().unwrap());
}

/// Up to three bytes of the first `meaning` changed, taken out or put in, or all cut
/// behind one.
fn damaged(sound: &[u8], meaning: usize, random: thimble::random::Random, number: u64) -> Vec<u8> {
    // Digits and signs turn one number into another, which random bytes rarely do.
    const SIGNS: &[u8] = b"0123456789-.e[]{}\",:*=\n\0\xff";
    let draw = |k: u64, below: usize| random.below(below as u64, 16 * number + k) as usize;
    let mut bytes = sound.to_vec();
    for k in 0..1 + draw(0, 3) as u64 {
        let at = draw(4 * k + 1, meaning.min(bytes.len()).max(1));
        let byte = SIGNS.get(draw(4 * k + 2, SIGNS.len() + 8)).copied().unwrap_or(draw(4 * k + 3, 256) as u8);
        match draw(4 * k + 4, 8) {
            0 => bytes.truncate(at),
            1 => bytes.insert(at.min(bytes.len()), byte),
            2 => drop(bytes.splice(at..(at + 1).min(bytes.len()), [])),
            _ => bytes[at..].iter_mut().take(1).for_each(|b| *b = byte),
        }
    }
    bytes
}

/// Bytes changed, cut and put in at random, mostly where they mean something: the
/// model is refused or runs, and nothing panics, overflows or asks for all memory.
/// `THIMBLE_DAMAGES` = how many for each file.
#[test]
fn random_damage_never_panics() {
    let count = std::env::var("THIMBLE_DAMAGES").map_or(300, |n| n.parse().unwrap());
    let (dir, model) = copy_with_tokenizer("llama-gqa-tied");
    let (_shards, sharded) = copy_of("llama-sharded-bf16");
    let native = dir.path().join("model.thimble");
    native_model(&native);
    let bin = file(dir.path().join("model.bin"), llama2c(8, 2));
    let pieces = ["<unk>", "\n<s>\n", "\n</s>\n", "a", "b", "w", " ", "ab", " w", "wa"];
    let piece = |text: &str| [&(-1.5f32).to_le_bytes(), &(text.len() as u32).to_le_bytes(), text.as_bytes()].concat();
    let pieces = [8u32.to_le_bytes().to_vec(), pieces.map(piece).concat()].concat();
    let pieces = file(dir.path().join("tokenizer.bin"), pieces);
    // A model, a file of it, and how many bytes at its start are no mere weights.
    let files: [(&Path, &Path, usize); 8] = [
        (&native, &native, 12_000),
        (&model, &model.join(WEIGHTS), 2_024),
        (&model, &model.join("config.json"), usize::MAX),
        (&model, &model.join("tokenizer.json"), usize::MAX),
        (&sharded, &sharded.join(INDEX), usize::MAX),
        (&sharded, &sharded.join("model-00003-of-00005.safetensors"), 900),
        (&bin, &bin, 28),
        (&bin, &pieces, usize::MAX),
    ];
    for (stream, (model, path, meaning)) in (1..).zip(files) {
        let random = thimble::random::Random::new(1, stream);
        let sound = std::fs::read(path).unwrap();
        open_and_run(model).unwrap();
        let (mut refused, mut codes) = (0, std::collections::BTreeSet::new());
        for i in 0..count {
            let bytes = damaged(&sound, meaning, random, i);
            std::fs::write(path, bytes).unwrap();
            if let Err(error) = open_and_run(model) {
                refused += 1;
                codes.insert(error.exit_code());
            }
        }
        std::fs::write(path, sound).unwrap();
        println!("{}: {refused} of {count} refused", path.display());
        assert!(refused * 5 > count && codes.iter().all(|&code| i32::from(code) == BAD_INPUT), "{}: {codes:?}", path.display());
    }
}

/// A recipe that takes no time.
const RTN: &str = "[[stage]]\n[stage.rtn]\n[calibration]\nsequences = 2\nlength = 16\n[evaluate]\nwindow = 16\nmax_windows = 1\n";

/// Read and resolved in this process; the binary is asked below, where it can
/// compress.
#[test]
fn recipes_that_make_no_sense_are_refused() {
    let deep = format!("a = {}", "[".repeat(DEEP));
    let cases: [(&str, &[&str], &[&str]); 35] = [
        ("[[stage]]\n[stage.gptq]\nbitz = 4\n", &[], &["line 3", "bitz", "bits"]),
        ("[calibration]\nsequence = 4\n", &[], &["line 2", "sequence", "sequences"]),
        ("[[stage]]\n[stage.sparkle]\n", &[], &["line 2", "sparkle", "gptq"]),
        ("[[stage]]\n[stage.rtn]\n[stage.gptq]\n", &[], &["line 1", "one method"]),
        ("[[stage]]\n", &[], &["line 1", "one method"]),
        ("[[stage]\n", &[], &["line 1"]),
        ("", &[], &["no [[stage]]"]),
        (&deep, &[], &["recursion"]),
        ("[[stage]]\n[stage.gptq]\nbits = \"four\"\n", &[], &["line 3", "four"]),
        ("[[stage]]\n[stage.gptq]\nbits = -4\n", &[], &["line 3", "-4"]),
        ("[[stage]]\n[stage.gptq]\nbits = 7\n", &[], &["bits = 7", "2, 3, 4, 5, 6, 8"]),
        ("[[stage]]\n[stage.rtn]\nembeddings = { bits = 1 }\n", &[], &["embeddings", "bits = 1"]),
        ("[[stage]]\n[stage.gptq]\ngroup_size = 48\n", &[], &["group_size = 48", "multiple of 32"]),
        ("[[stage]]\n[stage.gptq]\ngroup_size = 9223372036854775807\n", &[], &["group_size = 9223372036854775807", "multiple of 32"]),
        ("[[stage]]\n[stage.gptq]\nskip = [\"blocks.7.*\"]\n", &[], &["blocks.7.*", "names no matrix"]),
        ("[[stage]]\n[stage.gptq]\ndamp_percent = 0\n", &[], &["damp_percent 0", "above 0"]),
        ("[[stage]]\n[stage.gptq]\ndamp_percent = nan\n", &[], &["damp_percent NaN"]),
        ("[[stage]]\n[stage.rtn]\n[[stage]]\n[stage.gptq]\n", &[], &["gptq comes behind a stage that quantises"]),
        ("[[stage]]\n[stage.rtn]\n[output]\nformat = \"scroll\"\n", &[], &["\"scroll\"", "native"]),
        ("[[stage]]\n[stage.rtn]\n[evaluate]\nwindow = 500\n", &[], &["window 500", "context of 128"]),
        ("[[stage]]\n[stage.rtn]\n[evaluate]\nwindow = 3\n", &[], &["window of 3", "4 at least"]),
        ("[[stage]]\n[stage.rtn]\n[evaluate]\nprotocol = \"guess\"\n", &[], &["line 4", "guess", "plain"]),
        ("[[stage]]\n[stage.rtn]\n[evaluate]\nmax_windows = 0\n", &[], &["max_windows"]),
        ("[[stage]]\n[stage.rtn]\n[evaluate]\nmax_windows = 9223372036854775807\n", &[], &["9223372036854775807 times 128"]),
        ("[[stage]]\n[stage.rtn]\n[calibration]\nsequences = 0\n", &[], &["[calibration]", "sequences"]),
        ("[[stage]]\n[stage.rtn]\n[calibration]\nsequences = 9223372036854775807\n", &[], &["9223372036854775807 times 128"]),
        ("[[stage]]\n[stage.rtn]\n[calibration]\nlength = 1\n", &[], &["[calibration]", "length"]),
        ("[[stage]]\n[stage.rtn]\n[gate]\nmax_perplexity_increase = inf\n", &[], &["max_perplexity_increase"]),
        (RTN, &["rtn.bits=3", "rtn.bitz=3"], &["--set rtn.bitz=3", "bitz"]),
        (RTN, &["gptq.bits=3"], &["--set gptq.bits=3", "no stage or section gptq"]),
        (RTN, &["2.rtn.bits=3"], &["--set 2.rtn.bits=3", "no stage 2"]),
        (RTN, &["rtn.bits"], &["--set rtn.bits", "KEY=VALUE"]),
        (RTN, &["bits=3"], &["--set bits=3", "section or a method"]),
        (RTN, &["rtn.bits=many"], &["--set rtn.bits=many", "\"many\""]),
        (RTN, &["rtn.bits.deep=3"], &["--set rtn.bits.deep=3", "found a table"]),
    ];
    let model = thimble::runtime::open(&data::fixture("llama-gqa-tied"), None).unwrap();
    for (text, sets, says) in cases {
        let sets: Vec<String> = sets.iter().map(|set| set.to_string()).collect();
        let recipe = RawRecipe::parse(text, Path::new("recipe.toml"), &sets);
        let error = recipe.and_then(|recipe| recipe.resolve(model.spec())).expect_err(text);
        assert_eq!(i32::from(error.exit_code()), USAGE, "{error}");
        let message = error.to_string();
        let file = if sets.is_empty() { "recipe.toml" } else { "--set" };
        for part in says.iter().chain([&file]) {
            assert!(message.contains(part), "{text:.80} {sets:?}: {part:?} is not in\n{message}");
        }
    }
}

/// Recipes and assignments damaged at random are resolved, or refused as usage.
#[test]
fn random_recipes_never_panic() {
    let count = std::env::var("THIMBLE_DAMAGES").map_or(300, |n| n.parse().unwrap());
    let sound = "[calibration]\nsequences = 8\nlength = 64\n[[stage]]\n[stage.gptq]\nbits = 4\ngroup_size = 64\ndamp_percent = 0.01\n\
                 embeddings = { bits = 8, group_size = 32 }\nskip = [\"blocks.*.ffn.down\"]\n[evaluate]\nprotocol = \"plain\"\nwindow = 32\n\
                 [gate]\nmax_size_bytes = 5_000\nmax_perplexity_increase = 0.1\n";
    let set = "1.gptq.embeddings.bits=4";
    let spec = thimble::runtime::open(&data::fixture("llama-gqa-tied"), None).unwrap().spec().clone();
    let read = |text: &str, sets: &[String]| RawRecipe::parse(text, Path::new("recipe.toml"), sets)?.resolve(&spec);
    read(sound, &[set.into()]).unwrap();
    let random = thimble::random::Random::new(2, 0);
    let text = |sound: &str, number| String::from_utf8_lossy(&damaged(sound.as_bytes(), usize::MAX, random, number)).into_owned();
    let mut refused = 0;
    for i in 0..count {
        for result in [read(&text(sound, i), &[]), read(sound, &[text(set, i)])] {
            if let Err(error) = result {
                refused += 1;
                assert_eq!(i32::from(error.exit_code()), USAGE, "{error}");
            }
        }
    }
    println!("{refused} of {} refused", 2 * count);
}

#[cfg(not(feature = "torch"))]
#[test]
fn a_build_without_libtorch_says_how_to_get_one() {
    let dir = tempfile::tempdir().unwrap();
    let recipe = file(dir.path().join("recipe.toml"), "[[stage]]\n[stage.rtn]\n");
    let model = data::fixture("llama-gqa-tied");
    let out = dir.path().join("small");
    let output = run(&["compress", text_of(&recipe), "--model", text_of(&model), "--out", text_of(&out)]);
    refused("compress", &output, ENVIRONMENT, &["cannot compress", "libtorch", "make setup", "--features torch"]);
    assert!(!out.exists());
}

#[cfg(feature = "torch")]
mod compress {
    use super::*;
    use std::path::PathBuf;

    /// One thread: the machine may be busy, and these models are small.
    fn compress(recipe: &Path, model: &Path, out: &Path, extra: &[&str]) -> Output {
        run(&[&["compress", text_of(recipe), "--model", text_of(model), "--out", text_of(out), "--threads", "1"], extra].concat())
    }

    /// What cannot be compressed is found before anything is written.
    #[test]
    fn broken_models_are_refused_before_anything_is_written() {
        let cases = vec![
            case("cut", |dir| edit_bytes(&dir.join(WEIGHTS), |b| b.truncate(50_000)), &[WEIGHTS, "truncated"]),
            tensors("transposed", |t| t.header[DOWN]["shape"] = json!([44, 36]), &[WEIGHTS, DOWN, "[36, 44]", "[44, 36]"]),
            tensors("absent", |t| t.remove(DOWN), &[DOWN, "is missing"]),
            tensors("NaN", |t| t.put(DOWN, 5, &f32::NAN.to_le_bytes()), &[WEIGHTS, DOWN, "1 NaN", "index 5"]),
            tensors("NaN in the last norm", |t| t.put(NORM, 35, &f32::NAN.to_le_bytes()), &[WEIGHTS, NORM, "1 NaN", "index 35"]),
            case("unknown", |dir| edit_json(&dir.join("config.json"), |c| c["model_type"] = "frobnicate".into()), &["frobnicate", "llama"]),
        ];
        for (what, damage, says) in cases {
            let (dir, model) = copy_of("llama-gqa-tied");
            damage(&model);
            let out = dir.path().join("small");
            refused(what, &compress(&file(dir.path().join("recipe.toml"), RTN), &model, &out, &[]), BAD_INPUT, says);
            assert!(!out.exists(), "{what}: {} was made", out.display());
        }
    }

    /// Activations that are not finite are bad input, wherever they show.
    #[test]
    fn models_that_overflow_are_not_compressed() {
        const FIRST: &str = "model.layers.0.input_layernorm.weight";
        let cases =
            [("rtn", NORM, "logits"), ("rtn", FIRST, "activations of blocks.0.attn.q"), ("gptq", FIRST, "activations of blocks.0.attn.q")];
        for (method, norm, says) in cases {
            let recipe = RTN.replace("rtn", method);
            let (dir, model) = copy_with_tokenizer("llama-gqa-tied");
            edit_tensors(&model.join(WEIGHTS), |t| (0..36).for_each(|i| t.put(norm, i, &3e38f32.to_le_bytes())));
            let (recipe, out) = (file(dir.path().join("recipe.toml"), recipe), dir.path().join("small"));
            let text = file(dir.path().join("text.txt"), damage::text(400));
            let texts = ["--calibration", text_of(&text), "--eval-text", text_of(&text)];
            refused(says, &compress(&recipe, &model, &out, &texts), BAD_INPUT, &[says, "not finite"]);
            // No text can be sampled from such a model.
            refused("self", &compress(&recipe, &model, &dir.path().join("other"), &[]), BAD_INPUT, &["logits", "not finite"]);
            nothing_left(says, dir.path());
        }
    }

    /// What [`super::recipes_that_make_no_sense_are_refused`] tells, as it is printed.
    #[test]
    fn recipes_are_refused_before_anything_is_written() {
        let deep = format!("a = {}", "[".repeat(DEEP));
        let cases: [(&str, &[&str], &[&str]); 6] = [
            ("[[stage]]\n[stage.gptq]\nbitz = 4\n", &[], &["recipe.toml", "line 3", "bitz", "bits"]),
            ("[[stage]]\n[stage.rtn]\n[stage.gptq]\n", &[], &["recipe.toml", "line 1", "one method"]),
            (&deep, &[], &["recipe.toml", "recursion"]),
            ("[[stage]]\n[stage.gptq]\ngroup_size = 48\n", &[], &["recipe.toml", "group_size = 48", "multiple of 32"]),
            (RTN, &["--set", "gptq.bits=3"], &["--set gptq.bits=3", "no stage or section gptq"]),
            (RTN, &["--resume", "--fresh"], &["--resume", "--fresh"]),
        ];
        let (dir, model) = copy_of("llama-gqa-tied");
        let out = dir.path().join("small");
        let recipe = dir.path().join("recipe.toml");
        for (text, extra, says) in cases {
            std::fs::write(&recipe, text).unwrap();
            refused(&format!("{text:.80} {extra:?}"), &compress(&recipe, &model, &out, extra), USAGE, says);
        }
        refused("absent", &compress(&dir.path().join("absent.toml"), &model, &out, &[]), USAGE, &["absent.toml", "No such file"]);
        refused("no text", &compress(&file(recipe, b"\xff"), &model, &out, &[]), USAGE, &["recipe.toml", "UTF-8"]);
        assert!(!out.exists());
    }

    #[test]
    fn texts_that_are_too_short_are_refused_before_the_work() {
        let (dir, model) = copy_with_tokenizer("llama-gqa-tied");
        let at = |name: &str| dir.path().join(name);
        let recipe = file(at("recipe.toml"), RTN);
        let long = file(at("long.txt"), damage::text(400));
        let short = file(at("short.txt"), damage::text(10));
        let (long, short) = (text_of(&long), text_of(&short));
        let nowhere = at("nowhere.txt");
        let cases: [(&[&str], i32, &[&str]); 5] = [
            (&["--calibration", short, "--eval-text", long], USAGE, &["calibration", "10 tokens", "16"]),
            (&["--calibration", long, "--eval-text", short], USAGE, &["10 tokens", "window of 16"]),
            (&["--calibration", text_of(&nowhere)], BAD_INPUT, &["nowhere.txt", "No such file"]),
            (&["--eval-text", text_of(&nowhere)], BAD_INPUT, &["nowhere.txt", "No such file"]),
            (&["--tokenizer", long, "--eval-text", long], BAD_INPUT, &["long.txt", "neither"]),
        ];
        for (extra, code, says) in cases {
            let out = at("small");
            refused(&extra.join(" "), &compress(&recipe, &model, &out, extra), code, says);
            assert!(!out.join(".unfinished/stage-0").exists(), "{extra:?}: work was done");
        }
        edit_json(&model.join("config.json"), |c| c["bos_token_id"] = Value::Null);
        let output = compress(&recipe, &model, &at("small"), &["--set", "evaluate.protocol=bos", "--eval-text", long]);
        refused("no beginning of text", &output, USAGE, &["needs a BOS token"]);
        std::fs::remove_file(model.join("tokenizer.json")).unwrap();
        refused("no tokenizer", &compress(&recipe, &model, &at("small"), &["--eval-text", long]), BAD_INPUT, &["no tokenizer"]);
        nothing_left("texts", &at("small"));
    }

    #[test]
    fn nothing_is_compressed_twice_or_over_its_source() {
        let (dir, model) = copy_of("llama-gqa-tied");
        let recipe = file(dir.path().join("recipe.toml"), RTN);
        let card = file(model.join("README.md"), "the original's own");
        refused("over its source", &compress(&recipe, &model, &model, &[]), USAGE, &["model's own folder", "--out"]);
        assert_eq!(std::fs::read_to_string(card).unwrap(), "the original's own");
        nothing_left("over its source", &model);

        let small = dir.path().join("small");
        done("once", &compress(&recipe, &model, &small, &[]));
        let smaller = dir.path().join("smaller");
        refused("twice", &compress(&recipe, &small, &smaller, &[]), BAD_INPUT, &["small", "compressed already"]);
        assert!(!smaller.exists());
    }

    #[test]
    fn folders_that_cannot_be_written_are_said() {
        let (dir, model) = copy_of("llama-gqa-tied");
        let recipe = file(dir.path().join("recipe.toml"), RTN);
        let below = file(dir.path().join("file"), "content").join("small");
        refused("below a file", &compress(&recipe, &model, &below, &[]), ENVIRONMENT, &["cannot create", "file/small", "Not a directory"]);
        if cfg!(target_os = "linux") {
            for out in ["/proc", "/proc/small", "/sys/small"] {
                refused(out, &compress(&recipe, &model, Path::new(out), &[]), ENVIRONMENT, &["cannot create", out]);
            }
        }
    }

    /// A disk that is full at any point of a run: exit code 4, an earlier model
    /// stays as it was, and the same command goes on once there is room.
    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_disk_leaves_nothing_broken() {
        let (dir, model) = copy_of("llama-gqa-tied");
        let recipe = file(dir.path().join("recipe.toml"), RTN);
        let out = dir.path().join("small");
        std::fs::create_dir(&out).unwrap();
        // A file system of a few pages, which goes with the process. What is in it
        // then is told on standard output.
        let script = r#"mount -t tmpfs -o size="$1" none "$2" || exit 77; echo earlier > "$2/model.thimble"; out="$2"; shift 2
            "$@" > /dev/null; code=$?; find "$out" -name '*.part'; cat "$out/model.thimble"; exit $code"#;
        let on_a_disk_of = |size: &str| {
            let mut command = Command::new("unshare");
            command.args(["-rm", "sh", "-c", script, "sh", size]).arg(&out).arg(env!("CARGO_BIN_EXE_thimble"));
            command.args(["compress", text_of(&recipe), "--model", text_of(&model), "--out", text_of(&out), "--threads", "1"]);
            command.output()
        };
        for size in ["16k", "48k", "96k"] {
            let output = match on_a_disk_of(size) {
                Ok(output) if output.status.code() != Some(77) && output.status.code() != Some(1) => output,
                Ok(output) => return eprintln!("skipped: cannot mount here: {}", String::from_utf8_lossy(&output.stderr)),
                Err(e) => return eprintln!("skipped: cannot run unshare: {e}"),
            };
            assert_eq!(String::from_utf8_lossy(&output.stdout), "earlier\n", "{size}");
            let silent = Output { stdout: Vec::new(), ..output };
            refused(size, &silent, ENVIRONMENT, &["cannot write", "No space left", "hint: free some space"]);
        }
        let output = on_a_disk_of("4m").unwrap();
        assert!(output.status.success() && output.stdout.len() > 10_000, "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// The same by a limit on the size of a file, which every user may set, and the
    /// same command afterwards.
    #[cfg(unix)]
    #[test]
    fn files_that_cannot_grow_leave_nothing_broken() {
        let (dir, model) = copy_of("llama-gqa-tied");
        let recipe = file(dir.path().join("recipe.toml"), RTN);
        let out = dir.path().join("small");
        // In KiB: less than a part, and less than the model but more than its parts.
        for limit in ["4", "24"] {
            let mut command = Command::new("bash");
            // Without the trap the signal would end the process before the error.
            command.args(["-c", "trap '' XFSZ; ulimit -f \"$0\"; exec \"$@\"", limit, env!("CARGO_BIN_EXE_thimble")]);
            command.args(["compress", text_of(&recipe), "--model", text_of(&model), "--out", text_of(&out), "--threads", "1"]);
            refused(limit, &command.output().unwrap(), ENVIRONMENT, &["cannot write", "File too large"]);
            nothing_left(limit, &out);
        }
        let report: Value = serde_json::from_str(&done("with room", &compress(&recipe, &model, &out, &["--json"]))).unwrap();
        assert_eq!(report["resumed_blocks"], 2);
    }

    /// A model of twelve blocks that takes a second or two.
    struct Slow {
        dir: tempfile::TempDir,
    }

    /// How long to look for a part before giving up.
    const PATIENCE: Duration = Duration::from_secs(60);

    impl Slow {
        fn new() -> Self {
            let slow = Self { dir: tempfile::tempdir().unwrap() };
            let model = slow.at("model");
            std::fs::create_dir(&model).unwrap();
            let config = json!({
                "model_type": "llama", "hidden_size": 128, "intermediate_size": 352, "num_hidden_layers": 12, "num_attention_heads": 4,
                "num_key_value_heads": 2, "vocab_size": damage::VOCABULARY, "max_position_embeddings": 128,
                "tie_word_embeddings": true, "bos_token_id": 1, "eos_token_id": 2,
            });
            file(model.join("config.json"), config.to_string());
            file(model.join("tokenizer.json"), damage::tokenizer(damage::VOCABULARY).to_string());
            let (spec, family) = thimble::model::families::read_config(&model.join("config.json")).unwrap();
            let tensor = |p: &thimble::model::Parameter| family.names.sources(&spec, p).remove(0).tensors.remove(0);
            let random = thimble::random::Random::new(7, 0);
            let mut counter = 0;
            let mut draw = |shape: &[usize]| -> Vec<u8> {
                let number = |_| {
                    counter += 1;
                    if shape.len() == 1 { 1.0 } else { (random.uniform(counter) as f32 - 0.5) * 0.25 }
                };
                (0..shape.iter().product()).map(number).flat_map(f32::to_le_bytes).collect()
            };
            let made: Vec<_> = spec.parameters().into_iter().map(|p| (tensor(&p), draw(&p.shape), p.shape)).collect();
            let views = made.iter().map(|(name, bytes, shape)| {
                (name.as_str(), safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape.clone(), bytes).unwrap())
            });
            file(model.join(WEIGHTS), safetensors::serialize(views, None).unwrap());
            file(slow.at("text.txt"), damage::text(6_000));
            let recipe = "[calibration]\ntext = \"text.txt\"\nsequences = 16\nlength = 64\n[[stage]]\n[stage.gptq]\nbits = 4\n\
                          [evaluate]\ntext = \"text.txt\"\nwindow = 64\nmax_windows = 2\n";
            file(slow.at("recipe.toml"), recipe);
            slow
        }

        fn at(&self, name: &str) -> PathBuf {
            self.dir.path().join(name)
        }

        fn command(&self, out: &str, extra: &[&str]) -> Command {
            let mut command = Command::new(env!("CARGO_BIN_EXE_thimble"));
            command.arg("compress").arg(self.at("recipe.toml")).arg("--model").arg(self.at("model")).arg("--out").arg(self.at(out));
            command.args(["--threads", "1", "--json"]).args(extra).stdout(Stdio::piped()).stderr(Stdio::piped());
            command
        }

        /// Runs to the end: blocks that were resumed, and what was said.
        fn finish(&self, out: &str, extra: &[&str]) -> (u64, String) {
            let output = self.command(out, extra).output().unwrap();
            let report: Value = serde_json::from_str(&done(out, &output)).unwrap();
            assert!(!self.at(out).join(".unfinished").exists(), "the journal outlived the run");
            (report["resumed_blocks"].as_u64().unwrap(), String::from_utf8(output.stderr).unwrap())
        }

        /// Starts and kills once a block is on disk.
        fn kill_behind_a_block(&self, out: &str, extra: &[&str]) {
            let mut child = self.command(out, extra).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
            let block = self.at(out).join(".unfinished/stage-0/blocks.1.part.thimble");
            let start = std::time::Instant::now();
            while !block.exists() {
                assert!(child.try_wait().unwrap().is_none(), "the run has ended by itself");
                assert!(start.elapsed() < PATIENCE, "no block was made");
                std::thread::sleep(Duration::from_millis(1));
            }
            child.kill().unwrap();
            assert!(!child.wait().unwrap().success(), "the run was killed too late");
            assert!(!self.at(out).join(native::FILE_NAME).exists(), "a model before its last block");
        }

        fn bytes(&self, out: &str) -> Vec<u8> {
            std::fs::read(self.at(out).join(native::FILE_NAME)).unwrap()
        }

        fn part(&self, out: &str, name: &str) -> PathBuf {
            self.at(out).join(".unfinished/stage-0").join(format!("{name}.part.thimble"))
        }
    }

    #[test]
    fn a_killed_run_goes_on_where_it_stopped() {
        let slow = Slow::new();
        assert_eq!(slow.finish("whole", &[]).0, 0);

        slow.kill_behind_a_block("killed", &[]);
        let (resumed, said) = slow.finish("killed", &[]);
        assert!((2..12).contains(&resumed), "{resumed} blocks: {said}");
        assert!(slow.bytes("killed") == slow.bytes("whole"), "a resumed run gives other bytes");

        // The same with what the kill may have spoiled: a part is cut, another is
        // left half written, the token streams are no JSON.
        slow.kill_behind_a_block("spoiled", &[]);
        edit_bytes(&slow.part("spoiled", "blocks.1"), |bytes| bytes.truncate(bytes.len() / 2));
        file(slow.at("spoiled/.unfinished/stage-0/blocks.7.part.thimble.part"), "half");
        file(slow.at("spoiled/.unfinished/held-out.json"), "[[1, 2");
        let (resumed, said) = slow.finish("spoiled", &["--resume"]);
        assert!(resumed >= 1 && said.contains("blocks.1") && said.contains("truncated"), "{resumed} blocks: {said}");
        assert!(slow.bytes("spoiled") == slow.bytes("whole"), "a mended run gives other bytes");
    }

    #[test]
    fn an_unfinished_run_of_another_recipe_is_not_resumed() {
        let slow = Slow::new();
        let refusal = |what: &str, extra: &[&str], says: &[&str]| {
            refused(what, &slow.command("out", extra).output().unwrap(), USAGE, says);
        };
        refusal("nothing to resume", &["--resume"], &["--resume", "no unfinished run"]);

        slow.kill_behind_a_block("out", &[]);
        refusal("another recipe", &["--resume", "--set", "gptq.bits=3"], &["--resume", "another recipe", "--fresh"]);
        assert!(slow.part("out", "blocks.1").exists(), "a refusal must not take the work away");
        let (resumed, said) = slow.finish("out", &["--set", "gptq.bits=3"]);
        assert!(resumed == 0 && said.contains("another recipe") && said.contains("starting afresh"), "{resumed} blocks: {said}");

        // The model in place is complete and stays until a new one is read back.
        let earlier = slow.bytes("out");
        let mut child = slow.command("out", &[]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        while !slow.part("out", "blocks.1").exists() {
            assert!(child.try_wait().unwrap().is_none(), "the run has ended by itself");
            std::thread::sleep(Duration::from_millis(1));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(slow.bytes("out") == earlier, "a run that was killed has changed the model before it");

        edit_bytes(&slow.at("text.txt"), |text| text.truncate(text.len() - 100));
        refusal("another text", &["--resume"], &["--resume", "text"]);
        let (resumed, said) = slow.finish("out", &["--fresh"]);
        assert!(resumed == 0 && !said.contains("afresh"), "{resumed} blocks: {said}");
        assert!(slow.bytes("out") != earlier);
    }

    /// Killed at any moment, again and again: there is no broken model at any time,
    /// and in the end the one there would have been.
    #[test]
    fn a_run_survives_kills_at_any_moment() {
        let slow = Slow::new();
        let start = std::time::Instant::now();
        slow.finish("whole", &[]);
        let whole = start.elapsed();
        let random = thimble::random::Random::new(20, 26);
        let file = slow.at("killed").join(native::FILE_NAME);
        for i in 0..5 {
            let moment = whole.mul_f64(random.uniform(i));
            let mut child = slow.command("killed", &[]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
            std::thread::sleep(moment);
            child.kill().unwrap();
            child.wait().unwrap();
            if file.exists() {
                native::NativeFile::open(&file).unwrap_or_else(|e| panic!("killed after {moment:?}: {e}"));
            }
        }
        slow.finish("killed", &[]);
        assert!(slow.bytes("killed") == slow.bytes("whole"), "a run that was killed gives other bytes");
    }
}
