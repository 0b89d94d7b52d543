//! Hugging Face directories as they are written: what they hold is what was to be
//! written, and a model that they cannot say is refused before any work is done.

#[cfg(feature = "torch")]
#[path = "common/compress.rs"]
mod compress;
#[path = "common/data.rs"]
mod data;
#[cfg(feature = "torch")]
#[path = "common/tiny.rs"]
mod tiny;

use std::collections::BTreeSet;
use std::path::Path;
use thimble::checkpoint::open_directory;
use thimble::export::{Format, HuggingFace};
use thimble::model::families::read_config;
use thimble::model::student::Initialise;
use thimble::model::{Axis, DenseModel, ModelSpec, Selection, StudentShape};
use thimble::quant::native::Notes;
use thimble::quant::{Assembled, Weight};
use thimble::runtime;
use thimble::spec::SpecialTokens;

/// Writes a model as it is.
fn write_again(source: &Path, out: &Path) -> Vec<String> {
    let model = runtime::open(source, None).unwrap();
    let format = HuggingFace::of(&model).unwrap();
    let shipped = format.shipped(model.store.clone()).unwrap();
    let notes = Notes { provenance: "a test".into(), ..Notes::default() };
    format.write(&*shipped, &notes, out).unwrap()
}

/// All that a library reads is there again, in the same places.
#[test]
fn every_fixture_comes_back_tensor_by_tensor() {
    for (name, dir) in data::fixtures() {
        let out = tempfile::tempdir().unwrap();
        write_again(&dir, out.path());
        let [source, written] = [&dir, out.path()].map(|dir| DenseModel::open_hugging_face(dir).unwrap());
        assert_eq!(written.spec(), source.spec(), "{name}");
        for parameter in source.spec().parameters() {
            let [a, b] = [&source, &written].map(|model| model.tensor(&parameter.name).unwrap());
            let same = a.shape == b.shape && a.float_type == b.float_type && *a.bytes == *b.bytes;
            assert!(same, "{name}: {} is not what was read", parameter.name);
        }
        // The files alike: names but for what is in front of all of them, shapes, numbers.
        let [source, written] = [&dir, out.path()].map(|dir| open_directory(dir).unwrap());
        for tensor in written.names() {
            let there = source.find(tensor).unwrap_or_else(|| panic!("{name}: the source has no {tensor}"));
            let [a, b] = [source.tensor(there).unwrap(), written.tensor(tensor).unwrap()];
            assert_eq!((&a.shape, a.float_type), (&b.shape, b.float_type), "{name}: {tensor}");
            // OPT's first two positions are no token's.
            let unused = if tensor.ends_with("decoder.embed_positions.weight") { 2 * a.shape[1] * a.float_type.size_bytes() } else { 0 };
            assert!(a.bytes[unused..] == b.bytes[unused..], "{name}: {tensor} has other numbers");
            assert!(b.bytes[..unused].iter().all(|byte| *byte == 0), "{name}: {tensor}");
        }
    }
}

/// The layers of a fixture that own their weights.
fn owners(spec: &ModelSpec) -> Vec<usize> {
    (0..spec.blocks.len()).filter(|&i| spec.blocks[i].weights_of.is_none()).collect()
}

/// A student of a fixture, written and opened again; or why it cannot be.
fn student(dir: &Path, shape: impl FnOnce(&ModelSpec) -> StudentShape) -> Result<(), String> {
    let model = runtime::open(dir, None).unwrap();
    let spec = shape(model.spec()).apply(model.spec()).unwrap();
    let format = HuggingFace::of(&model).unwrap();
    format.check(&spec).map_err(|e| e.to_string())?;
    let numbers = |p: &thimble::model::Parameter| (0..p.shape.iter().product()).map(|i: usize| (i % 251) as f32).collect::<Vec<_>>();
    let weights = spec.parameters().into_iter().map(|p| (p.name.clone(), Weight::from_f32(&p.name, p.shape.clone(), &numbers(&p))));
    let shipped = format.shipped(std::sync::Arc::new(Assembled::new(spec.clone(), weights))).unwrap();
    let out = tempfile::tempdir().unwrap();
    format.write(&*shipped, &Notes::default(), out.path()).unwrap();
    let written = runtime::open(out.path(), None).map_err(|e| e.to_string())?;
    let plain = |spec: &ModelSpec| ModelSpec { special: SpecialTokens::default(), ..spec.clone() };
    assert_eq!(plain(written.spec()), plain(&spec), "{}", dir.display());
    for parameter in spec.parameters() {
        let read = written.store.weight(&parameter.name).unwrap();
        assert!(*read.to_f32() == numbers(&parameter), "{}: {}", dir.display(), parameter.name);
    }
    Ok(())
}

/// Fixtures whose students cannot be said, with what is said of them instead.
fn refused(shape: impl Fn(&ModelSpec) -> StudentShape) -> Vec<(String, String)> {
    data::fixtures().into_iter().filter_map(|(name, dir)| Some((name, student(&dir, &shape).err()?))).collect()
}

/// The later layers of every fixture are models of their families, but where a layer's
/// number is in the mathematics.
#[test]
fn layers_of_every_fixture_are_written() {
    let refused = refused(|spec| {
        let mut layers = owners(spec);
        StudentShape {
            layers: layers.split_off(layers.len() / 2),
            repeat: if spec.blocks.iter().any(|block| block.weights_of.is_some()) { 2 } else { 1 },
            shared_ffn: spec.blocks.iter().any(|block| block.feed_forward().is_some_and(|ffn| ffn.weights_of.is_some())),
            ..StudentShape::of_layers(Vec::new())
        }
    });
    for (name, reason) in &refused {
        println!("{name}: {reason}");
    }
    let names: BTreeSet<_> = refused.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, BTreeSet::from(["gpt2-by-layer"]));
    assert!(refused[0].1.contains("gpt2 family cannot say blocks.0.mixer.attention.scale"), "{}", refused[0].1);
}

/// Narrower feed-forwards are too, where their width is not derived from another.
#[test]
fn narrow_feed_forwards_are_written() {
    let refused = refused(|spec| StudentShape {
        intermediate_size: Some(10),
        repeat: if spec.blocks.iter().any(|block| block.weights_of.is_some()) { 2 } else { 1 },
        shared_ffn: spec.blocks.iter().any(|block| block.feed_forward().is_some_and(|ffn| ffn.weights_of.is_some())),
        ..StudentShape::of_layers(owners(spec))
    });
    for (name, reason) in &refused {
        println!("{name}: {reason}");
        assert!(reason.contains("blocks.0.ffn.width = 10"), "{name}: {reason}");
    }
    let families: BTreeSet<_> = refused.iter().map(|(name, _)| name.split('-').next().unwrap()).collect();
    assert_eq!(families, BTreeSet::from(["bloom", "openlm"]));
}

/// A narrower residual stream is too, whose norms have a greater ε, where that is not
/// another norm's as well.
#[test]
fn narrow_residual_streams_are_written() {
    for (fixture, reason) in [("llama-gqa-tied", None), ("qwen3-tied", Some("epsilon"))] {
        let model = runtime::open(&data::fixture(fixture), None).unwrap();
        let spec = model.spec();
        let mut selection = Selection::whole(spec);
        selection.keep(Axis::Hidden, &(0..spec.hidden_size / 2).collect::<Vec<_>>(), spec);
        let checked = HuggingFace::of(&model).unwrap().check(&selection.apply(spec).unwrap());
        let found = checked.err().map(|e| e.to_string());
        assert!(
            found.is_some() == reason.is_some() && found.as_deref().unwrap_or("").contains(reason.unwrap_or("")),
            "{fixture}: {found:?}"
        );
    }
}

/// One head of a Llama whose heads no longer share out the hidden size.
#[test]
fn heads_that_do_not_follow_from_the_hidden_size_are_named() {
    for fixture in ["llama-gqa-tied", "llama-classic-config", "qwen2-tied", "phi-partial", "gemma-biases"] {
        student(&data::fixture(fixture), |spec| StudentShape { n_heads: Some(1), ..StudentShape::of_layers(owners(spec)) }).unwrap();
    }
    // What classes take for granted, though keys could say it.
    for fixture in ["bitnet-relu2", "phi-qk-norm", "phi3-long", "phonelm-tied", "stablelm-partial"] {
        let failed = student(&data::fixture(fixture), |spec| StudentShape { n_heads: Some(1), ..StudentShape::of_layers(owners(spec)) });
        assert!(failed.as_ref().is_err_and(|e| e.contains("together are not as wide as the hidden size")), "{fixture}: {failed:?}");
    }
    let narrow = |spec: &ModelSpec| StudentShape { hidden_size: Some(12), ..StudentShape::of_layers(owners(spec)) };
    assert!(student(&data::fixture("rwkv-narrow-mlp"), narrow).unwrap_err().contains("a state that is not as wide"));
    // Drawn, so that any number of heads can be asked for.
    let heads = |n| {
        student(&data::fixture("llama-nine-heads"), |spec| StudentShape {
            n_heads: Some(n),
            initialise: Initialise::Random,
            ..StudentShape::of_layers(owners(spec))
        })
    };
    heads(3).unwrap();
    assert!(heads(5).unwrap_err().contains("does not divide the hidden size"));
    let of_gpt2 =
        student(&data::fixture("gpt2-unscaled"), |spec| StudentShape { n_heads: Some(1), ..StudentShape::of_layers(owners(spec)) });
    let reason = of_gpt2.unwrap_err();
    assert!(reason.contains("gpt2 family cannot say") && reason.contains("format = \"native\""), "{reason}");
}

/// Blocks that differ, where a family has one number for all.
#[test]
fn what_one_configuration_cannot_say_is_named() {
    let model = runtime::open(&data::fixture("llama-gqa-tied"), None).unwrap();
    let format = HuggingFace::of(&model).unwrap();
    let mut spec = model.spec().clone();
    spec.blocks[1].feed_forward_mut().unwrap().width -= 4;
    let reason = format.check(&spec).err().unwrap().to_string();
    let width = spec.blocks[1].feed_forward().unwrap().width;
    assert!(reason.contains(&format!("llama family cannot say blocks.1.ffn.width = {width}")), "{reason}");
    spec.blocks[1].feed_forward_mut().unwrap().weights_of = Some(0);
    spec.blocks[1].feed_forward_mut().unwrap().width += 4;
    let reason = format.check(&spec).err().unwrap().to_string();
    assert!(reason.contains("blocks.1.ffn.weights_of = 0"), "{reason}");
}

/// A number of blocks is a number of entries in lists of blocks.
#[test]
fn widths_of_each_block_are_written_where_a_family_lists_them() {
    let dir = data::fixture("openelm-own-head");
    let model = runtime::open(&dir, None).unwrap();
    let mut spec = model.spec().clone();
    let (n, widths) = (spec.blocks.len(), [24usize, 40, 56]);
    (0..n).for_each(|i| spec.blocks[i].feed_forward_mut().unwrap().width = widths[i % 3]);
    HuggingFace::of(&model).unwrap().check(&spec).unwrap();
}

/// f16 that is too small for what was trained.
#[test]
fn numbers_beyond_f16_are_written_in_f32() {
    let model = runtime::open(&data::fixture("llama-f16"), None).unwrap();
    let format = HuggingFace::of(&model).unwrap();
    for (value, written) in [(60_000.0f32, "float16"), (70_000.0, "float32")] {
        let weights = model.spec().parameters().into_iter().map(|p| {
            let n = p.shape.iter().product();
            (p.name.clone(), Weight::from_f32(&p.name, p.shape, &vec![value; n]))
        });
        let shipped = format.shipped(std::sync::Arc::new(Assembled::new(model.spec().clone(), weights))).unwrap();
        let out = tempfile::tempdir().unwrap();
        format.write(&*shipped, &Notes::default(), out.path()).unwrap();
        let config: serde_json::Value = serde_json::from_slice(&std::fs::read(out.path().join("config.json")).unwrap()).unwrap();
        assert_eq!(config.get("dtype").or(config.get("torch_dtype")).unwrap(), written);
        let read = DenseModel::open_hugging_face(out.path()).unwrap();
        let expected = half::f16::from_f32(value).to_f32();
        let expected = if expected.is_finite() { expected } else { value };
        assert!(read.spec().parameters().iter().all(|p| read.tensor(&p.name).unwrap().to_f32().iter().all(|v| *v == expected)));
    }
}

/// A llama2.c file becomes a Llama, and its tokenizer a tokenizer.json.
#[test]
fn llama2c_files_become_llamas() {
    let Some(data) = data::shared("llama2c_files_become_llamas") else { return };
    let source = data.join("models/stories260K/stories260K.bin");
    let out = tempfile::tempdir().unwrap();
    let files = write_again(&source, out.path());
    assert_eq!(files, ["tokenizer.json", "model.safetensors", "config.json"]);
    let (spec, family) = read_config(&out.path().join("config.json")).unwrap();
    let [source, written] = [&source, out.path()].map(|path| runtime::open(path, None).unwrap());
    assert_eq!(family.model_type, "llama");
    assert_eq!(&spec, source.spec());
    for parameter in spec.parameters() {
        let [a, b] = [&source, &written].map(|model| model.store.weight(&parameter.name).unwrap());
        assert!(a.to_f32() == b.to_f32(), "{}", parameter.name);
    }
    let text = "Once upon a time, there was a little girl.";
    let [a, b] = [&source, &written].map(|model| model.tokenizer().unwrap().encode(text).unwrap());
    assert_eq!(a, b);
}

/// What lies beside the weights comes along; a folder of someone else's is not ours to
/// write into.
#[test]
fn what_lies_beside_is_copied_and_strangers_are_left_alone() {
    let Some(data) = data::shared("what_lies_beside_is_copied") else { return };
    let (source, out) = (data.join("models/house-6m"), tempfile::tempdir().unwrap());
    let files = write_again(&source, out.path());
    for name in ["generation_config.json", "special_tokens_map.json", "tokenizer.json", "tokenizer_config.json"] {
        assert!(files.iter().any(|file| file == name), "{name} in {files:?}");
        let [a, b] = [&source, out.path()].map(|dir| std::fs::read(dir.join(name)).unwrap());
        assert!(a == b, "{name}");
    }
    let model = runtime::open(&source, None).unwrap();
    let format = HuggingFace::of(&model).unwrap();
    let refused = |dir: &Path| format.check_folder(dir).map_err(|e| e.to_string());
    refused(out.path()).unwrap();
    assert!(refused(&source).unwrap_err().contains("model.safetensors is of a model that is not from here"));
    std::fs::write(out.path().join("model.thimble"), "").unwrap();
    assert!(refused(out.path()).unwrap_err().contains("model.thimble would be opened in place of what is written"));
}

/// Through a recipe.
#[cfg(feature = "torch")]
mod runs {
    use super::*;
    use thimble::report::GateResult;

    fn recipe(stages: &str) -> String {
        format!("{stages}\n[evaluate]\nwindow = 16\nmax_windows = 2\n[gate]\nmax_size_bytes = 10\n[output]\nformat = 'hf'\n")
    }

    const LAST_LAYER: &str = "[[stage]]\n[stage.student]\nlayers = [1]\n";

    #[test]
    fn a_run_leaves_a_directory_and_its_report() {
        for fixture in ["gpt2-unscaled", "llama-sharded-bf16", "rwkv-narrow-mlp"] {
            let (source, out) = (data::fixture(fixture), tempfile::tempdir().unwrap());
            // The second run finds what the first has left.
            for _ in 0..2 {
                let report = compress::run(&recipe(LAST_LAYER), &source, out.path()).unwrap();
                let names: Vec<_> = report.files.iter().map(|f| f.file_name().unwrap().to_str().unwrap()).collect();
                assert_eq!(names, ["model.safetensors", "config.json", "report.json", "report.html", "README.md"], "{fixture}");
                let left = std::fs::read_dir(out.path()).unwrap().count();
                assert_eq!(left, names.len(), "{fixture}: nothing but what is listed remains");
                assert_eq!(report.size_bytes, report.files[0].metadata().unwrap().len(), "{fixture}");
                assert_eq!(report.gate, Some(GateResult::Missed), "{fixture}");
                let written = std::fs::read(&report.files[0]).unwrap();
                let (_, header) = safetensors::SafeTensors::read_metadata(&written).unwrap();
                let quality = &header.metadata().as_ref().unwrap()["thimble.quality"];
                let quality: serde_json::Value = serde_json::from_str(quality).unwrap();
                assert!(quality["gate"] == "missed" && quality["after"]["perplexity"].is_number(), "{fixture}: {quality}");
                assert!(report.max_read_back_difference < 1e-4, "{fixture}: {}", report.max_read_back_difference);
            }
            let [source, written] = [&source, out.path()].map(|dir| runtime::open(dir, None).unwrap());
            assert_eq!(written.spec().blocks.len(), 1, "{fixture}");
            for role in written.spec().roles(0).iter().map(|(role, ..)| role) {
                let (a, b) =
                    (source.store.stored(&format!("blocks.1.{role}")).unwrap(), written.store.stored(&format!("blocks.0.{role}")).unwrap());
                let (Weight::Dense(a), Weight::Dense(b)) = (a, b) else { panic!("{fixture}: {role}") };
                assert!(a.float_type == b.float_type && *a.bytes == *b.bytes, "{fixture}: {role}");
            }
        }
    }

    fn pruned(more: &str) -> String {
        format!(
            "[calibration]\nsequences = 4\nlength = 16\n[[stage]]\n[stage.prune_width]\nratio = 0.2\nmultiple = 4\ncut = ['ffn']\n{more}\n"
        )
    }

    /// Widths that are searched for are known when the stage is done.
    #[test]
    fn pruned_models_are_written_where_their_blocks_are_alike() {
        let out = tempfile::tempdir().unwrap();
        compress::run(&recipe(&pruned("")), &data::fixture("llama-gqa-tied"), out.path()).unwrap();
        let written = runtime::open(out.path(), None).unwrap();
        let widths: BTreeSet<_> = written.spec().blocks.iter().map(|block| block.feed_forward().unwrap().width).collect();
        assert!(widths.len() == 1 && *widths.first().unwrap() < 44, "{widths:?}");
        // Without a table of heads that shares out the hidden size, nothing can say fewer.
        let heads = pruned("").replace("['ffn']", "['heads']");
        let failed = compress::run(&recipe(&heads), &data::fixture("gpt2-unscaled"), out.path()).err().unwrap();
        assert!(failed.to_string().contains("gpt2 family cannot say"), "{failed}");
    }

    /// Weights that only the file says are shared.
    #[test]
    fn weights_that_settle_a_spec_are_read_back() {
        let out = tempfile::tempdir().unwrap();
        let stages = "[[stage]]\n[stage.student]\nlayers = [0, 2]\nshared_ffn = true\n";
        compress::run(&recipe(stages), &data::fixture("mobillama-copies"), out.path()).unwrap();
        let written = runtime::open(out.path(), None).unwrap();
        assert_eq!(written.spec().blocks[1].feed_forward().unwrap().weights_of, Some(0));
    }

    /// Whatever a stage does, each tensor has the number format that it has in the source, and the
    /// configuration says what it said.
    #[test]
    fn every_tensor_keeps_its_number_format() {
        use safetensors::Dtype::{self, BF16, F16, F32};
        let stages = [
            "[stage.prune_depth]\nlayers = 1\n",
            "[stage.prune_width]\nratio = 0.2\nmultiple = 4\ncut = ['ffn']\n",
            "[stage.sparsify]\nmethod = 'magnitude'\nsparsity = 0.5\n",
        ];
        type Kind = (&'static str, &'static str, fn(&str) -> Dtype);
        let kinds: [Kind; 4] =
            [
                ("linear layers in bf16", "bfloat16", |name| {
                    if ["lm_head.weight", "model.embed_tokens.weight"].contains(&name) { F32 } else { BF16 }
                }),
                ("an embedding in bf16", "float32", |name| if name == "model.embed_tokens.weight" { BF16 } else { F32 }),
                ("norms in f32", "float16", |name| if name.contains("norm") { F32 } else { F16 }),
                ("a configuration that says nothing of the kind", "bfloat16", |_| F32),
            ];
        for (what, says, dtype) in kinds {
            for stage in stages {
                let dir = tempfile::tempdir().unwrap();
                let (source, out) = (dir.path().join("model"), dir.path().join("out"));
                std::fs::create_dir(&source).unwrap();
                let mut model = tiny::Tiny::new(3, "silu");
                model.config["torch_dtype"] = says.into();
                model.write_in(&source, dtype);
                let recipe = format!(
                    "[calibration]\nsequences = 4\nlength = 32\n[[stage]]\n{stage}[evaluate]\nwindow = 16\nmax_windows = 2\n[output]\nformat = 'hf'\n"
                );
                compress::run(&recipe, &source, &out).unwrap();
                let config: serde_json::Value = serde_json::from_slice(&std::fs::read(out.join("config.json")).unwrap()).unwrap();
                assert_eq!(config["torch_dtype"], says, "{what}, {stage}");
                let bytes = std::fs::read(out.join("model.safetensors")).unwrap();
                let written = safetensors::SafeTensors::deserialize(&bytes).unwrap();
                let original = std::fs::read(source.join("model.safetensors")).unwrap();
                let original = safetensors::SafeTensors::deserialize(&original).unwrap();
                for (name, tensor) in written.iter() {
                    assert_eq!(tensor.dtype(), dtype(name), "{what}, {stage}: {name}");
                    if stage.contains("sparsify") {
                        // What stays is what it was, to the last bit.
                        let size = tensor.data().len() / tensor.shape().iter().product::<usize>();
                        let pairs = tensor.data().chunks(size).zip(original.tensor(name).unwrap().data().chunks(size));
                        assert!(pairs.into_iter().all(|(is, was)| is == was || is.iter().all(|byte| *byte == 0)), "{what}: {name}");
                    }
                }
            }
        }
    }

    /// Both before any file is made.
    #[test]
    fn what_cannot_be_written_is_refused_first() {
        let quantised = recipe("[[stage]]\n[stage.rtn]\n");
        let cases = [
            ("llama-gqa-tied", quantised.as_str(), "holds full-precision weights, and rtn quantises: leave that stage out"),
            ("gpt2-by-layer", &recipe(LAST_LAYER), "config.json of the gpt2 family cannot say blocks.0.mixer.attention.scale"),
            ("llama-gqa-tied", &recipe(&pruned("uniform = false")), "cannot say blocks.1.ffn.width = 44: it would be read as 40"),
        ];
        for (fixture, recipe, expected) in cases {
            let folder = tempfile::tempdir().unwrap();
            let out = folder.path().join("out");
            let failed = compress::run(recipe, &data::fixture(fixture), &out).err().unwrap();
            assert!(failed.to_string().contains(expected), "{failed}");
            assert_eq!(failed.exit_code(), 2, "{failed}");
            assert!(!out.exists());
        }
    }
}
