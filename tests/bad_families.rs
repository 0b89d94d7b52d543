//! Configurations, checkpoints and specs that no family can make sense of: a
//! sentence that names what is wrong, and never a panic.

#[path = "common/damage.rs"]
mod damage;
#[path = "common/data.rs"]
mod data;

use damage::{copy_of, edit_json, edit_tensors};
use serde_json::{Value, json};
use std::path::Path;
use thimble::model::{DenseModel, ModelSpec};
use thimble::runtime::{self, Activations, Decoder, KvCache, Step};

/// Opening fails, and says all of these.
#[track_caller]
fn refused(what: &str, dir: &Path, says: &[&str]) {
    let error = match runtime::open(dir, None) {
        Ok(_) => panic!("{what}: it was opened"),
        Err(error) => error.to_string(),
    };
    let missing: Vec<_> = says.iter().filter(|part| !error.contains(**part)).collect();
    assert!(missing.is_empty(), "{what}: {missing:?} not in: {error}");
}

#[track_caller]
fn config_refused(fixture: &str, change: Value, says: &[&str]) {
    let (_dir, model) = copy_of(fixture);
    edit_json(&model.join("config.json"), |config| {
        let change = change.as_object().unwrap().clone();
        config.as_object_mut().unwrap().extend(change);
    });
    refused(&format!("{fixture} with {change}"), &model, says);
}

/// What a configuration says and the spec cannot is never ignored.
#[test]
fn settings_of_other_mathematics_are_refused_by_name() {
    let unknown_rope = json!({ "rope_parameters": { "rope_type": "spiral", "rope_theta": 1e4 } });
    config_refused("llama-gqa-tied", unknown_rope, &["spiral"]);
    config_refused("llama-gqa-tied", json!({ "hidden_act": "sine" }), &["hidden_act", "sine"]);
    config_refused("bloom-six-heads", json!({ "apply_residual_connection_post_layernorm": true }), &["apply_residual"]);
    config_refused("gpt2-unscaled", json!({ "add_cross_attention": true }), &["add_cross_attention"]);
    config_refused("openlm-arguments", json!({ "attn_name": "custom_attn" }), &["custom_attn"]);
    config_refused("phonelm-tied", json!({ "rope_scaling": { "type": "linear", "factor": 2.0 } }), &["rope_scaling"]);
    config_refused("gemma2-layer-types", json!({ "layer_types": ["full_attention"] }), &["layer_types"]);
    let bidirectional = json!({ "use_bidirectional_attention": true });
    config_refused("gemma3_text-layer-types", bidirectional, &["use_bidirectional_attention"]);
    config_refused("gemma3_text-layer-types", json!({ "attn_logit_softcapping": 50.0 }), &["attn_logit_softcapping = 50.0"]);
    let flat = json!({ "rope_parameters": { "rope_type": "linear", "factor": 8.0 } });
    config_refused("gemma3_text-layer-types", flat, &["rope_parameters", "full_attention and sliding_attention"]);
    let both = json!({ "rope_scaling": { "rope_type": "linear", "factor": 8.0 } });
    config_refused("gemma3_text-layer-types", both, &["rope_scaling", "rope_parameters"]);
    let old_kind = json!({ "rope_scaling": { "type": "linear", "factor": 8.0 } });
    config_refused("gemma3_text-scaled-global", old_kind, &["rope_scaling", "rope_type"]);
    let unread = json!({ "rope_parameters": { "full_attention": { "rope_type": "default", "mrope_section": [2, 1, 1] } } });
    config_refused("gemma3_text-layer-types", unread, &["rope_parameters.mrope_section"]);
    let original = json!({ "original_max_position_embeddings": 64 });
    config_refused("gemma3_text-scaled-global", original, &["original_max_position_embeddings"]);
    config_refused("smollm3-window", json!({ "no_rope_layers": [1, 1, 0] }), &["no_rope_layers", "3", "4"]);
    config_refused("smollm3-window", json!({ "no_rope_layers": [1, 1, 1, 2] }), &["no_rope_layers", "0 and 1"]);
    let switched_off = json!({ "use_sliding_window": false, "layer_types": vec!["sliding_attention"; 4] });
    config_refused("smollm3-window", switched_off, &["sliding_window"]);
    config_refused("gpt_neo-window", json!({ "attention_types": [[["global"], 1]] }), &["1", "2"]);
    config_refused("openelm-shared-head", json!({ "ffn_multipliers": [1.0, 2.0, 3.0, 4.0] }), &["ffn_multipliers", "4", "3"]);
    let longrope = json!({ "rope_scaling": { "type": "longrope", "short_factor": [1.0], "long_factor": [1.0] } });
    config_refused("phi3-long", longrope, &["short_factor", "1"]);
}

/// Running quantised weights as they lie would be another model.
#[test]
fn quantised_checkpoints_of_other_kinds_are_refused() {
    let normed = json!({ "quantization_config": { "quant_method": "bitnet", "use_rms_norm": true } });
    config_refused("bitnet-relu2", normed, &["use_rms_norm"]);
    let patterns = json!({ "quantization_config": { "quant_method": "bitnet", "modules_to_not_convert": ["layers.*"] } });
    config_refused("bitnet-relu2", patterns, &["modules_to_not_convert", "layers.*"]);
    let unpacked = json!({ "quantization_config": { "quant_method": "bitnet" } });
    config_refused("bitnet-relu2", unpacked, &["quantization_config", "weight_scale"]);
}

/// The nearest family is one whose keys the configuration has, and what differs is
/// what that family would not read.
#[test]
fn unknown_families_name_the_nearest() {
    let small = json!({
        "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9,
        "num_key_value_heads": 3, "rms_norm_eps": 1e-5, "rope_theta": 5e6, "hidden_act": "silu", "vocab_size": 49152,
        "max_position_embeddings": 8192, "tie_word_embeddings": true, "torch_dtype": "bfloat16", "attention_dropout": 0.0,
    });
    let cases = [
        ("pebble", json!({ "logit_scale": 0.0625 }), "the nearest is llama", "it does not read logit_scale"),
        ("quartz", json!({ "embedding_multiplier": 12.0, "residual_multiplier": 0.22 }), "the nearest is llama", "embedding_multiplier"),
        ("gemma9", json!({ "head_dim": 64, "hidden_activation": "gelu" }), "the nearest is gemma", "what differs"),
        ("bert", json!({ "type_vocab_size": 2 }), "the nearest is", "it is an encoder"),
        ("t5", json!({ "is_encoder_decoder": true }), "the nearest is", "it has an encoder"),
        ("gemma3", json!({ "text_config": { "model_type": "gemma3_text" } }), "its text model is gemma3_text", "save that by itself"),
        ("mistral3", json!({ "text_config": { "model_type": "ministral3" } }), "its text model is ministral3", "save that by itself"),
    ];
    for (name, more, nearest, differs) in cases {
        let dir = tempfile::tempdir().unwrap();
        let mut config = small.clone();
        config["model_type"] = name.into();
        config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        std::fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
        let model_type = format!("unknown model_type \"{name}\"");
        refused(name, dir.path(), &[&model_type, nearest, differs, "known are bitnet, bloom"]);
        let error = runtime::open(dir.path(), None).err().unwrap().to_string();
        assert!(!error.contains("attention_dropout") && !error.contains("torch_dtype"), "{error}");
    }
}

/// Parts of one parameter must be of one number format: joined bytes have no other.
#[test]
fn heads_of_different_formats_are_refused() {
    let (_dir, model) = copy_of("stablelm-parallel");
    edit_tensors(&model.join("model.safetensors"), |tensors| {
        let name = "model.layers.0.self_attn.q_layernorm.norms.1.weight";
        let numbers = tensors.header[name]["shape"][0].as_u64().unwrap();
        tensors.resize(name, 2 * numbers as usize);
        tensors.header[name]["shape"] = json!([numbers]);
        tensors.header[name]["dtype"] = "F16".into();
    });
    refused("norms of different formats", &model, &["norms.1.weight", "F16", "F32"]);
}

/// MobiLlama's weights settle what its configuration leaves open; broken ones do not.
#[test]
fn a_scalar_key_projection_is_refused() {
    let (_dir, model) = copy_of("mobillama-shared");
    edit_tensors(&model.join("model.safetensors"), |tensors| {
        let name = "model.layers.0.self_attn.k_proj.weight";
        tensors.resize(name, 4);
        tensors.header[name]["shape"] = json!([]);
    });
    refused("a scalar", &model, &["k_proj", "shape"]);
}

/// Positions that have no row in a learned table.
#[test]
fn sequences_behind_the_last_position_are_refused() {
    let model = runtime::open(&data::fixture("gpt2-unscaled"), None).unwrap();
    let context = model.spec().context;
    let ids: Vec<u32> = (0..=context as u32).map(|i| i % 90).collect();
    let decoder = Decoder::new(&*model.store, Activations::F32, 1).unwrap();
    let mut cache = KvCache::new(model.spec());
    let error = decoder.forward(&mut [Step { cache: &mut cache, ids: &ids }]).unwrap_err().to_string();
    assert!(error.contains(&format!("{} tokens", context + 1)) && error.contains("table of positions"), "{error}");
    #[cfg(feature = "torch")]
    {
        use thimble::model::LogitSource;
        let mut torch = thimble::compress::TorchLogits::new(model.store.clone(), thimble::compress::Compute::CPU);
        assert_eq!(torch.run_window(&ids).unwrap_err().to_string(), error);
    }
    // A token reads its row of the table, and of the embedding where that is not the head.
    let tables: usize = model.spec().parameters().iter().filter(|p| p.name == "positions").map(|p| 4 * p.shape[1]).sum();
    let others = model.spec().parameters().into_iter().filter(|p| p.name != "positions");
    let others: usize = others.map(|p| 4 * p.shape.iter().product::<usize>()).sum();
    let looked_up = if model.spec().tied { 0 } else { 4 * (model.spec().vocab_size - 1) * model.spec().hidden_size };
    assert_eq!(model.bytes_per_token().unwrap(), (tables + others - looked_up) as u64);
}

/// By default a measurement takes no more tokens than the model has positions for.
#[test]
fn bench_fits_into_the_table_of_positions() {
    let bench = |more: &[&str]| {
        let mut command = assert_cmd::Command::new(env!("CARGO_BIN_EXE_thimble"));
        command.args(["bench", data::fixture("gpt2-unscaled").to_str().unwrap(), "--repeat", "1", "--json"]).args(more);
        command.output().unwrap()
    };
    assert!(bench(&[]).status.success());
    let refused = bench(&["--prompt-tokens", "500"]);
    assert_eq!(refused.status.code(), Some(2));
    let stderr = String::from_utf8(refused.stderr).unwrap();
    assert!(stderr.contains("--prompt-tokens 500") && stderr.contains("--gen-tokens"), "{stderr}");
}

/// Specs that anyone may have written into a file's header.
#[test]
fn senseless_specs_are_refused() {
    let spec = |fixture: &str| serde_json::to_value(DenseModel::open_hugging_face(&data::fixture(fixture)).unwrap().spec()).unwrap();
    type Edit = fn(&mut Value);
    let cases: [(&str, Edit, &str); 12] = [
        ("xglm-scaled", |s| s["embedding"]["positions"]["sinusoidal"]["first"] = u64::MAX.into(), "first position"),
        (
            "phi3-long",
            |s| s["blocks"][1]["mixer"]["attention"]["rotary"]["scaling"]["long_rope"]["original_context"] = 3.into(),
            "same length",
        ),
        ("bloom-six-heads", |s| s["blocks"][0]["mixer"]["attention"]["alibi"] = json!([0.5]), "ALiBi"),
        ("gemma2-softcaps", |s| s["blocks"][0]["mixer"]["attention"]["softcap"] = (-1.0).into(), "softcap"),
        ("phi-partial", |s| s["blocks"][0]["mixer"]["attention"]["rotary"]["dims"] = 3.into(), "dimensions"),
        ("phi-partial", |s| s["blocks"][0]["ffn_norm"] = s["blocks"][0]["mixer_norm"].clone(), "of its own"),
        ("mobilellm-layer-share", |s| s["blocks"][1]["weights_of"] = 1.into(), "earlier"),
        ("mobilellm-layer-share", |s| s["blocks"][3]["weights_of"] = 1.into(), "earlier"),
        ("mobillama-shared", |s| s["blocks"][2]["ffn"]["width"] = 7.into(), "not like it"),
        ("rwkv-wide-attention", |s| s["blocks"][0]["mixer"]["wkv"]["width"] = 0.into(), "recurrent state"),
        ("rwkv-wide-attention", |s| s["blocks"][0]["residual"] = "parallel".into(), "side by side"),
        ("phonelm-tied", |s| s["blocks"][0]["mixer"]["attention"]["rotary"]["steps"] = 0.into(), "0 steps"),
    ];
    for (fixture, edit, says) in cases {
        let mut value = spec(fixture);
        let sound: ModelSpec = serde_json::from_value(value.clone()).unwrap();
        sound.check().unwrap_or_else(|reason| panic!("{fixture}: {reason}"));
        edit(&mut value);
        let broken: ModelSpec = serde_json::from_value(value).unwrap_or_else(|e| panic!("{fixture}: {e}"));
        let reason = broken.check().expect_err(fixture).to_string();
        assert!(reason.contains(says), "{fixture}: {says:?} is not in {reason}");
    }
}
