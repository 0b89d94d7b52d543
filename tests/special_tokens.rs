//! Which tokens begin and end a text, against transformers 4.57 and 5.23: `tests/data/beginnings.json`
//! has what both give for folders of tokenizer files (`python-compat/write_beginnings.py`).

#[path = "common/damage.rs"]
mod damage;
#[path = "common/data.rs"]
mod data;

use damage::{copy_of, copy_with_tokenizer, edit_json, file};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use tempfile::TempDir;
use thimble::eval::{Protocol, windows};
use thimble::model::ModelSpec;
use thimble::quant::native::{self, Notes};
use thimble::runtime;
use thimble::text::Tokenizer;

fn beginnings() -> Value {
    serde_json::from_str(include_str!("data/beginnings.json")).unwrap()
}

fn ids(value: &Value) -> Vec<u32> {
    serde_json::from_value(value.clone()).unwrap()
}

/// The folder of a row.
fn folder(all: &Value, row: &Value) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    file(path("config.json"), json!({ "model_type": row["model_type"] }).to_string());
    if !row["tokenizer_config"].is_null() {
        file(path("tokenizer_config.json"), row["tokenizer_config"].to_string());
    }
    match &row["tokenizer"] {
        Value::String(name) => {
            let mut made = all["tokenizers"][name].clone();
            made["post_processor"] = row["post_processor"].clone();
            file(path("tokenizer.json"), made.to_string());
        }
        files => {
            let committed = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/tokenizers");
            for (source, target) in files.as_object().unwrap() {
                std::fs::copy(committed.join(source), path(target.as_str().unwrap())).unwrap();
            }
        }
    }
    dir
}

/// What a version puts before a text, and its ids without that.
fn of_version(row: &Value, version: &str) -> Option<(Vec<u32>, Vec<Vec<u32>>)> {
    let texts = row["ids"][version].as_array()?;
    let pairs: Vec<[Vec<u32>; 2]> = texts.iter().map(|text| [ids(&text[0]), ids(&text[1])]).collect();
    let before = |[with, without]: &[Vec<u32>; 2]| {
        let at = with.windows(without.len()).position(|part| part == without).expect("the text is in it");
        with[..at].to_vec()
    };
    assert!(pairs.iter().all(|pair| before(pair) == before(&pairs[0])));
    Some((before(&pairs[0]), pairs.into_iter().map(|[_, without]| without).collect()))
}

/// Where the two versions agree, ours is what they do. Where they differ, a template in tokenizer.json
/// decides as in version 5, and a switch where there is no template as in version 4.
#[test]
fn texts_begin_as_in_transformers() {
    let all = beginnings();
    let (mut agreed, mut same_ids) = (0, 0);
    for row in all["rows"].as_array().unwrap() {
        let name = row["name"].as_str().unwrap();
        let dir = folder(&all, row);
        let tokenizer = Tokenizer::find(dir.path()).unwrap().expect(name);
        let [four, five] = ["4.57.6", "5.23.0"].map(|version| of_version(row, version));
        let (five, without) = five.expect("version 5 reads all of them");
        let four = four.map_or_else(|| five.clone(), |(four, _)| four);
        agreed += usize::from(four == five);
        let template = row["post_processor"]["type"] != Value::Null && row["post_processor"]["type"] != "ByteLevel";
        // Its switch counts more than a template in both versions.
        let overrides = name.starts_with("CodeLlama") || name.starts_with("GPTNeoX");
        // Version 4 takes the class from config.json's model_type.
        let expected = if template && !overrides || name == "no-config-none" { five } else { four };
        // Version 4 writes XGLM's eos_token first; both read it from the class.
        assert_eq!(tokenizer.prefix(), expected, "{name}");
        let texts: Vec<&str> = all["texts"].as_array().unwrap().iter().map(|text| text.as_str().unwrap()).collect();
        same_ids += usize::from(texts.iter().zip(&without).all(|(text, ids)| tokenizer.encode(text).unwrap() == *ids));

        // The file by itself says the same.
        let again = Tokenizer::from_file(tokenizer.file().to_vec(), Path::new("again.json")).unwrap();
        assert_eq!(again.prefix(), tokenizer.prefix(), "{name}, from its file alone");
    }
    assert!(agreed > 80 && same_ids > 100, "{agreed} rows are the same in both versions, {same_ids} give our ids");
}

/// A tokenizer of 96 words that puts these tokens before a text.
fn puts(model: &Path, before: &[(&str, u32)]) {
    edit_json(&model.join("tokenizer.json"), |tokenizer| {
        let special = before.iter().map(|(token, _)| json!({ "SpecialToken": { "id": token, "type_id": 0 } }));
        let single: Vec<Value> = special.chain([json!({ "Sequence": { "id": "A", "type_id": 0 } })]).collect();
        let tokens = before.iter().map(|(token, id)| (token.to_string(), json!({ "id": token, "ids": [id], "tokens": [token] })));
        let tokens: serde_json::Map<String, Value> = tokens.collect();
        tokenizer["post_processor"] = json!({ "type": "TemplateProcessing", "single": single, "pair": [{ "Sequence": { "id": "A", "type_id": 0 } }, { "Sequence": { "id": "B", "type_id": 0 } }], "special_tokens": tokens });
    });
}

fn thimble(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_thimble")).args(args).output().unwrap()
}

fn json_of(args: &[&str]) -> Value {
    let done = thimble(&[args, &["--json"]].concat());
    assert!(done.status.success(), "{args:?}: {}", String::from_utf8_lossy(&done.stderr));
    serde_json::from_slice(&done.stdout).unwrap()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

const NONE: &[(&str, u32)] = &[];
const ONE: &[(&str, u32)] = &[("<s>", 1)];
const TWO: &[(&str, u32)] = &[("w7", 7), ("<s>", 1)];

/// Run and the native file follow the tokenizer; the number in config.json alone puts nothing.
#[test]
fn prompts_begin_as_the_tokenizer_says() {
    let (dir, model) = copy_with_tokenizer("llama-gqa-tied");
    for before in [NONE, ONE, TWO] {
        puts(&model, before);
        let expected: Vec<u32> = before.iter().map(|(_, id)| *id).collect();
        let opened = runtime::open(&model, None).unwrap();
        assert_eq!((opened.spec().special.prefix(), opened.spec().special.bos), (&expected[..], Some(1)));
        let native = dir.path().join("model.thimble");
        native::write_model(&native, &*opened.store, opened.tokenizer.as_ref().map(|t| t.file()), &Notes::default()).unwrap();
        for path in [&model, &native] {
            let run = |more: &[&str]| {
                let args = ["run", text(path), "--max-tokens", "2", "--temperature", "0"];
                ids(&json_of(&[&args, more].concat())["prompt_ids"])
            };
            assert_eq!(run(&["--prompt", "w5 w6"]), [&expected[..], &[5, 6]].concat());
            assert_eq!(run(&["--prompt", "w5 w6", "--no-bos"]), [5, 6]);
            // Nothing to continue: from the model's BOS token, whatever the tokenizer puts.
            assert_eq!(run(&[]), if expected.is_empty() { vec![1] } else { expected.clone() });
        }
        // A file of an earlier version has no such field, and means BOS.
        let mut spec: Value = serde_json::to_value(opened.spec()).unwrap();
        assert_eq!(spec["special"].get("prefix").is_some(), before != ONE);
        spec["special"].as_object_mut().unwrap().remove("prefix");
        let spec: ModelSpec = serde_json::from_value(spec).unwrap();
        assert_eq!(spec.special.prefix(), [1]);
    }
    // Another tokenizer for a native file, which has one that puts two tokens first.
    let other = file(dir.path().join("other.json"), damage::tokenizer(damage::VOCABULARY).to_string());
    let opened = runtime::open(&dir.path().join("model.thimble"), Some(&other)).unwrap();
    assert_eq!(opened.spec().special.prefix(), [0u32; 0]);
}

/// Protocols with BOS put it whatever the tokenizer does, and say so.
#[test]
fn protocols_say_what_they_put_before_a_window() {
    let (dir, model) = copy_with_tokenizer("llama-gqa-tied");
    let held_out = file(dir.path().join("text.txt"), damage::text(200));
    let eval =
        |protocol: &str| thimble(&["eval", text(&model), "--text", text(&held_out), "--window", "32", "--protocol", protocol, "--json"]);
    for (protocol, put, before) in [("plain", None, NONE), ("bos", Some(1), NONE), ("llamacpp", Some(1), NONE), ("bos", Some(1), ONE)] {
        puts(&model, before);
        let done = eval(protocol);
        let report: Value = serde_json::from_slice(&done.stdout).unwrap();
        assert_eq!(report.get("bos_token_id").and_then(Value::as_u64), put, "{protocol}");
        let warned = String::from_utf8(done.stderr).unwrap().contains("puts token 1 (BOS) before each window");
        assert_eq!(warned, put.is_some() && before == NONE, "{protocol}");
    }
    let spec = runtime::open(&model, None).unwrap().spec().clone();
    let stream: Vec<u32> = (5..85).collect();
    let first = |protocol| windows(&stream, &spec, protocol, 16, None).unwrap()[0].ids[..3].to_vec();
    assert_eq!([Protocol::Plain, Protocol::Bos, Protocol::LlamaCpp].map(first), [[5, 6, 7], [1, 5, 6], [1, 6, 7]]);
}

/// Calibration and what is sampled from the model.
#[cfg(feature = "torch")]
#[test]
fn calibration_begins_as_the_tokenizer_says() {
    use thimble::pipeline::calibration_sequences;
    use thimble::progress::Silent;
    use thimble::recipe::{Calibration, RawRecipe};
    use thimble::text::Text;
    let (_dir, model) = copy_with_tokenizer("llama-gqa-tied");
    let stream: Vec<u32> = {
        puts(&model, NONE);
        runtime::open(&model, None).unwrap().tokenizer().unwrap().encode(&damage::text(400)).unwrap()
    };
    for before in [NONE, ONE, TWO] {
        puts(&model, before);
        let expected: Vec<u32> = before.iter().map(|(_, id)| *id).collect();
        let opened = runtime::open(&model, None).unwrap();
        let recipe = "[calibration]\nsequences = 20\nlength = 16\n[[stage]]\n[stage.rtn]\nbits = 8\n[evaluate]\nwindow = 16\n";
        let recipe = RawRecipe::parse(recipe, Path::new("recipe.toml"), &[]).unwrap().resolve(opened.spec()).unwrap();
        let calibration: &Calibration = &recipe.calibration;
        let file = model.join("calibration.txt");
        std::fs::write(&file, damage::text(400)).unwrap();
        let text = Text::open(&file).unwrap();
        let pieces = calibration_sequences(&opened, Some(&text), calibration, 1, &Silent).unwrap();
        let own = 16 - expected.len();
        for piece in &pieces {
            assert_eq!((piece.len(), &piece[..expected.len()]), (16, &expected[..]));
            let rest = &piece[expected.len()..];
            assert!(stream.chunks_exact(own).any(|part| part == rest), "{rest:?} is a piece of the text");
        }
        let sampled = calibration_sequences(&opened, None, calibration, 1, &Silent).unwrap();
        assert!(sampled.iter().all(|piece| piece.len() == 16 && piece.starts_with(&expected)));
        let firsts: std::collections::BTreeSet<u32> = sampled.iter().map(|piece| piece[0]).collect();
        assert_eq!(firsts.len() > 1, expected.is_empty(), "{firsts:?}: random tokens where nothing is put");
    }
}

/// Every token at which `generate` of transformers ends a text ends ours, and none that neither
/// file names. In transformers generation_config.json replaces config.json; here both count.
#[test]
fn texts_end_where_generation_config_says() {
    let (dir, model) = copy_of("llama-gqa-tied");
    for row in beginnings()["ends"].as_array().unwrap() {
        edit_json(&model.join("config.json"), |config| config["eos_token_id"] = row["config"].clone());
        let generation = model.join("generation_config.json");
        _ = std::fs::remove_file(&generation);
        if row["generation"] != "absent" {
            file(generation, json!({ "bos_token_id": 1, "eos_token_id": row["generation"], "temperature": 0.7 }).to_string());
        }
        let opened = runtime::open_weights(&model).unwrap();
        let ours = &opened.spec().special.eos;
        assert!(ids(&row["ends"]).iter().all(|id| ours.contains(id)), "{row}: {ours:?}");
        let named = |value: &Value| value.as_array().cloned().unwrap_or_else(|| vec![value.clone()]);
        let union: Vec<Value> = [named(&row["config"]), named(&row["generation"])].concat();
        assert!(ours.iter().all(|id| union.contains(&json!(id))), "{row}: {ours:?}");
        assert_eq!(ours.len(), ours.iter().collect::<std::collections::BTreeSet<_>>().len(), "each once");

        let native = dir.path().join("model.thimble");
        native::write_model(&native, &*opened.store, None, &Notes::default()).unwrap();
        assert_eq!(&runtime::open_weights(&native).unwrap().spec().special, &opened.spec().special);
    }
    file(model.join("generation_config.json"), r#"{"eos_token_id": "</s>"}"#);
    let error = runtime::open_weights(&model).map(|_| ()).unwrap_err();
    assert!(error.to_string().contains("generation_config.json: \"eos_token_id\"") && error.exit_code() == 3, "{error}");
}

/// Greedily, until a token comes that only generation_config.json names.
#[test]
fn run_ends_there() {
    let (_dir, model) = copy_with_tokenizer("llama-gqa-tied");
    edit_json(&model.join("config.json"), |config| config["eos_token_id"] = Value::Null);
    let run = || ids(&json_of(&["run", text(&model), "--prompt", "w9 w12", "--temperature", "0", "--max-tokens", "12"])["ids"]);
    let all = run();
    let end = all[5];
    file(model.join("generation_config.json"), json!({ "eos_token_id": [95, end] }).to_string());
    let until = all.iter().position(|&id| id == end || id == 95).unwrap();
    assert_eq!(run(), all[..until]);
}

fn stderr(done: &Output) -> String {
    String::from_utf8(done.stderr.clone()).unwrap()
}

/// Ids of no token are left out, with one warning for all of them; numbers that are no ids are errors as before.
#[test]
fn special_ids_outside_the_vocabulary_are_ignored() {
    for (fixture, keys) in [("llama-gqa-tied", ["bos_token_id", "eos_token_id"]), ("gpt2-by-layer", ["bos_token_id", "eos_token_id"])] {
        let (dir, model) = copy_with_tokenizer(fixture);
        let held_out = file(dir.path().join("text.txt"), damage::text(200));
        for (value, kept) in [(json!(50256), vec![]), (json!(96), vec![]), (json!(-1), vec![]), (json!([2, 96, 4_000_000_000u64]), vec![2])]
        {
            edit_json(&model.join("config.json"), |config| {
                config[keys[0]] = json!(50256);
                config[keys[1]] = value.clone();
                config["pad_token_id"] = json!(-1);
            });
            let special = runtime::open(&model, None).unwrap().spec().special.clone();
            assert_eq!((special.bos, &special.eos, special.prefix()), (None, &kept, &[][..]), "{fixture}, {value}");
            let done = thimble(&["eval", text(&model), "--text", text(&held_out), "--window", "32"]);
            let said = stderr(&done);
            assert!(done.status.success(), "{said}");
            let warnings: Vec<&str> = said.lines().filter(|line| line.contains("WARN")).collect();
            assert_eq!(warnings.len(), 1, "{said}");
            for part in ["config.json", "96 tokens", "bos_token_id 50256", "pad_token_id -1"] {
                assert!(warnings[0].contains(part), "{part}: {said}");
            }
        }
        edit_json(&model.join("config.json"), |config| config["eos_token_id"] = json!("</s>"));
        assert!(stderr(&thimble(&["inspect", text(&model)])).contains("\"eos_token_id\": expected a token id or a list of them"));
    }
}

fn add_token(model: &Path, id: u32, content: &str) {
    edit_json(&model.join("tokenizer.json"), |tokenizer| {
        let token = json!({ "id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true });
        tokenizer["added_tokens"].as_array_mut().unwrap().push(token);
    });
}

/// Tokens without a row are told once; only a text that uses one is an error.
#[test]
fn tokens_without_a_row() {
    for fixture in ["llama-gqa-tied", "gpt2-by-layer", "qwen3-tied"] {
        let (dir, model) = copy_with_tokenizer(fixture);
        add_token(&model, 96, "<image>");
        let held_out = file(dir.path().join("text.txt"), damage::text(200));
        let eval = |path: &PathBuf| thimble(&["eval", text(&model), "--text", text(path), "--window", "32"]);
        let done = eval(&held_out);
        let said = stderr(&done);
        assert!(done.status.success() && said.lines().count() == 1, "{said}");
        for part in ["\"<image>\" (id 96)", "embedding of 96"] {
            assert!(said.contains(part), "{part}: {said}");
        }
        let bad = file(dir.path().join("bad.txt"), "w5 w6\nw7 é <image> w8\n");
        let done = eval(&bad);
        let said = stderr(&done);
        assert_eq!(done.status.code(), Some(3), "{said}");
        for part in ["bad.txt", "\"<image>\"", "id 96", "token 5 of", "line 2, character 6", "96 rows"] {
            assert!(said.contains(part), "{part}: {said}");
        }
    }
    let (_dir, model) = copy_with_tokenizer("llama-gqa-tied");
    (96..106).for_each(|id| add_token(&model, id, &format!("<extra_{id}>")));
    let said = stderr(&thimble(&["run", text(&model), "--prompt", "w5", "--max-tokens", "1"]));
    assert!(said.contains("\"<extra_98>\" (id 98) and 7 more have no row") && said.matches("WARN").count() == 1, "{said}");
    // A token that would be put before every text.
    puts(&model, &[("<extra_96>", 96)]);
    let done = thimble(&["run", text(&model), "--prompt", "w5"]);
    assert!(done.status.code() == Some(3) && stderr(&done).contains("puts token 96 before every text"), "{}", stderr(&done));
}

/// Tokenizers of one size and other words are refused; further words and other padding are not.
#[test]
fn words_are_compared() {
    let made = |edit: &dyn Fn(&mut Value)| {
        let mut json = damage::tokenizer(96);
        edit(&mut json);
        Tokenizer::from_file(json.to_string().into_bytes(), Path::new("tokenizer.json")).unwrap()
    };
    let swap = |json: &mut Value, a: &str, b: &str| {
        let words = json["model"]["vocab"].as_object_mut().unwrap();
        let (x, y) = (words[a].clone(), words[b].clone());
        (words[a], words[b]) = (y, x);
    };
    let ours = made(&|_| {});
    let check = |edit: &dyn Fn(&mut Value)| ours.check_same(&made(edit)).map_err(|error| error.to_string());
    let token = |id: u32, content: &str| json!({ "id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true });
    check(&|_| {}).unwrap();
    check(&|json| json["added_tokens"] = json!([token(96, "<image>")])).unwrap();
    check(&|json| json["padding"] = json!({ "strategy": "BatchLongest", "direction": "Left", "pad_to_multiple_of": 8, "pad_id": 0, "pad_type_id": 0, "pad_token": "<unk>" })).unwrap();
    check(&|json| json["post_processor"] = json!({ "type": "BertProcessing", "sep": ["</s>", 2], "cls": ["<s>", 1] })).unwrap();
    // Two words that the usual sample of letters does not have.
    let error = check(&|json| swap(json, "w40", "w41")).unwrap_err();
    assert!(error.contains("token 40 is \"w41\" here and \"w40\" in") && error.contains("one tokenizer"), "{error}");
    assert!(check(&|json| swap(json, "<s>", "</s>")).is_err());
    let renamed = |json: &mut Value| {
        let words = json["model"]["vocab"].as_object_mut().unwrap();
        words.remove("w95");
        words.insert("other".into(), json!(95));
    };
    assert!(check(&renamed).unwrap_err().contains("token 95"));
    // The same words, read otherwise.
    assert!(
        check(&|json| json["normalizer"] = json!({ "type": "Replace", "pattern": { "String": "w" }, "content": "W" }))
            .unwrap_err()
            .contains("encodes a sample text differently")
    );
    // A reserved special token with another name is a warning.
    let reserved = |name: &'static str| made(&move |json| json["added_tokens"] = json!([token(96, name)]));
    reserved("<|reserved_0|>").check_same(&reserved("<|im_start|>")).unwrap();
}

/// The same words in merges of another order.
#[test]
fn merges_are_compared() {
    let all = beginnings();
    let pieces = |edit: &dyn Fn(&mut Value)| {
        let mut json = all["tokenizers"]["pieces"].clone();
        edit(&mut json);
        Tokenizer::from_file(json.to_string().into_bytes(), Path::new("tokenizer.json")).unwrap()
    };
    let ours = pieces(&|_| {});
    ours.check_same(&pieces(&|_| {})).unwrap();
    let error = ours.check_same(&pieces(&|json| json["model"]["merges"].as_array_mut().unwrap().truncate(2))).unwrap_err().to_string();
    assert!(error.contains("encodes a sample text differently"), "{error}");
}

/// A reference of as many words and other ones, by the command.
#[test]
fn references_with_other_words_are_refused() {
    let (dir, model) = copy_with_tokenizer("llama-gqa-tied");
    let (_other_dir, other) = copy_with_tokenizer("llama-gqa-tied");
    let held_out = file(dir.path().join("text.txt"), damage::text(200));
    let eval = || thimble(&["eval", text(&model), "--text", text(&held_out), "--window", "32", "--reference", text(&other)]);
    assert!(eval().status.success());
    edit_json(&other.join("tokenizer.json"), |json| {
        let words = json["model"]["vocab"].as_object_mut().unwrap();
        (words["w60"], words["w61"]) = (json!(61), json!(60));
    });
    let done = eval();
    assert_eq!(done.status.code(), Some(3));
    assert!(stderr(&done).contains("token 60 is \"w61\" here and \"w60\" in"), "{}", stderr(&done));
}

/// A teacher that ends texts otherwise: said before the training, and in the report.
#[cfg(feature = "torch")]
#[test]
fn a_teacher_that_ends_otherwise_is_told() {
    let (dir, student) = copy_with_tokenizer("llama-gqa-tied");
    let (_teacher_dir, teacher) = copy_with_tokenizer("llama-gqa-tied");
    file(dir.path().join("text.txt"), damage::text(3000));
    let recipe = format!(
        "[[stage]]\n[stage.distil]\nteacher = {:?}\n[stage.distil.training]\ntext = [\"text.txt\"]\nlength = 16\ntokens = 256\nbatch = 4\nmicro_batch = 4\nheld_out = 2\n\
         [evaluate]\ntext = \"text.txt\"\nwindow = 16\nmax_windows = 2\n",
        text(&teacher)
    );
    let recipe = file(dir.path().join("recipe.toml"), recipe);
    let out = dir.path().join("out");
    let distil = || {
        let done = thimble(&["compress", text(&recipe), "--model", text(&student), "--out", text(&out), "--fresh"]);
        assert!(done.status.success(), "{}", stderr(&done));
        let report: Value = serde_json::from_slice(&std::fs::read(out.join("report.json")).unwrap()).unwrap();
        (stderr(&done), report["stages"][0]["remarks"].clone())
    };
    let (said, remarks) = distil();
    assert!(!said.contains("ends texts") && remarks.as_array().is_none_or(Vec::is_empty), "{said}{remarks}");
    file(teacher.join("generation_config.json"), json!({ "eos_token_id": [2, 3] }).to_string());
    let (said, remarks) = distil();
    let remark = "the teacher ends texts with tokens 2, 3 and the student with token 2";
    assert!(said.contains(remark), "{said}");
    assert_eq!(remarks[0], remark);
    puts(&teacher, ONE);
    let (_, remarks) = distil();
    assert_eq!(remarks[1], "the teacher's tokenizer puts token 1 before a text and the student's no token; both are given the student's");
}

/// A Hugging Face output keeps the files that say it.
#[cfg(feature = "torch")]
#[test]
fn hugging_face_outputs_keep_the_ends() {
    let (dir, model) = copy_with_tokenizer("llama-gqa-tied");
    puts(&model, TWO);
    file(model.join("generation_config.json"), json!({ "eos_token_id": [2, 7] }).to_string());
    let recipe = "[calibration]\nsequences = 4\nlength = 16\n[[stage]]\n[stage.prune_depth]\nlayers = 1\n[evaluate]\nwindow = 16\nmax_windows = 2\ntasks = \"tasks\"\n[output]\nformat = \"hf\"\n";
    let recipe = file(dir.path().join("recipe.toml"), recipe);
    let tasks = dir.path().join("tasks");
    std::fs::create_dir(&tasks).unwrap();
    file(tasks.join("cloze.jsonl"), "{\"context\": \"w5 w6\", \"continuation\": \"w9 w10\"}\n");
    let out = dir.path().join("out");
    let done = thimble(&["compress", text(&recipe), "--model", text(&model), "--out", text(&out)]);
    assert!(done.status.success(), "{}", stderr(&done));
    // Tasks of the written folder begin as the tokenizer says, and not as config.json does.
    let report: Value = serde_json::from_slice(&std::fs::read(out.join("report.json")).unwrap()).unwrap();
    let perplexity = |tasks: &Value| tasks["cloze"]["perplexity"].as_f64().unwrap();
    let again = json_of(&["eval", text(&out), "--tasks", text(&tasks)]);
    let (reported, again) = (perplexity(&report["after"]["tasks"]), perplexity(&again["tasks"]));
    assert!((reported / again - 1.0).abs() < 1e-4, "{reported} {again}");
    let spec = json_of(&["inspect", text(&out)])["spec"].clone();
    assert_eq!(spec["special"], json!({ "bos": 1, "eos": [2, 7], "prefix": [7, 1] }));
    let [before, after] = [&model, &out].map(|path| runtime::open(path, None).unwrap().spec().special.clone());
    assert_eq!(before, after);
    assert_eq!((&after.eos[..], after.prefix()), (&[2, 7][..], &[7, 1][..]));
}
