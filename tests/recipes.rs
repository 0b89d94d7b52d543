//! Every recipe in `recipes/` runs, on a tiny model, through the command line.
#![cfg(feature = "torch")]

#[path = "common/data.rs"]
mod data;

use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;

fn recipes() -> Vec<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("recipes");
    let mut all: Vec<_> =
        std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).filter(|p| p.extension().is_some_and(|e| e == "toml")).collect();
    all.sort();
    all
}

fn compress(recipe: &Path, model: &Path, out: &Path, more: &[&str]) -> std::process::Output {
    Command::new(env!("CARGO_BIN_EXE_thimble"))
        .arg("compress")
        .arg(recipe)
        .arg("--model")
        .arg(model)
        .arg("--out")
        .arg(out)
        .args(["--json", "--set", "calibration.sequences=4", "--set", "calibration.length=32"])
        .args(["--set", "evaluate.window=32", "--set", "evaluate.max_windows=2"])
        .args(more)
        .output()
        .unwrap()
}

/// On a fixture without a tokenizer: tokens are sampled from the model itself.
#[test]
fn every_recipe_runs_and_reports() {
    let recipes = recipes();
    assert!(recipes.len() >= 3);
    let folder = tempfile::tempdir().unwrap();
    let ids = folder.path().join("ids.bin");
    std::fs::write(&ids, (0..3000u16).flat_map(|i| (3 + i * 7 % 90).to_le_bytes()).collect::<Vec<_>>()).unwrap();
    for recipe in recipes {
        let out = tempfile::tempdir().unwrap();
        // These recipes' texts and limits are the demo model's.
        let mut sets: Vec<String> =
            ["calibration.text=self", "evaluate.text=self", "gate.max_perplexity_increase=9.0"].map(String::from).to_vec();
        let trained = distilling(&recipe);
        for stage in &trained {
            let ids = format!("text=['{}']", ids.display());
            sets.extend([&ids, "tokens=1024", "length=16"].map(|set: &str| format!("{stage}.training.{set}")));
        }
        let more: Vec<&str> = sets.iter().flat_map(|set| ["--set", set]).collect();
        let done = compress(&recipe, &data::fixture("llama-gqa-tied"), out.path(), &more);
        assert!(done.status.success(), "{}: {}", recipe.display(), String::from_utf8_lossy(&done.stderr));
        let report: Value = serde_json::from_slice(&done.stdout).unwrap();
        for key in ["size_bytes", "bits_per_weight", "peak_memory_bytes", "seconds"] {
            assert!(report[key].is_number(), "{key} in {report}");
        }
        let stage = &report["stages"][0];
        assert!(stage["method"].is_string() && stage["seconds"].is_number());
        for layer in stage["layers"].as_array().unwrap() {
            assert!(layer["name"].is_string() && layer["relative_error"].is_number() && layer["bits"].is_number(), "{layer}");
        }
        assert!(report["before"]["perplexity"].is_number() && report["after"]["kl_mean"].is_number());
        let written: Vec<_> = report["files"].as_array().unwrap().iter().map(|f| PathBuf::from(f.as_str().unwrap())).collect();
        assert!(written.len() == 4 + trained.len() && written.iter().all(|f| f.exists()));
        let left: Vec<_> = std::fs::read_dir(out.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(left.len(), written.len(), "nothing but what is listed remains: {left:?}");
    }
}

/// Where a recipe's stages say what they learn.
fn distilling(recipe: &Path) -> Vec<String> {
    let recipe: toml::Table = toml::from_str(&std::fs::read_to_string(recipe).unwrap()).unwrap();
    let stages = recipe["stage"].as_array().unwrap();
    let learns = |(number, stage): (usize, &toml::Value)| match (stage.get("distil"), stage.get("ternary")) {
        (Some(_), _) => Some(format!("{number}.distil")),
        (None, Some(ternary)) => ternary.get("distil").map(|_| format!("{number}.ternary.distil")),
        (None, None) => None,
    };
    (1..).zip(stages).filter_map(learns).collect()
}

/// What a token counts for decides what is solved.
#[test]
fn tokens_count_by_their_importance() {
    let recipe = Path::new(env!("CARGO_MANIFEST_DIR")).join("recipes/gptq-4bit.toml");
    let perplexity = |importance: &str| {
        let out = tempfile::tempdir().unwrap();
        let set = format!("calibration.token_importance={importance}");
        let done = compress(&recipe, &data::fixture("llama-gqa-tied"), out.path(), &["--set", &set]);
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        let report: Value = serde_json::from_slice(&done.stdout).unwrap();
        report["after"]["perplexity"].as_f64().unwrap()
    };
    let found = ["equal", "rarity", "activation_norm"].map(perplexity);
    assert!(found[0] != found[1] && found[0] != found[2] && found[1] != found[2], "{found:?}");
}

/// A gate that cannot be met: the model is written, marked so, and the exit code is 1.
#[test]
fn a_missed_gate_is_exit_code_1() {
    let (out, recipe) = (tempfile::tempdir().unwrap(), Path::new(env!("CARGO_MANIFEST_DIR")).join("recipes/gptq-4bit.toml"));
    let done = compress(&recipe, &data::fixture("llama-gqa-tied"), out.path(), &["--set", "gate.max_size_bytes=1000"]);
    assert_eq!(done.status.code(), Some(1), "{}", String::from_utf8_lossy(&done.stderr));
    let report: Value = serde_json::from_slice(&done.stdout).unwrap();
    assert_eq!(report["gate"], "missed");
    let inspected = Command::new(env!("CARGO_BIN_EXE_thimble")).args(["inspect", "--json"]).arg(out.path()).output().unwrap();
    let inspected: Value = serde_json::from_slice(&inspected.stdout).unwrap();
    assert_eq!(inspected["quality"]["gate"], "missed");
    assert_eq!(inspected["size_bytes"], report["size_bytes"]);
}

/// What `skip` names stays in 16 bits.
#[test]
fn skipped_layers_stay_in_16_bits() {
    let (out, recipe) = (tempfile::tempdir().unwrap(), Path::new(env!("CARGO_MANIFEST_DIR")).join("recipes/gptq-4bit.toml"));
    let done = compress(&recipe, &data::fixture("llama-gqa-tied"), out.path(), &["--set", "gptq.skip=['blocks.*.ffn.down', 'embeddings']"]);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let inspected = Command::new(env!("CARGO_BIN_EXE_thimble")).args(["inspect", "--tensors", "--json"]).arg(out.path()).output().unwrap();
    let inspected: Value = serde_json::from_slice(&inspected.stdout).unwrap();
    for tensor in inspected["tensors"].as_array().unwrap() {
        let (name, stored) = (tensor["name"].as_str().unwrap(), tensor["stored"].as_str().unwrap());
        match name {
            "embeddings" | "blocks.0.ffn.down" | "blocks.1.ffn.down" => assert_eq!(stored, "f16", "{name}"),
            _ if name.ends_with("norm") => assert_eq!(stored, "f32", "{name}"),
            _ => assert!(stored.starts_with("4 bits"), "{name}: {stored}"),
        }
    }
}

/// Settings that make no sense are refused before anything is read, by what to say
/// instead; what `--set` can say is what a file can.
#[test]
fn senseless_settings_say_what_is_expected() {
    let cases = [
        ("grid = 'mse'", "expected \"min_max\", \"least_error\", or a table"),
        ("grid = { foo = 1 }", "expected \"min_max\""),
        ("grid = { shrink = 1.0 }", "shrink 1 must be from 0 to below 1"),
        ("grid = { steps = 0 }", "steps 0 must be from 1"),
        ("grid = { norm = -2.0 }", "norm -2 must be a positive number"),
        ("grid = { zero_points = 9 }", "zero_points 9 must be at most 8"),
        ("symmetric = true\ngrid = { zero_points = 1 }", "zero_points are for asymmetric integers; leave them out"),
        ("data_type = 'normal'\ngrid = { zero_points = 1 }", "zero_points are for asymmetric integers; leave them out"),
        ("act_order = 'up'", "expected true, false or \"group_aware\""),
        ("precision = 'f16'", "expected `f32` or `f64`"),
        ("importance = true", "unknown field `importance`"),
        ("rescale = 'gptq'", "expected \"awq\", \"smooth\""),
        ("rescale = { smooth = 1.5 }", "smooth = 1.5 must be from 0"),
        ("rescale = { awq = { points = 0 } }", "points 0 must be from 1"),
        ("rescale = { awq = { point = 3 } }", "expected \"awq\", \"smooth\""),
        ("data_type = 'float'", "known are \"int\", \"fp\""),
        ("data_type = 'e2m2'", "data_type = \"e2m2\" has 5 bits, not 4; set bits = 5"),
        ("data_type = 'nf4'\nbits = 3", "data_type = \"nf4\" has 4 bits, not 3; set bits = 4"),
        ("data_type = 'fp'\nbits = 2", "known are 3, 4, 5, 6, 7, 8"),
        ("bits = 7", "known are 2, 3, 4, 5, 6, 8"),
        ("centred = true", "integers have zero points where symmetric = false"),
        ("data_type = 'dynamic'\ncentred = true\nsymmetric = true", "leave one out"),
        ("embeddings = { data_type = 'e4m3', bits = 4 }", "embeddings: data_type = \"e4m3\" has 8 bits"),
    ];
    let spec = thimble::model::DenseModel::open_hugging_face(&data::fixture("llama-gqa-tied")).unwrap();
    let resolve = |text: &str, sets: &[String]| {
        let recipe = thimble::recipe::RawRecipe::parse(text, Path::new("r.toml"), sets)?;
        recipe.resolve(spec.spec())
    };
    for (setting, says) in cases {
        let error = resolve(&format!("[[stage]]\n[stage.gptq]\n{setting}\n"), &[]).unwrap_err().to_string();
        assert!(error.contains(says), "{setting}: {says:?} is not in {error}");
        if setting.contains('\n') {
            continue;
        }
        let set = format!("gptq.{}", setting.replacen(" = ", "=", 1));
        assert!(resolve("[[stage]]\n[stage.gptq]\n", std::slice::from_ref(&set)).is_err(), "{set}");
    }
    for (setting, says) in [
        ("threshold = 0.0", "threshold 0 must be a positive number"),
        ("threshold = -6.0", "threshold -6 must be"),
        ("threshold = inf", "use [stage.rtn]"),
        ("threshold = nan", "threshold NaN must be"),
        ("threshold = '6'", "expected a number, found the text \"6\""),
        ("group_size = 48", "multiple of 32"),
        ("damp_percent = 0.1", "unknown field `damp_percent`"),
        ("[evaluate]\nactivations = 'int4'", "expected one of `int8`, `int8_token`, `f32`"),
    ] {
        let error = resolve(&format!("[[stage]]\n[stage.llm_int8]\n{setting}\n"), &[]).unwrap_err().to_string();
        assert!(error.contains(says), "{setting}: {says:?} is not in {error}");
    }
    resolve("[[stage]]\n[stage.llm_int8]\n", &["llm_int8.threshold=5.5".into(), "evaluate.activations=int8_token".into()]).unwrap();
    let weighted = "[[stage]]\n[stage.rtn]\nimportance = true\n";
    let error = resolve(weighted, &[]).unwrap_err().to_string();
    assert!(error.contains("set grid = \"least_error\""), "{error}");
    resolve(weighted, &["rtn.grid=least_error".into()]).unwrap();
    resolve("[[stage]]\n[stage.gptq]\n", &["gptq.act_order=group_aware".into(), "gptq.grid={norm=2}".into()]).unwrap();
    resolve("[[stage]]\n[stage.gptq]\n", &["gptq.rescale=awq".into()]).unwrap();
    resolve("[[stage]]\n[stage.rtn]\n", &["rtn.rescale={smooth=0.8}".into()]).unwrap();
}

/// What people paste from Windows, and what they swap.
#[test]
fn backslashes_and_folders_are_told() {
    for path in [r"C:\Users\me\text.txt", r"D:\data\text.txt"] {
        let recipe = format!("[calibration]\ntext = \"{path}\"\n[[stage]]\n[stage.rtn]\n");
        let error = thimble::recipe::RawRecipe::parse(&recipe, Path::new("r.toml"), &[]).unwrap_err().to_string();
        assert!(error.contains("put a path in single quotes") && error.contains("line 2"), "{error}");
        thimble::recipe::RawRecipe::parse(&recipe.replace('"', "'"), Path::new("r.toml"), &[]).unwrap();
    }
    let error = thimble::recipe::RawRecipe::read(&data::fixture("llama-gqa-tied"), &[]).unwrap_err();
    assert!(error.to_string().contains("--model names the model") && error.exit_code() == 2, "{error}");
}

/// What each name of a data type stands for.
#[test]
fn data_types_have_names() {
    let spec = thimble::model::DenseModel::open_hugging_face(&data::fixture("llama-gqa-tied")).unwrap();
    let stored = |keys: &str| {
        let text = format!("[[stage]]\n[stage.rtn]\n{keys}\n");
        let recipe = thimble::recipe::RawRecipe::parse(&text, Path::new("r.toml"), &[]).unwrap().resolve(spec.spec()).unwrap();
        let thimble::recipe::Stage::Quantize(plan) = &recipe.stages[0] else { panic!("it quantises") };
        let schemes = &plan.schemes;
        [&schemes["blocks.0.attn.q"], &schemes["embeddings"]].map(ToString::to_string)
    };
    let int8 = "8 bits, groups of 64, asymmetric";
    assert_eq!(stored("bits = 4"), ["4 bits, groups of 64, asymmetric", int8]);
    assert_eq!(stored("data_type = 'int'\nsymmetric = true"), ["4 bits, groups of 64, symmetric", int8]);
    assert_eq!(stored("data_type = 'nf4'"), ["4 bits, nf4, groups of 64", int8]);
    assert_eq!(
        stored("group_size = -1\nembeddings = { group_size = -1 }"),
        ["4 bits, whole rows, asymmetric", "8 bits, whole rows, asymmetric"]
    );
    assert_eq!(stored("data_type = 'normal'\nbits = 3\ngroup_size = 0"), ["3 bits, nf3, whole rows", int8]);
    assert_eq!(stored("data_type = 'fp'\nbits = 8\ncentred = true"), ["8 bits, e3m4, groups of 64, centred", int8]);
    let quantiles = stored("data_type = 'e3m0'\nembeddings = { data_type = 'quantile', bits = 7, group_size = 32 }");
    assert_eq!(quantiles, ["4 bits, e3m0, groups of 64", "7 bits, quantile, groups of 32"]);
    assert_eq!(stored("data_type = 'dynamic'\nbits = 6")[0], "6 bits, dynamic, groups of 64");
}

/// Old names of keys parse to the same resolved recipe as the new ones, in a file and with `--set`, which replaces
/// a key under either name; both names at once are an error.
#[test]
fn old_names_of_keys_are_still_read() {
    let spec = thimble::model::DenseModel::open_hugging_face(&data::fixture("llama-gqa-tied")).unwrap();
    let resolve = |keys: &str, training: &str, sets: &[&str]| {
        let text = format!("[[stage]]\n[stage.distil]\n{keys}\n[stage.distil.training]\ntext = ['a.txt']\n{training}\n");
        let sets: Vec<String> = sets.iter().map(|set| format!("distil.{set}")).collect();
        let recipe = thimble::recipe::RawRecipe::parse(&text, Path::new("r.toml"), &sets)?.resolve(spec.spec())?;
        Ok::<_, thimble::error::Error>(serde_json::to_value(&recipe).unwrap())
    };
    let default = resolve("", "", &[]).unwrap();
    for (section, old, new, value) in [
        ("", "soft", "kd_weight", "0.25"),
        ("", "hard", "ce_weight", "0.75"),
        ("training.", "last", "min_lr_ratio", "0.3"),
        ("training.", "average", "ema_decay", "0.9"),
        ("training.", "trains", "trainable", "'norms'"),
    ] {
        let with = |lines: &str, sets: &[&str]| if section.is_empty() { resolve(lines, "", sets) } else { resolve("", lines, sets) };
        let [of_old, of_new] = [old, new].map(|key| format!("{key} = {value}"));
        let expected = with(&of_new, &[]).unwrap();
        assert_ne!(expected, default, "{new}");
        assert!(
            expected.to_string().contains(&format!("\"{new}\"")) && !expected.to_string().contains(&format!("\"{old}\"")),
            "{expected}"
        );
        assert_eq!(with(&of_old, &[]).unwrap(), expected, "{old}");
        for key in [old, new] {
            let set = format!("{section}{key}={value}");
            for written in ["", &of_old, &of_new] {
                assert_eq!(with(written, &[&set]).unwrap(), expected, "--set {set} over {written:?}");
            }
        }
        let both = with(&format!("{of_old}\n{of_new}"), &[]).unwrap_err().to_string();
        assert!(both.contains(&format!("duplicate field `{new}`")), "{both}");
    }
}
