//! Sparsifying: the methods against the papers' algorithms in numpy, the models that the
//! stage writes, and what it refuses.
#![cfg(feature = "torch")]

#[path = "common/compress.rs"]
mod compress;
#[path = "common/data.rs"]
mod data;
#[path = "common/uniform.rs"]
mod uniform;

use ndarray::Array2;
use serde_json::Value;
use std::path::Path;
use tch::{Kind, Tensor};
use thimble::compress::calibrate::InputStatistics;
use thimble::compress::solve::relative_error::relative_error;
use thimble::compress::sparsify::{Magnitude, SparseLayer, Sparsifier, Wanda, sparsegpt};
use thimble::model::{DenseModel, ParameterKind};
use thimble::recipe::{RawRecipe, SparseGptOptions, Sparsity};
use thimble::runtime;
use uniform::uniform;

/// Each column leans on the one before it, sizes differ, and some are always zero.
fn inputs(seed: u64, tokens: usize, columns: usize, dead: &[usize]) -> Array2<f64> {
    let mut x = uniform(seed, (tokens, columns));
    for j in 1..columns {
        let before = x.column(j - 1).to_owned();
        x.column_mut(j).scaled_add(0.75, &before);
    }
    for (j, mut column) in x.columns_mut().into_iter().enumerate() {
        column *= if dead.contains(&j) { 0.0 } else { 0.25 + (j % 7) as f64 };
    }
    x
}

fn tensor(array: &Array2<f64>) -> Tensor {
    Tensor::from_slice(array.as_slice().unwrap()).view([array.nrows() as i64, array.ncols() as i64])
}

fn numbers(tensor: &Tensor) -> Vec<f64> {
    Vec::try_from(&tensor.to_kind(Kind::Double).contiguous().view(-1)).unwrap()
}

/// A row of tests/data/sparse.json.
struct Case {
    method: String,
    sparsity: Sparsity,
    options: SparseGptOptions,
    weight: Tensor,
    hessian: Tensor,
    goes: Vec<bool>,
    relative_error: f64,
    /// What SparseGPT leaves.
    stays: Vec<f64>,
}

impl Case {
    fn new(row: &Value) -> Self {
        let number = |key: &str| row[key].as_u64().unwrap() as usize;
        let dead: Vec<usize> = row["dead"].as_array().unwrap().iter().map(|j| j.as_u64().unwrap() as usize).collect();
        let (seed, tokens, shape) = (number("seed") as u64, number("tokens"), (number("rows"), number("columns")));
        let x = tensor(&inputs(2 * seed + 1, tokens, shape.1, &dead));
        let sparsity = match row["sparsity"].as_str().map(|pattern| pattern.split_once(':').unwrap()) {
            None => Sparsity::Unstructured(row["sparsity"].as_f64().unwrap()),
            Some((n, m)) => Sparsity::Pattern { n: n.parse().unwrap(), m: m.parse().unwrap() },
        };
        Self {
            method: row["method"].as_str().unwrap().to_owned(),
            sparsity,
            options: SparseGptOptions { block_size: number("block_size"), ..SparseGptOptions::default() },
            weight: tensor(&uniform(2 * seed, shape)),
            hessian: x.tr().matmul(&x) * (2.0 / tokens as f64),
            goes: row["goes"].as_array().unwrap().iter().flat_map(|row| row.as_str().unwrap().bytes().map(|b| b == b'1')).collect(),
            relative_error: row["relative_error"].as_f64().unwrap(),
            stays: row["stays"].as_array().into_iter().flatten().map(|v| v.as_f64().unwrap()).collect(),
        }
    }

    /// What our method makes of it, in the stage's precision or in double.
    fn run(&self, kind: Kind) -> Tensor {
        let weights = [self.weight.to_kind(kind)];
        let hessian = self.hessian.to_kind(kind);
        let unknown = Tensor::zeros([hessian.size()[0]], (kind, tch::Device::Cpu));
        let input = InputStatistics {
            tokens: 1.0,
            power: 1.0,
            hessian: hessian.copy(),
            mean_magnitude: unknown.copy(),
            greatest_magnitude: unknown,
        };
        let mut outcomes: Vec<SparseLayer> = match (&self.method[..], kind) {
            ("magnitude", _) => Magnitude { sparsity: self.sparsity }.sparsify(&weights, &input),
            ("wanda", _) => Wanda { sparsity: self.sparsity }.sparsify(&weights, &input),
            (_, Kind::Double) => sparsegpt::<f64>(&weights, &hessian, self.sparsity, self.options),
            (_, _) => sparsegpt::<f32>(&weights, &hessian, self.sparsity, self.options),
        }
        .unwrap();
        assert!(outcomes[0].remarks.is_empty(), "{:?}", outcomes[0].remarks);
        outcomes.remove(0).weight
    }
}

/// In both precisions the weights that go are those of the papers' algorithms, the layer's
/// error is theirs, and in double what SparseGPT leaves is what theirs leaves.
#[test]
fn methods_are_those_of_the_papers() {
    let rows: Vec<Value> = serde_json::from_str(include_str!("data/sparse.json")).unwrap();
    assert_eq!(rows.len(), 48);
    for kind in [Kind::Float, Kind::Double] {
        let (mut agree, mut all, mut error, mut value) = (0, 0, 0.0f64, 0.0f64);
        for case in rows.iter().map(Case::new) {
            let sparse = case.run(kind).to_kind(Kind::Double);
            let ours = numbers(&sparse);
            let same = ours.iter().zip(&case.goes).filter(|(value, goes)| (**value == 0.0) == **goes).count();
            let what = format!("{} of {:?}, {} columns, {kind:?}", case.method, case.sparsity, case.weight.size()[1]);
            assert!(same as f64 >= 0.999 * ours.len() as f64, "{what}: masks agree in {same} of {}", ours.len());
            let off = (relative_error(&case.weight, &sparse, &case.hessian) / case.relative_error - 1.0).abs();
            assert!(off < 1e-3, "{what}: relative error is {off:.1e} off");
            if kind == Kind::Double {
                assert_eq!(same, ours.len(), "{what}");
                let stays = ours.iter().zip(&case.goes).filter(|(_, goes)| !**goes).map(|(value, _)| value);
                value = stays.zip(&case.stays).fold(value, |most, (a, b)| most.max((a - b).abs()));
            }
            (agree, all, error) = (agree + same, all + ours.len(), error.max(off));
        }
        println!("{kind:?}: masks agree in {agree} of {all} weights, relative errors to {error:.1e}, values to {value:.1e}");
        assert!(value < 1e-6, "{value}");
    }
}

fn recipe(keys: &str) -> String {
    format!("[calibration]\nsequences = 8\nlength = 32\n[[stage]]\n[stage.sparsify]\n{keys}\n[evaluate]\nwindow = 16\nmax_windows = 2\n")
}

/// Whether no more than `n` of any `m` neighbours in a row are left.
fn keeps_pattern(values: &[f32], columns: usize, n: usize, m: usize) -> bool {
    let groups = values.chunks(columns).flat_map(|row| row.chunks(m));
    groups.map(|group| group.iter().filter(|v| **v != 0.0).count()).all(|left| left <= n)
}

/// Plain, fused, of shared layers, recurrent: the written file has the zeros, in linear
/// layers alone, and is no smaller for it; it runs as it was solved.
#[test]
fn written_models_have_the_zeros() {
    for name in ["llama-gqa-tied", "gpt2-unscaled", "mobillama-shared", "rwkv-narrow-mlp"] {
        for method in ["magnitude", "wanda", "sparsegpt"] {
            for (keys, pattern) in [("sparsity = 0.6", None), ("pattern = '2:4'", Some((2, 4)))] {
                let what = format!("{name}, {method}, {keys}");
                let out = tempfile::tempdir().unwrap();
                let text = recipe(&format!("method = '{method}'\n{keys}\nskip = ['blocks.0.*']"));
                let report = compress::run(&text, &data::fixture(name), out.path()).unwrap();
                let written = runtime::open(out.path(), None).unwrap();
                let original = runtime::open(&data::fixture(name), None).unwrap();
                let stage = &report.stages[0];
                assert_eq!(stage.method, "sparsify");
                assert!(stage.remarks[0].contains("the file is not smaller"), "{what}: {:?}", stage.remarks);
                assert!(!stage.layers.is_empty() && stage.layers.iter().all(|l| !l.name.starts_with("blocks.0.")), "{what}");
                for parameter in written.spec().parameters() {
                    let weight = written.store.weight(&parameter.name).unwrap();
                    let values = weight.to_f32();
                    let zeros = values.iter().filter(|v| **v == 0.0).count();
                    let Some(layer) = stage.layers.iter().find(|l| l.name == parameter.name) else {
                        let untouched = parameter.kind != ParameterKind::Linear || parameter.name.starts_with("blocks.0.");
                        assert!(untouched, "{what}: {} was left out", parameter.name);
                        let before = original.store.weight(&parameter.name).unwrap();
                        let near = values.iter().zip(before.to_f32().iter()).all(|(a, b)| (a - b).abs() <= 1e-3 * b.abs() + 1e-7);
                        assert!(near, "{what}: {} has changed", parameter.name);
                        continue;
                    };
                    let columns = parameter.shape[1];
                    let expected = match pattern {
                        Some((n, m)) => {
                            assert!(keeps_pattern(&values, columns, n, m), "{what}: {}", layer.name);
                            (columns / m * (m - n) + (columns % m).saturating_sub(n)) as f64 / columns as f64
                        }
                        None => 0.6,
                    };
                    let share = zeros as f64 / values.len() as f64;
                    // A share of a row is a whole number of its weights.
                    assert!((share - expected).abs() < 1.0 / columns as f64, "{what}: {share} of {}", layer.name);
                    assert_eq!(layer.remarks, [format!("{:.1} % zeros; the file is not smaller for them", 100.0 * share)], "{what}");
                    assert!(layer.bits == 16.0 && layer.relative_error > 0.0 && layer.relative_error < 1.0, "{what}: {layer:?}");
                }
                let difference = compress::greatest_difference(&written, &(3..33).map(|i| i * 7 % 90).collect::<Vec<u32>>());
                assert!(difference.max(report.max_read_back_difference) <= 1e-3, "{what}: {difference}");
                let card = std::fs::read_to_string(out.path().join("README.md")).unwrap();
                assert!(card.contains("the file is not smaller"), "{what}: {card}");
            }
        }
    }
}

/// Layers lose least by SparseGPT, and less by Wanda than by magnitude.
#[test]
fn what_knows_more_loses_less() {
    let error = |keys: &str| {
        let out = tempfile::tempdir().unwrap();
        let report = compress::run(&recipe(keys), &data::fixture("llama-gqa-tied"), out.path()).unwrap();
        let layers = &report.stages[0].layers;
        layers.iter().map(|l| l.relative_error).sum::<f64>() / layers.len() as f64
    };
    for keys in ["sparsity = 0.5", "pattern = '2:4'"] {
        let [magnitude, wanda, sparsegpt] =
            ["magnitude", "wanda", "sparsegpt"].map(|method| error(&format!("method = '{method}'\n{keys}")));
        println!("{keys}: mean relative error {magnitude:.4} by magnitude, {wanda:.4} by Wanda, {sparsegpt:.4} by SparseGPT");
        assert!(sparsegpt < wanda && wanda < magnitude);
    }
}

/// Quantising behind it is allowed, and the report says how many zeros are left.
#[test]
fn quantising_behind_it_says_what_is_left() {
    let left = |stage: &str| {
        let out = tempfile::tempdir().unwrap();
        let text = recipe("method = 'wanda'") + &format!("[[stage]]\n[stage.{stage}]\nbits = 4\ngroup_size = 32\n");
        let report = compress::run(&text, &data::fixture("llama-gqa-tied"), out.path()).unwrap();
        let [remark] = &report.stages[1].remarks[..] else { panic!("{:?}", report.stages[1].remarks) };
        assert!(remark.ends_with("sparsified layers are zero behind this stage"), "{remark}");
        remark.split_once(" %").unwrap().0.parse::<f64>().unwrap()
    };
    let (rtn, gptq) = (left("rtn"), left("gptq"));
    println!("zeros left: {rtn} % by rounding, {gptq} % by GPTQ");
    assert!(rtn >= 50.0, "rounding keeps zeros: {rtn}");
    assert!(gptq < rtn, "GPTQ moves them: {gptq}");
}

/// Refused before any weight is read, by what to do instead.
#[test]
fn senseless_settings_say_what_is_expected() {
    let model = DenseModel::open_hugging_face(&data::fixture("llama-gqa-tied")).unwrap();
    let resolve = |keys: &str| {
        let text = format!("[[stage]]\n[stage.sparsify]\n{keys}\n");
        RawRecipe::parse(&text, Path::new("r.toml"), &[])?.resolve(model.spec())
    };
    for (keys, says) in [
        ("sparsity = 1.0", "sparsity = 1 must be from 0 to below 1; 0.5 makes half"),
        ("sparsity = 1.5", "from 0 to below 1"),
        ("sparsity = -0.1", "from 0 to below 1"),
        ("sparsity = nan", "from 0 to below 1"),
        ("pattern = '5:4'", "pattern = \"5:4\" must say how many of how many neighbours stay, such as \"2:4\""),
        ("pattern = '4:4'", "such as \"2:4\""),
        ("pattern = '0:4'", "such as \"2:4\""),
        ("pattern = '2'", "such as \"2:4\""),
        ("pattern = '2:4'\nsparsity = 0.5", "exclude each other; leave one out"),
        ("method = 'obd'", "expected one of `magnitude`, `wanda`, `sparsegpt`"),
        ("method = 'wanda'\ndamp_percent = 0.1", "damp_percent is for method = \"sparsegpt\"; leave it out"),
        ("method = 'magnitude'\nblock_size = 64", "block_size is for method = \"sparsegpt\""),
        ("method = 'wanda'\nprecision = 'f64'", "precision is for method = \"sparsegpt\""),
        ("damp_percent = 0.0", "damp_percent 0 must be above 0"),
        ("block_size = 0", "block_size must be at least 1"),
        ("pattern = '4:8'\nblock_size = 100", "block_size = 100 would split groups of 8; set block_size = 104"),
        ("skip = ['blocks.7.*']", "skip = \"blocks.7.*\" names no matrix"),
        ("skip = ['embeddings']", "skip = \"embeddings\" names no matrix of this model that it changes"),
        ("bits = 4", "unknown field `bits`"),
        (
            "[[stage]]\n[stage.distil]\ntraining = { text = ['t'] }",
            "distil comes behind a stage that sparsifies, which only quantising without training may follow",
        ),
        ("[[stage]]\n[stage.ternary]\ndistil = { training = { text = ['t'] } }", "ternary comes behind a stage that sparsifies"),
        ("[[stage]]\n[stage.student]\nn_layers = 1\nlayers = 'first'", "student comes behind a stage that sparsifies"),
    ] {
        let error = resolve(keys).unwrap_err().to_string();
        assert!(error.contains(says), "{keys}: {says:?} is not in {error}");
    }
    for keys in ["", "sparsity = 0.0", "pattern = '1:2'\nmethod = 'magnitude'", "[[stage]]\n[stage.sparsify]\nskip = ['*.attn.*']"] {
        resolve(keys).unwrap_or_else(|e| panic!("{keys}: {e}"));
    }
}
