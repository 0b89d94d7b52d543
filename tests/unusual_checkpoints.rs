//! Weights as people have them: under a wrapper's names, with what a quantised or an adapted
//! model left in them, with tensors of another model beside them. What opens gives the logits
//! that transformers computed for the same weights (see `python-compat/write_fixtures.py`).

#[path = "common/damage.rs"]
mod damage;
#[path = "common/data.rs"]
mod data;
#[path = "common/openings.rs"]
mod openings;

use damage::{copy_of, edit_json, edit_tensors};
use openings::{WEIGHTS, is_refused, opens_as_transformers, warns, write_json};
use serde_json::json;

const CONFIG: &str = "config.json";
const MODEL: &str = "llama-untied-biases";
const TIED: &str = "llama-gqa-tied";
const DOWN: &str = "model.layers.1.mlp.down_proj";

/// A fixture whose tensors have other names.
fn renamed(fixture: &str, to: impl Fn(&str) -> String) -> (tempfile::TempDir, std::path::PathBuf) {
    let (dir, model) = copy_of(fixture);
    edit_tensors(&model.join(WEIGHTS), |tensors| tensors.rename(to));
    (dir, model)
}

/// In front of all names, behind their first part, and in the middle of them.
#[test]
fn names_under_wrappers_are_found() {
    type Rename = fn(&str) -> String;
    let wrappers: [(&str, Rename); 12] = [
        ("_orig_mod", |n| format!("_orig_mod.{n}")),
        ("module", |n| format!("module.{n}")),
        ("_orig_mod.module", |n| format!("_orig_mod.module.{n}")),
        ("module._orig_mod", |n| format!("module._orig_mod.{n}")),
        ("base_model.model", |n| format!("base_model.model.{n}")),
        ("language_model", |n| format!("language_model.{n}")),
        ("model.language_model", |n| n.replacen("model.", "model.language_model.", 1)),
        ("_checkpoint_wrapped_module", |n| n.replace("self_attn.", "_checkpoint_wrapped_module.self_attn.")),
        ("_orig_mod", |n| n.replace(".mlp.", "._orig_mod.mlp.")),
        ("_fsdp_wrapped_module", |n| format!("_fsdp_wrapped_module.{}", n.replace("layers.1.", "layers.1._fsdp_wrapped_module."))),
        // Lightning's own module, and what nobody has heard of.
        ("model.model", |n| format!("model.{n}")),
        ("policy.actor", |n| format!("policy.actor.{n}")),
    ];
    for (what, wrap) in wrappers {
        for fixture in [MODEL, TIED] {
            let (_dir, model) = renamed(fixture, wrap);
            opens_as_transformers(what, &model);
            let stderr = warns(what, &model, &["wrapper", "is read as"]);
            assert_eq!(stderr.lines().count(), 1, "{what}: {stderr}");
        }
    }
    // Families without `model.`, in a family that looks at its weights first, and no head.
    for fixture in ["gpt2-unscaled", "gpt_neox-parallel", "bloom-four-heads", "mobillama-shared", "rwkv-narrow-mlp"] {
        let (_dir, model) = renamed(fixture, |n| format!("_orig_mod.module.{n}"));
        opens_as_transformers(fixture, &model);
    }
    let (_dir, model) = renamed(TIED, |n| format!("module.{}", n.strip_prefix("model.").unwrap()));
    opens_as_transformers("no head", &model);
}

/// Two models in one file, and one that lacks a tensor: what there is instead is named.
#[test]
fn names_that_do_not_fit_are_shown() {
    let (_dir, model) = renamed(MODEL, |n| format!("teacher.{n}"));
    edit_tensors(&model.join(WEIGHTS), |tensors| {
        for name in tensors.names() {
            let (dtype, shape, bytes) = (tensors.dtype(&name), tensors.shape(&name), tensors.bytes(&name).to_vec());
            tensors.insert(&name.replace("teacher.", "student."), &dtype, &shape, &bytes);
        }
    });
    let embeddings =
        ["model.embed_tokens.weight is missing", "the file has student.model.embed_tokens.weight, teacher.model.embed_tokens.weight"];
    is_refused("two models", &model, &embeddings);

    let (_dir, model) = renamed(MODEL, |n| format!("_orig_mod.{n}"));
    edit_tensors(&model.join(WEIGHTS), |tensors| tensors.remove(&format!("_orig_mod.{DOWN}.weight")));
    is_refused("one is missing", &model, &["model.embed_tokens.weight is missing", "the file has _orig_mod.model.embed_tokens.weight"]);

    let (_dir, model) = renamed(MODEL, |n| n.replace(&format!("{DOWN}.weight"), &format!("{DOWN}.qweight")));
    is_refused("codes without a configuration", &model, &[&format!("{DOWN}.weight is missing"), "qweight", "quantised already"]);
}

/// What `dequantize()`, MLX and merges into quantised models leave in a configuration.
#[test]
fn leftover_quantization_is_warned_of() {
    let leftovers = [
        (
            "bitsandbytes",
            json!({ "quantization_config": { "quant_method": "bitsandbytes", "load_in_4bit": true, "bnb_4bit_quant_type": "nf4" } }),
        ),
        ("mlx", json!({ "quantization": { "group_size": 64, "bits": 4 }, "quantization_config": { "group_size": 64, "bits": 4 } })),
        ("mlx", json!({ "quantization": { "group_size": 64, "bits": 4 } })),
        ("gptq", json!({ "quantization_config": { "quant_method": "gptq", "bits": 4 } })),
        ("awq", json!({ "quantization_config": { "quant_method": "awq", "bits": 4 } })),
        ("fp8", json!({ "quantization_config": { "quant_method": "fp8", "weight_block_size": [128, 128] } })),
        ("compressed-tensors", json!({ "quantization_config": { "quant_method": "compressed-tensors", "format": "pack-quantized" } })),
    ];
    for (method, says) in leftovers {
        let (_dir, model) = copy_of(MODEL);
        edit_json(&model.join(CONFIG), |config| config.as_object_mut().unwrap().extend(says.as_object().unwrap().clone()));
        opens_as_transformers(method, &model);
        warns(method, &model, &[method, "in full precision", says.as_object().unwrap().keys().next().unwrap()]);
    }
}

/// One layer as each library stores it, with the configuration that it writes.
#[test]
fn quantised_weights_are_refused_by_the_name_of_the_method() {
    // Name behind the layer, number format, and bytes of a [4, 4] tensor.
    type Parts = &'static [(&'static str, &'static str, usize)];
    let layers: [(&str, Parts); 8] = [
        ("gptq", &[("qweight", "I32", 4), ("qzeros", "I32", 4), ("scales", "F16", 2), ("g_idx", "I32", 4)]),
        ("awq", &[("qweight", "I32", 4), ("qzeros", "I32", 4), ("scales", "F16", 2)]),
        ("mlx", &[("weight", "U32", 4), ("scales", "F16", 2), ("biases", "F16", 2)]),
        ("bitsandbytes", &[("weight", "I8", 1), ("SCB", "F32", 4)]),
        ("bitsandbytes", &[("weight", "U8", 1), ("weight.absmax", "F32", 4), ("weight.quant_map", "F32", 4)]),
        ("fp8", &[("weight", "F8_E4M3", 1), ("weight_scale_inv", "F32", 4)]),
        ("compressed-tensors", &[("weight_packed", "I32", 4), ("weight_scale", "BF16", 2), ("weight_shape", "I64", 8)]),
        // Scales beside weights that look like full precision.
        ("fp8", &[("weight_scale", "F32", 4)]),
    ];
    for (method, parts) in layers {
        let quantise = |with_config: bool| {
            let (dir, model) = copy_of(MODEL);
            edit_tensors(&model.join(WEIGHTS), |tensors| {
                if !parts.iter().any(|(end, ..)| *end == "weight_scale" && parts.len() == 1) {
                    tensors.remove(&format!("{DOWN}.weight"));
                }
                parts.iter().for_each(|(end, dtype, size)| tensors.insert(&format!("{DOWN}.{end}"), dtype, &[4, 4], &vec![0; 16 * size]));
            });
            if with_config {
                let says = if method == "mlx" { json!({ "bits": 4, "group_size": 64 }) } else { json!({ "quant_method": method }) };
                edit_json(&model.join(CONFIG), |config| config["quantization_config"] = says);
            }
            (dir, model)
        };
        let (_dir, model) = quantise(true);
        is_refused(method, &model, &["quantization_config", &format!("quantised already, by {method}"), DOWN]);
        let (_dir, model) = quantise(false);
        is_refused(method, &model, &[DOWN]);
    }
}

#[test]
fn adapters_are_refused_or_warned_of() {
    let says = json!({ "peft_type": "LORA", "base_model_name_or_path": "org/base-1b", "r": 4 });
    let (_dir, model) = copy_of(MODEL);
    write_json(&model.join("adapter_config.json"), &says);
    opens_as_transformers("beside", &model);
    warns("beside", &model, &["a LoRA adapter (of org/base-1b)", "not applied"]);

    let query = "self_attn.q_proj";
    let wrap = |n: &str| format!("base_model.model.{}", n.replace(&format!("{query}.weight"), &format!("{query}.base_layer.weight")));
    let (_inside, model) = renamed(MODEL, wrap);
    edit_tensors(&model.join(WEIGHTS), |tensors| {
        for name in ["lora_A", "lora_B"] {
            tensors.insert(&format!("base_model.model.model.layers.0.{query}.{name}.default.weight"), "F32", &[2, 2], &[0; 16]);
        }
    });
    let merge = ["a LoRA adapter", "merge it into the model first", "merge_and_unload"];
    is_refused("inside", &model, &merge);

    std::fs::rename(model.join(WEIGHTS), model.join("adapter_model.safetensors")).unwrap();
    write_json(&model.join("adapter_config.json"), &says);
    is_refused("beside a configuration alone", &model, &[&merge[..], &["(of org/base-1b)"]].concat());
    std::fs::remove_file(model.join(CONFIG)).unwrap();
    is_refused("alone", &model, &[&merge[..], &["(of org/base-1b)"]].concat());
}

#[test]
fn empty_tensors_are_known_for_what_zero_3_leaves() {
    let (_dir, model) = copy_of(MODEL);
    let mut counts = (0, 0);
    edit_tensors(&model.join(WEIGHTS), |tensors| {
        for name in tensors.names() {
            counts.1 += 1;
            if tensors.shape(&name).len() == 2 {
                counts.0 += 1;
                tensors.resize(&name, 0);
            }
        }
    });
    let counts = format!("model.embed_tokens.weight is empty ([0]), as are {} of {} tensors", counts.0, counts.1);
    let stderr = is_refused("empty", &model, &[&counts, "ZeRO-3", "zero_to_fp32.py"]);
    assert!(!stderr.contains("do not belong together"), "{stderr}");
}

/// One line for six hundred tensors of a vision tower, a buffer that is known, and a bias that
/// the configuration does not mention.
#[test]
fn tensors_that_are_not_used_are_grouped() {
    let (_dir, model) = copy_of(TIED);
    edit_tensors(&model.join(WEIGHTS), |tensors| {
        for i in 0..600 {
            tensors.insert(&format!("vision_tower.encoder.layers.{}.part{}.weight", i / 6, i % 6), "F32", &[2], &[0; 8]);
        }
        tensors.insert("model.layers.0.self_attn.rotary_emb.inv_freq", "F32", &[2], &[0; 8]);
        tensors.insert("model.layers.0.self_attn.q_proj.bias", "F32", &[36], &[0; 144]);
    });
    opens_as_transformers("strangers", &model);
    let stderr = warns("strangers", &model, &["601 tensors", "vision_tower.encoder.layers", "(600)", "model.layers.*.self_attn"]);
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
}

/// A file that was saved in double precision, as some trainers and converters leave norms or all
/// weights. What f32 cannot hold is refused by name.
#[test]
fn weights_in_double_precision_are_read_as_f32() {
    for every in [1, 3] {
        let (_dir, model) = copy_of(MODEL);
        edit_tensors(&model.join(WEIGHTS), |tensors| {
            for name in tensors.names().into_iter().step_by(every) {
                let double = |b: &[u8]| f64::from(f32::from_le_bytes(b.try_into().unwrap())).to_le_bytes();
                let doubles: Vec<u8> = tensors.bytes(&name).chunks_exact(4).flat_map(double).collect();
                let shape = tensors.shape(&name);
                tensors.remove(&name);
                tensors.insert(&name, "F64", &shape, &doubles);
            }
        });
        opens_as_transformers("doubles", &model);
        edit_tensors(&model.join(WEIGHTS), |tensors| {
            let name = tensors.names().into_iter().find(|name| tensors.dtype(name) == "F64").unwrap();
            tensors.put(&name, 1, &1e300f64.to_le_bytes());
        });
        let output = assert_cmd::Command::new(env!("CARGO_BIN_EXE_thimble")).arg("verify").arg(&model).output().unwrap();
        assert_eq!(output.status.code(), Some(3), "{output:?}");
        assert!(
            String::from_utf8_lossy(&output.stderr).contains("NaN or infinite")
                || String::from_utf8_lossy(&output.stdout).contains("NaN or infinite")
        );
    }
}

/// A download that was resumed once too often.
#[test]
fn bytes_behind_the_last_tensor_are_counted() {
    let (_dir, model) = copy_of(MODEL);
    let length = std::fs::metadata(model.join(WEIGHTS)).unwrap().len();
    damage::edit_bytes(&model.join(WEIGHTS), |bytes| bytes.extend([0; 64]));
    let stderr = is_refused("longer", &model, &["64 extra bytes follow the last tensor", &format!("head -c {length}")]);
    assert!(!stderr.contains("truncated") && !stderr.contains("incomplete"), "{stderr}");
}

/// Tokens were added to the embedding and not to the configuration, or the other way round.
#[test]
fn a_vocabulary_of_another_size_is_told_with_both_sizes() {
    for size in [95, 97] {
        let (_dir, model) = copy_of(MODEL);
        edit_json(&model.join(CONFIG), |config| config["vocab_size"] = size.into());
        let says = ["model.embed_tokens.weight has 96 rows", &format!("\"vocab_size\" in config.json is {size}"), "set it to 96"];
        is_refused("vocabulary", &model, &says);
    }
}
