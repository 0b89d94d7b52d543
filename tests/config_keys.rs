//! Keys of configurations that a family does not read, against what the configurations of
//! transformers' language models carry (`python-compat/write_config_keys.py`).

#[path = "common/data.rs"]
mod data;
#[path = "common/wild.rs"]
mod wild;

use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::path::Path;
use thimble::model::families::{Config, FAMILIES, is_classified, read, unused};

/// Default configurations of transformers' language models.
fn configurations() -> BTreeMap<String, Map<String, Value>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/configurations.json");
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// A configuration with the keys that Llama must have.
fn small_llama() -> Value {
    json!({
        "model_type": "llama", "hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2,
        "intermediate_size": 128, "vocab_size": 96, "max_position_embeddings": 128, "hidden_act": "silu",
    })
}

fn with(mut config: Value, more: Value) -> Config {
    config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    Config::of(Path::new("config.json"), config).unwrap()
}

/// What is said of a configuration's unused keys: an error, or what a warning names.
fn verdict(config: &Config) -> Result<Vec<String>, String> {
    let (spec, _) = read(config).map_err(|e| e.to_string())?;
    Ok(unused(config, &spec))
}

#[test]
fn default_configurations_of_families_are_read_whole() {
    for group in wild::groups() {
        let config = Config::of(Path::new("config.json"), group.cases[0].config.clone()).unwrap();
        assert_eq!(verdict(&config), Ok(Vec::new()), "{}", group.name);
    }
}

/// Configurations as published files of the families have them.
#[test]
fn configurations_of_fixtures_are_read_whole() {
    for (name, dir) in data::fixtures() {
        let config = Config::read(&dir.join("config.json")).unwrap();
        let unused = verdict(&config).unwrap_or_else(|e| panic!("{name}: {e}"));
        // What Gemma's first releases call gelu.
        let expected = if name == "gemma-one-kv-head" { vec!["hidden_act = \"gelu\" (its tanh approximation is used)"] } else { vec![] };
        assert_eq!(unused, expected, "{name}");
    }
}

/// Keys that several classes of transformers carry are known to be harmless or to change the
/// mathematics, so that a model with them is never run as a Llama.
#[test]
fn keys_of_several_classes_are_classified() {
    let mut classes: BTreeMap<String, usize> = BTreeMap::new();
    for config in configurations().values() {
        config.keys().for_each(|key| *classes.entry(key.clone()).or_default() += 1);
    }
    let probe = with(small_llama(), json!({}));
    read(&probe).unwrap();
    let unknown: Vec<_> = classes.iter().filter(|(key, n)| **n >= 3 && !is_classified(key) && !probe.was_asked(key)).collect();
    assert!(classes.len() > 400 && unknown.is_empty(), "{} of {}: {unknown:?}", unknown.len(), classes.len());
}

/// Models of other families whose `model_type` was set to `llama`: refused, or a warning,
/// except for those whose configuration says nothing that Llama's does not.
#[test]
fn other_families_under_the_name_of_llama() {
    let mut silent = Vec::new();
    for (model_type, config) in configurations() {
        if FAMILIES.iter().any(|family| family.model_type == model_type) {
            continue;
        }
        let config = with(config.into(), json!({ "model_type": "llama" }));
        match verdict(&config) {
            Ok(unused) if unused.is_empty() => silent.push(model_type),
            Ok(unused) => println!("{model_type}: warned: {unused:?}"),
            Err(error) => println!("{model_type}: {error}"),
        }
    }
    assert_eq!(silent, SAME_KEYS, "models that would run as Llama without a word");
}

/// Classes whose default configurations have the keys of Llama alone, so that nothing in them
/// tells: Llama's mathematics, further tensors in the weights (which are warned about), or other
/// pairs of rotary dimensions.
const SAME_KEYS: [&str; 12] = [
    // Its feed-forward has no gate, so its weights are refused.
    "arcee",
    "dots1",
    "emu3",
    "ernie4_5",
    "got_ocr2",
    "helium",
    "hunyuan_v1_dense",
    "internlm3",
    "iquestcoder",
    "moss_transcribe_diarize",
    "phi4_multimodal",
    "seed_oss",
];

/// The multipliers of Granite (case of a `model_type` that was set to `llama`), and the same keys
/// with the values that change nothing.
#[test]
fn multipliers_are_refused_unless_neutral() {
    let multipliers = json!({
        "embedding_multiplier": 12.0, "attention_multiplier": 0.0078125, "residual_multiplier": 0.22, "logits_scaling": 16.0
    });
    let error = verdict(&with(small_llama(), multipliers.clone())).unwrap_err();
    multipliers.as_object().unwrap().keys().for_each(|key| assert!(error.contains(key.as_str()), "{key}: {error}"));
    let ones = json!({ "embedding_multiplier": 1, "attention_multiplier": 0.25, "residual_multiplier": 1.0, "logits_scaling": 1.0 });
    assert_eq!(verdict(&with(small_llama(), ones)), Ok(Vec::new()));
}

#[test]
fn neutral_values_are_told_from_others() {
    let cases = [
        ("attn_logit_softcapping", json!(null), json!(50.0)),
        ("num_local_experts", json!(0), json!(8)),
        ("use_qk_norm", json!(false), json!(true)),
        ("scale_depth", json!(2.0), json!(1.4)),
        ("dim_model_base", json!(64), json!(256)),
        ("query_pre_attn_scalar", json!(16), json!(256)),
        ("sliding_window", json!(128), json!(64)),
        ("layer_types", json!(["full_attention", "full_attention"]), json!(["full_attention", "chunked_attention"])),
        ("no_rope_layers", json!([1, 1, 1, 1]), json!([1, 1, 1, 0])),
        ("partial_rotary_factor", json!(1.0), json!(0.5)),
        ("rotary_emb_base", json!(10000), json!(500000)),
        ("pruned_heads", json!({}), json!({ "1": [0] })),
        ("mlp_layer_types", json!(["dense", "dense"]), json!(["dense", "sparse"])),
        ("use_bias", json!(false), json!(true)),
        ("num_query_groups", json!(2), json!(4)),
    ];
    for (key, neutral, other) in cases {
        assert_eq!(verdict(&with(small_llama(), json!({ key: neutral }))), Ok(Vec::new()), "{key}");
        let error = verdict(&with(small_llama(), json!({ key: other }))).expect_err(key);
        assert!(error.contains(key), "{key}: {error}");
    }
    // A window that is switched off, as Qwen's configurations have it.
    let off = json!({ "use_sliding_window": false, "sliding_window": 64, "max_window_layers": 2 });
    assert_eq!(verdict(&with(small_llama(), off)), Ok(Vec::new()));
    let unknown = verdict(&with(small_llama(), json!({ "flux_capacitance": 1.21 })));
    assert_eq!(unknown, Ok(vec!["flux_capacitance = 1.21".to_owned()]));
}

/// Both spellings of rotary settings: transformers 5 reads `rope_scaling` alone. The base is
/// then that of the class (`tests/wild.rs` compares the logits).
#[test]
fn rotary_settings_that_another_overrides_are_named() {
    let new = json!({ "rope_theta": 1_000_000.0, "rope_type": "default" });
    let linear = json!({ "type": "linear", "factor": 2.0 });
    let both = json!({ "rope_parameters": new, "rope_scaling": linear });
    assert_eq!(verdict(&with(small_llama(), both)), Ok(vec!["rope_parameters.rope_theta = 1000000.0".to_owned()]));
    let empty = json!({ "rope_parameters": new, "rope_scaling": {} });
    assert_eq!(verdict(&with(small_llama(), empty)), Ok(Vec::new()));
    let beside = json!({ "rope_parameters": new, "rope_theta": 500.0 });
    assert_eq!(verdict(&with(small_llama(), beside)), Ok(vec!["rope_theta = 500.0".to_owned()]));
    let further = json!({ "rope_scaling": { "type": "linear", "factor": 2.0, "beta_fast": 32 } });
    assert_eq!(verdict(&with(small_llama(), further)), Ok(vec!["rope_scaling.beta_fast = 32".to_owned()]));
}

/// What the versions of transformers read differently in one file.
#[test]
fn rotary_settings_that_versions_read_differently_are_refused() {
    let cases = [
        (json!({ "rope_theta": 1e4, "rope_scaling": { "type": "linear", "factor": 2.0, "rope_theta": 500.0 } }), "rope_theta"),
        (json!({ "rope_scaling": { "type": "default", "rope_type": "linear", "factor": 2.0 } }), "rope_type"),
        (
            json!({ "rope_scaling": { "type": "longrope", "short_factor": [1.0], "long_factor": [1.0], "factor": 2.0,
                "original_max_position_embeddings": 16 } }),
            "original_max_position_embeddings",
        ),
        (json!({ "rope_parameters": { "rope_type": "default", "llama_4_scaling_beta": 0.1 } }), "llama_4_scaling_beta"),
    ];
    for (more, says) in cases {
        let error = verdict(&with(small_llama(), more)).unwrap_err();
        assert!(error.contains(says), "{says}: {error}");
    }
}

/// The warning is one line, and comes once.
#[test]
fn unused_keys_are_warned_about_in_one_line() {
    let dir = tempfile::tempdir().unwrap();
    let group = wild::groups().into_iter().find(|group| group.name == "llama-v5").unwrap();
    group.write(&group.cases[0], dir.path());
    let path = dir.path().join("config.json");
    let mut config = group.cases[0].config.clone();
    config.as_object_mut().unwrap().extend((0..12).map(|i| (format!("strange_{i}"), json!(i + 1))));
    config["rope_scaling"] = json!({ "type": "linear", "factor": 2.0 });
    config["rope_parameters"]["rope_theta"] = json!(5e5);
    std::fs::write(&path, config.to_string()).unwrap();
    let output =
        assert_cmd::Command::new(env!("CARGO_BIN_EXE_thimble")).args(["inspect", dir.path().to_str().unwrap(), "--json"]).output().unwrap();
    assert!(output.status.success());
    let stderr = String::from_utf8(output.stderr).unwrap();
    let lines: Vec<_> = stderr.lines().filter(|line| line.contains("strange_") || line.contains("rope_theta")).collect();
    assert_eq!(lines.len(), 1, "{stderr}");
    assert!(lines[0].contains("rope_parameters.rope_theta = 500000.0") && lines[0].contains("and 5 more"), "{stderr}");
}
