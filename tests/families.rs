//! Every method on every family: it runs, packs, and what is packed is what was
//! solved. The table of families in the README is made of what passes here
//! (`THIMBLE_BLESS=1` writes it).
#![cfg(feature = "torch")]

#[path = "common/compress.rs"]
mod compress;
#[path = "common/data.rs"]
mod data;

use std::collections::BTreeMap;
use std::path::Path;
use thimble::model::families::{FAMILIES, read_config};
use thimble::runtime;

/// Most that packed and solved logits may differ by.
const TOLERANCE: f32 = 1e-3;

/// A column of the table.
struct Method {
    name: &'static str,
    /// Settings it is tried with.
    settings: &'static [&'static str],
    /// What all of them have.
    common: &'static str,
    /// Whether its layers must come nearer to the original than those of rounding.
    beats_rounding: bool,
}

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

/// Mean relative error of the blocks' layers at 4 bits.
fn layer_error(method: &str, dir: &Path) -> Result<f64, String> {
    let out = tempfile::tempdir().unwrap();
    let report = compress::run(&recipe(method, &format!("bits = 4\n{GROUPS}"), (16, 32)), dir, out.path()).map_err(|e| e.to_string())?;
    let layers = report.stages.into_iter().flat_map(|stage| stage.layers);
    let errors: Vec<f64> = layers.filter(|l| l.name.starts_with("blocks.")).map(|l| l.relative_error).collect();
    Ok(errors.iter().sum::<f64>() / errors.len() as f64)
}

fn check(method: &Method, name: &str, dir: &Path) -> Result<(), String> {
    for settings in method.settings {
        let out = tempfile::tempdir().unwrap();
        let report = compress::run(&recipe(method.name, &format!("{settings}\n{}", method.common), (4, 16)), dir, out.path())
            .map_err(|e| e.to_string())?;
        let packed = runtime::open(out.path(), None).map_err(|e| e.to_string())?;
        let ids: Vec<u32> = (3..43).map(|i| i * 7 % 90).collect();
        let difference = compress::greatest_difference(&packed, &ids).max(report.max_read_back_difference);
        if difference.is_nan() || difference > TOLERANCE {
            return Err(format!("{settings:?}: packed and solved logits differ by {difference}"));
        }
    }
    if method.beats_rounding {
        let (ours, rounding) = (layer_error(method.name, dir)?, layer_error("rtn", dir)?);
        println!("{name}: mean relative error of layers {ours:.4} by {}, {rounding:.4} by rounding", method.name);
        if ours.is_nan() || ours >= rounding {
            return Err(format!("layers are {ours} off, by rounding {rounding}"));
        }
    }
    Ok(())
}

/// Fixtures by the family that reads them.
fn fixtures_by_family() -> BTreeMap<&'static str, Vec<(String, std::path::PathBuf)>> {
    let mut all: BTreeMap<_, Vec<_>> = FAMILIES.iter().map(|family| (family.model_type, Vec::new())).collect();
    for (name, dir) in data::fixtures() {
        let (_, family) = read_config(&dir.join("config.json")).unwrap();
        all.get_mut(family.model_type).unwrap().push((name, dir));
    }
    all
}

#[test]
fn every_method_runs_on_every_family() {
    let fixtures = fixtures_by_family();
    let mut failed = Vec::new();
    let header = METHODS.iter().map(|m| format!(" {} |", m.name)).collect::<String>();
    let mut table = format!("| family (`model_type`) | models |{header}\n|---|---|{}\n", "---|".repeat(METHODS.len()));
    for family in FAMILIES {
        let of_family = &fixtures[family.model_type];
        assert!(of_family.len() >= 2, "{}: two fixtures at least, which switch what is peculiar to it", family.model_type);
        let cells = METHODS.iter().map(|method| {
            let errors =
                of_family.iter().filter_map(|(name, dir)| Some(format!("{name}, {}: {}", method.name, check(method, name, dir).err()?)));
            let errors: Vec<_> = errors.collect();
            let cell = if errors.is_empty() { " yes |" } else { " no |" };
            failed.extend(errors);
            cell
        });
        let cells: String = cells.collect();
        table += &format!("| `{}` | {} |{cells}\n", family.model_type, family.models);
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
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
