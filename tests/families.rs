//! Every method on every family: it runs, packs, and what is packed is what was
//! solved. One test a family, so that they run side by side. The table of families
//! in the README lists what they cover (`THIMBLE_BLESS=1` writes it).
//!
//! The runs are not all fixtures times all settings:
//!
//! - every fixture runs every method at its first setting: a cell of the table;
//! - [`PAIRED`] fixtures run every method at all of its settings. Between them they
//!   have each kind of mixer, norm, feed-forward and width, so that each (kind,
//!   setting) pair runs once at least. A setting changes how one weight matrix is
//!   coded; a fixture decides which matrices there are and what they read. Fixtures
//!   of the same kinds would run the same code again;
//! - one fixture a family checks that GPTQ and AWQ lose less than rounding.
#![cfg(feature = "torch")]

#[path = "common/compress.rs"]
mod compress;
#[path = "common/data.rs"]
mod data;

use std::path::{Path, PathBuf};
use thimble::model::families::{FAMILIES, read_config};
use thimble::runtime;

/// Most that packed and solved logits may differ by.
const TOLERANCE: f32 = 1e-3;

/// A column of the table.
struct Method {
    name: &'static str,
    /// Settings it is tried with; the first on every fixture.
    settings: &'static [&'static str],
    /// What all of them have.
    common: &'static str,
    /// Whether its layers must come nearer to the original than those of rounding.
    beats_rounding: bool,
}

/// Fixtures that run all settings, and the kinds that each adds.
const PAIRED: [&str; 10] = [
    "bitnet-relu2",          // norms inside the mixer and the feed-forward; ternary weights, read packed
    "bloom-six-heads",       // ALiBi; layer norms with biases; a feed-forward without gate
    "gemma2-softcaps",       // norms before and after; soft-capped logits; tied
    "gpt2-by-layer",         // learned positions; Conv1D weights, stored transposed
    "gpt_neox-parallel",     // mixer and feed-forward side by side, partly rotary; fused and biased QKV
    "llama-gqa-tied",        // rotary attention, grouped; RMS norms; a gated feed-forward
    "mobilellm-layer-share", // blocks that share all weights
    "openelm-shared-head",   // heads and widths that differ by block; norms of queries and keys
    "opt-post-norm",         // norms of sums; an embedding narrower than the hidden states
    "rwkv-wide-attention",   // WKV and token shift; a mixer wider than the hidden states
];

const GROUPS: &str = "group_size = 32";

const METHODS: [Method; 6] = [
    Method {
        name: "rtn",
        settings: &[
            "bits = 4",
            "bits = 3\ngrid = 'least_error'\nimportance = true",
            "bits = 8\nsymmetric = true\nrescale = { smooth = 0.5 }",
            "bits = 4\ndata_type = 'nf4'",
        ],
        common: GROUPS,
        beats_rounding: false,
    },
    Method {
        name: "gptq",
        settings: &[
            "bits = 4",
            "bits = 2",
            "bits = 3\nact_order = 'group_aware'\ngrid = { norm = 2.0, zero_points = 1 }",
            "bits = 4\nstatic_groups = true\nprecision = 'f64'",
            "bits = 4\nact_order = false\ntrue_sequential = true\ngrid = 'min_max'",
            "bits = 8",
            "bits = 4\nrescale = 'awq'\ntrue_sequential = true",
            "bits = 6\ndata_type = 'quantile'\ncentred = true",
        ],
        common: GROUPS,
        beats_rounding: true,
    },
    Method {
        name: "awq",
        settings: &["bits = 4", "bits = 4\ndata_type = 'nf4'\nduo_scaling = false"],
        common: GROUPS,
        beats_rounding: true,
    },
    Method {
        name: "llm_int8",
        settings: &["bits = 8\nthreshold = 3.0", "bits = 4\nthreshold = 2.8"],
        common: GROUPS,
        beats_rounding: false,
    },
    Method {
        name: "ternary",
        settings: &[
            "scale = 'row'",
            "scale = 'tensor'\nsolver = 'absmean'\npacking = 'five_a_byte'",
            "scale = 32\npacking = 'five_a_byte'",
        ],
        common: "",
        beats_rounding: false,
    },
    Method {
        name: "sparsify",
        settings: &["method = 'magnitude'", "method = 'wanda'\npattern = '4:8'", "method = 'sparsegpt'\npattern = '2:4'"],
        common: "",
        beats_rounding: false,
    },
];

fn recipe(method: &str, settings: &str, (sequences, length): (usize, usize)) -> String {
    format!(
        "[calibration]\nsequences = {sequences}\nlength = {length}\n[[stage]]\n[stage.{method}]\n{settings}\n\
         [evaluate]\nwindow = 16\nmax_windows = 2\n"
    )
}

/// Runs a method at some settings: packed and solved logits agree.
fn runs(method: &Method, settings: &[&str], dir: &Path) -> Result<(), String> {
    for settings in settings {
        let out = tempfile::tempdir().unwrap();
        let report = compress::run(&recipe(method.name, &format!("{settings}\n{}", method.common), (4, 16)), dir, out.path())
            .map_err(|e| format!("{settings:?}: {e}"))?;
        let packed = runtime::open(out.path(), None).map_err(|e| e.to_string())?;
        let ids: Vec<u32> = (3..43).map(|i| i * 7 % 90).collect();
        let difference = compress::greatest_difference(&packed, &ids).max(report.max_read_back_difference);
        if difference.is_nan() || difference > TOLERANCE {
            return Err(format!("{settings:?}: packed and solved logits differ by {difference}"));
        }
    }
    Ok(())
}

/// Mean relative error of the blocks' layers at 4 bits.
fn layer_error(method: &str, dir: &Path) -> f64 {
    let out = tempfile::tempdir().unwrap();
    let report = compress::run(&recipe(method, &format!("bits = 4\n{GROUPS}"), (16, 32)), dir, out.path()).unwrap();
    let layers = report.stages.into_iter().flat_map(|stage| stage.layers);
    let errors: Vec<f64> = layers.filter(|l| l.name.starts_with("blocks.")).map(|l| l.relative_error).collect();
    errors.iter().sum::<f64>() / errors.len() as f64
}

/// Fixtures that a family reads.
fn fixtures_of(family: &str) -> Vec<(String, PathBuf)> {
    let of_family = |dir: &Path| read_config(&dir.join("config.json")).unwrap().1.model_type == family;
    data::fixtures().into_iter().filter(|(_, dir)| of_family(dir)).collect()
}

/// The test of a family.
fn check(family: &str) {
    let fixtures = fixtures_of(family);
    assert!(fixtures.len() >= 2, "{family}: two fixtures at least, which switch what is peculiar to it");
    let mut failed = Vec::new();
    for (name, dir) in &fixtures {
        for method in &METHODS {
            let settings = if PAIRED.contains(&name.as_str()) { method.settings } else { &method.settings[..1] };
            failed.extend(runs(method, settings, dir).err().map(|error| format!("{name}, {}: {error}", method.name)));
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));

    let (name, dir) = &fixtures[0];
    let rounding = layer_error("rtn", dir);
    for method in METHODS.iter().filter(|method| method.beats_rounding) {
        let ours = layer_error(method.name, dir);
        println!("{name}: mean relative error of layers {ours:.4} by {}, {rounding:.4} by rounding", method.name);
        assert!(ours < rounding, "{name}: layers are {ours} off by {}, {rounding} by rounding", method.name);
    }
}

/// A test a family, and the list of their names.
macro_rules! families {
    ($($family:ident)*) => {
        const TESTED: &[&str] = &[$(stringify!($family)),*];

        mod every_method_runs_on {
            $(#[test] fn $family() { super::check(stringify!($family)); })*
        }
    };
}

families! {
    bitnet bloom gemma gemma2 gemma3_text gpt2 gpt_neo gpt_neox llama ministral ministral3 mistral mobilellm mobillama
    olmo olmo2 openelm openlm opt phi phi3 phonelm qwen2 qwen3 rwkv smollm3 stablelm xglm
}

#[test]
fn every_family_has_a_test() {
    let families: Vec<&str> = FAMILIES.iter().map(|family| family.model_type).collect();
    assert_eq!(TESTED, families, "name the new family in `families!`");
}

#[test]
fn paired_fixtures_exist() {
    let fixtures: Vec<_> = data::fixtures().into_iter().map(|(name, _)| name).collect();
    for name in PAIRED {
        assert!(fixtures.iter().any(|fixture| fixture == name), "{name}: no such fixture");
    }
}

/// A cell says yes because the family's test fails where the method does.
#[test]
fn readme_lists_every_family() {
    let header = METHODS.iter().map(|m| format!(" {} |", m.name)).collect::<String>();
    let mut table = format!("| family (`model_type`) | models |{header}\n|---|---|{}\n", "---|".repeat(METHODS.len()));
    for family in FAMILIES {
        table += &format!("| `{}` | {} |{}\n", family.model_type, family.models, " yes |".repeat(METHODS.len()));
    }
    in_readme(&table);
}

/// The table must be the README's, or becomes it where that is asked for.
fn in_readme(table: &str) {
    const MARKS: [&str; 2] = ["<!-- families: written by tests/families.rs -->\n", "<!-- /families -->"];
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let readme = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = readme.split_once(MARKS[0]).expect("the mark of the table");
    let (found, behind) = rest.split_once(MARKS[1]).expect("the mark of its end");
    if std::env::var_os("THIMBLE_BLESS").is_some() {
        std::fs::write(&path, [before, MARKS[0], table, MARKS[1], behind].concat()).unwrap();
    } else {
        assert_eq!(found, table, "README.md: its table of families is not what passes; THIMBLE_BLESS=1 writes it");
    }
}

/// What blocks share is in the file once, and counted once.
#[test]
fn shared_weights_are_stored_and_counted_once() {
    for (name, blocks, owned_ffn) in [("mobillama-shared", 3, 1), ("mobilellm-layer-share", 4, 2)] {
        let out = tempfile::tempdir().unwrap();
        let report = compress::run(&recipe("gptq", "bits = 4", (4, 16)), &data::fixture(name), out.path()).unwrap();
        let packed = runtime::open(out.path(), None).unwrap();
        let native = packed.native.as_ref().unwrap();
        assert_eq!(packed.spec().blocks.len(), blocks, "{name}");
        let stored = native.schemes().keys().filter(|name| name.ends_with("ffn.up")).count();
        assert_eq!(stored, owned_ffn, "{name}: feed-forwards stored");
        let reported = report.stages[0].layers.iter().filter(|l| l.name.ends_with("ffn.up")).count();
        assert_eq!(reported, owned_ffn, "{name}: feed-forwards quantised");
        // Every number of the file once, but for rotary tables.
        let bytes = std::fs::read(data::fixture(name).join("model.safetensors")).unwrap();
        let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let weights = file.iter().filter(|(name, _)| !name.ends_with("inv_freq"));
        let numbers: usize = weights.map(|(_, tensor)| tensor.shape().iter().product::<usize>()).sum();
        assert_eq!(report.footprint.parameters, numbers as u64, "{name}");
    }
}
