//! Weights whose numbers f16 cannot hold: rows that are quantised have exponents, matrices that are not
//! stay in bf16 or f32, and nothing is lost that an ordinary weight would not lose.
#![cfg(feature = "torch")]

#[path = "common/compress.rs"]
mod compress;
#[path = "common/normal.rs"]
mod normal;
#[path = "common/statistics.rs"]
mod statistics;
#[path = "common/tiny.rs"]
mod tiny;

use ndarray::Array2;
use statistics::{statistics, tensor};
use std::collections::BTreeMap;
use thimble::compress::quantize::{self, TargetLayer};
use thimble::compress::solve::relative_error::quadratic_form;
use thimble::kernels;
use thimble::quant::native::{NativeFile, Notes, write};
use thimble::quant::quant_params::{GridChoice, GridSearch};
use thimble::quant::rounding::round_to_nearest;
use thimble::quant::ternary::Share;
use thimble::quant::{Code, DataType, Layout, PackedTensor, QuantizedTensor, Scheme, Weight, WeightStore};
use thimble::random::Random;
use thimble::recipe::{AwqOptions, GptqOptions, LlmInt8Options, Method, RtnOptions, TernaryOptions, TernarySolver};
use thimble::report::CompressReport;
use thimble::runtime::{self, Activations, product};
use tiny::{HIDDEN, Tiny, text};

fn single(seed: u64, shape: (usize, usize)) -> Array2<f32> {
    normal::normal(Random::new(seed, 1), shape).mapv(|v| v as f32)
}

/// Multiplied by 2^k, in f64 before it is rounded.
fn times(weight: &Array2<f32>, k: i32) -> Array2<f32> {
    weight.mapv(|v| (f64::from(v) * 2f64.powi(k)) as f32)
}

/// Every method, with the schemes that it takes.
fn methods() -> Vec<(Method, Scheme)> {
    let of = |code| Scheme::integers(code, 32, false);
    let searched = RtnOptions { grid: GridChoice::LeastError(GridSearch::default()), importance: true };
    let codebook = Scheme { data_type: DataType::Normal, ..Scheme::integers(Code::Codebook4, 32, false) };
    let ternary = |scale: Share, solver| (Method::Ternary(TernaryOptions { scale, solver }), scale.scheme(Code::Ternary));
    let gptq = TernarySolver::Gptq { damp_percent: 0.01, rounds: 2 };
    vec![
        (Method::Rtn(RtnOptions::default()), of(Code::Int4)),
        (Method::Rtn(RtnOptions::default()), of(Code::Int8)),
        (Method::Rtn(RtnOptions::default()), codebook),
        (Method::Rtn(searched), of(Code::Int3)),
        (Method::Gptq(GptqOptions::default()), of(Code::Int4)),
        (Method::Gptq(GptqOptions { static_groups: true, ..GptqOptions::default() }), of(Code::Int2)),
        (Method::Awq(AwqOptions { clip: true }), of(Code::Int4)),
        (Method::LlmInt8(LlmInt8Options { threshold: 6.0 }), Scheme::integers(Code::Int8, 0, true)),
        ternary(Share::Row, gptq),
        ternary(Share::Group(32), gptq),
        ternary(Share::Tensor, TernarySolver::Absmean),
    ]
}

/// A weight times 2^k becomes the same times 2^k, its relative error is the same, and so are its products.
#[test]
fn powers_of_two_change_nothing() {
    let (rows, columns) = (20, 96);
    let weight = single(1, (rows, columns));
    let mut x = single(2, (300, columns));
    // An outlier for LLM.int8().
    x.column_mut(5).mapv_inplace(|v| 4.0 * v);
    for (method, scheme) in methods() {
        let solve = |k: i32| {
            let weight = times(&weight, k);
            let whole = quadratic_form(&tensor(&weight), &statistics(&x).hessian);
            let layer = TargetLayer { name: "w".into(), scheme, weight: tensor(&weight) };
            let outcome = quantize::compress(method, &[layer], statistics(&x)).unwrap().0.remove(0);
            ((outcome.squared_error / whole).sqrt(), outcome.tensor)
        };
        let outputs = |tensor: &QuantizedTensor, activations| {
            let packed = Weight::pack("w", tensor, Layout::Tiles);
            product(packed, x.as_slice().unwrap(), activations, kernels::select().unwrap())
        };
        let (expected_error, expected) = solve(0);
        assert!(expected.exponents.is_none() && expected_error > 0.0, "{method:?}: ordinary weights have no exponents");
        for k in [-100, -63, -40, -26, 18, 40, 66, 100] {
            let (error, tensor) = solve(k);
            assert!(tensor.exponents.is_some(), "{method:?}, 2^{k}");
            assert_eq!(tensor.dequantize(), times(&expected.dequantize(), k), "{method:?}, 2^{k}");
            assert!((error / expected_error - 1.0).abs() < 1e-4, "{method:?}, 2^{k}: error {error}, not {expected_error}");
            for activations in [Activations::F32, Activations::Int8, Activations::Int8Token] {
                let found = outputs(&tensor, activations).into_iter().map(|y| (f64::from(y) * 2f64.powi(-k)) as f32);
                let same = found.zip(outputs(&expected, activations)).all(|(a, b)| a == b);
                assert!(same, "{method:?}, 2^{k}, {activations:?}: other products");
            }
        }
        // Where f16 still holds scales, but with fewer bits.
        for k in (-25..18).filter(|k| *k != 0) {
            let (error, _) = solve(k);
            assert!(error < 1.1 * expected_error, "{method:?}, 2^{k}: error {error}, not {expected_error}");
        }
    }
}

/// Rows of every size side by side, and the native file: each row as it would be alone.
#[test]
fn rows_have_exponents_of_their_own() {
    let scheme = Scheme::integers(Code::Int4, 32, false);
    let mut weight = single(3, (6, 64));
    let alone: Vec<Array2<f32>> =
        weight.rows().into_iter().map(|row| round_to_nearest(row.insert_axis(ndarray::Axis(0)), scheme).dequantize()).collect();
    let powers = [0, -100, 66, -30, 0, 100];
    for (mut row, k) in weight.rows_mut().into_iter().zip(powers) {
        row.mapv_inplace(|v| (f64::from(v) * 2f64.powi(k)) as f32);
    }
    weight.row_mut(4).fill(0.0);
    let tensor = round_to_nearest(weight.view(), scheme);
    for (i, k) in powers.into_iter().enumerate() {
        let expected = if i == 4 { Array2::zeros((1, 64)) } else { times(&alone[i], k) };
        assert_eq!(tensor.dequantize().row(i), expected.row(0), "row {i}");
    }
    for layout in [Layout::Tiles, Layout::Rows] {
        let packed = PackedTensor::pack(&tensor, layout);
        assert!(packed.unpack() == tensor);
        assert_eq!(*Weight::Packed(packed.clone()).to_f32(), *tensor.dequantize().as_slice().unwrap());
        let plain = PackedTensor { exponents: None, ..packed.clone() };
        assert_eq!(packed.len_bytes(), plain.len_bytes() + 6);
    }
}

/// Compresses a model, calibrated and measured on the same texts.
fn run(model: &Tiny, stage: &str) -> thimble::Result<(CompressReport, tempfile::TempDir)> {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("model");
    std::fs::create_dir(&source).unwrap();
    model.write(&source);
    for (name, seed) in [("calibration.txt", 1), ("evaluation.txt", 2)] {
        std::fs::write(dir.path().join(name), text(seed, 1500, |u| 3 + (u * 93.0) as usize)).unwrap();
    }
    let recipe = format!(
        "[calibration]\ntext = \"{0}/calibration.txt\"\nsequences = 16\nlength = 64\n[[stage]]\n{stage}\n\
         [evaluate]\ntext = \"{0}/evaluation.txt\"\nwindow = 64\nactivations = \"f32\"\n",
        dir.path().display()
    );
    Ok((compress::run(&recipe, &source, &dir.path().join("out"))?, dir))
}

/// The same function in other numbers: up and value projections are smaller by a power of two, and
/// what reads them is greater by it.
fn stretched(k: i32) -> Tiny {
    let mut model = Tiny::new(2, "silu");
    for layer in 0..2 {
        for (small, great) in [("mlp.up_proj", "mlp.down_proj"), ("self_attn.v_proj", "self_attn.o_proj")] {
            model.multiply(&format!("model.layers.{layer}.{small}.weight"), -k);
            model.multiply(&format!("model.layers.{layer}.{great}.weight"), k);
        }
    }
    model
}

/// Relative errors by layer, or their sums over the layers that share an input.
fn errors(report: &CompressReport, by_input: bool) -> BTreeMap<String, f64> {
    let mut errors = BTreeMap::new();
    for layer in &report.stages[0].layers {
        let (module, role) = layer.name.rsplit_once('.').unwrap_or(("", &layer.name));
        let input = match role {
            "q" | "k" | "v" => "q, k, v",
            "gate" | "up" => "gate, up",
            own => own,
        };
        let name = if by_input { format!("{module}.{input}") } else { layer.name.clone() };
        *errors.entry(name).or_insert(0.0) += layer.relative_error;
    }
    errors
}

#[test]
fn a_model_in_other_numbers_loses_as_much() {
    let skip = "skip = [\"blocks.*\"]\n";
    for (stage, kept) in [
        ("[stage.rtn]\nbits = 4\ngroup_size = 32\n", false),
        ("[stage.gptq]\nbits = 4\ngroup_size = 32\n", false),
        ("[stage.awq]\nbits = 8\ngroup_size = 32\n", false),
        ("[stage.ternary]\n", false),
        (&format!("[stage.rtn]\nbits = 8\n{skip}"), true),
    ] {
        let (expected, _dir) = run(&stretched(0), stage).unwrap();
        let kl = |report: &CompressReport| report.after.divergence.as_ref().unwrap().kl_mean;
        for k in [22, 30, 70, 100] {
            let (report, dir) = run(&stretched(k), stage).unwrap();
            println!("{}, 2^{k}: KL {:.6}, in ordinary numbers {:.6}", stage.trim().replace('\n', ", "), kl(&report), kl(&expected));
            assert!((kl(&report) / kl(&expected) - 1.0).abs() < 0.05, "{stage}, 2^{k}: KL {} of {}", kl(&report), kl(&expected));
            // AWQ's search takes the strength by the sum of these over the layers of one input: where
            // two strengths are equally good, either may be taken, and the layers share it otherwise.
            let by_input = stage.contains("awq");
            let (found, ordinary) = (errors(&report, by_input), errors(&expected, by_input));
            assert_eq!(found.len(), ordinary.len());
            for ((name, error), same) in found.iter().zip(ordinary.values()) {
                assert!((error - same).abs() <= 0.02 * same + 1e-6, "{stage}, 2^{k}: {name} has {error}, not {same}");
            }
            let json = serde_json::to_string(&report).unwrap();
            assert!(!json.contains("null"), "{json}");
            if !kept {
                // Only what needs it is of version 2.
                let header = std::fs::read(dir.path().join("out/model.thimble")).unwrap();
                let header = String::from_utf8_lossy(&header[..20_000.min(header.len())]).into_owned();
                assert!(header.contains("\"thimble.version\":\"2\""), "{stage}, 2^{k}");
            }
        }
    }
}

/// A weight of 1e20 where its input is zero is quantised, with numbers in the report. Where the model
/// itself overflows, or its perplexity does, the error says so.
#[test]
fn huge_weights_are_quantised_or_named() {
    for stage in [
        "[stage.rtn]\nbits = 4\ngroup_size = 32\n",
        "[stage.gptq]\nbits = 4\ngroup_size = 32\n",
        "[stage.awq]\nbits = 4\ngroup_size = 32\n",
        "[stage.ternary]\n",
    ] {
        let mut idle = Tiny::new(2, "silu");
        idle.values("model.layers.0.input_layernorm.weight")[7] = 0.0;
        for name in ["q_proj", "v_proj"] {
            idle.values(&format!("model.layers.0.self_attn.{name}.weight"))[3 * HIDDEN + 7] = 1e20;
        }
        let (report, _dir) = run(&idle, stage).unwrap_or_else(|e| panic!("{stage}: {e}"));
        let json = serde_json::to_string(&report).unwrap();
        assert!(!json.contains("null"), "{stage}: {json}");
        // Another token has all of the probability, so that the perplexity is infinite.
        let mut head = Tiny::new(2, "silu");
        head.values("lm_head.weight")[50 * HIDDEN..51 * HIDDEN].fill(-1e20);
        let error = run(&head, stage).err().unwrap_or_else(|| panic!("{stage}: a perplexity that is infinite")).to_string();
        assert!(error.contains("the perplexity of the reference"), "{stage}: {error}");
        let mut overflows = Tiny::new(2, "silu");
        for name in ["up_proj", "down_proj"] {
            overflows.values(&format!("model.layers.0.mlp.{name}.weight")).iter_mut().for_each(|w| *w *= 1e20);
        }
        let error = run(&overflows, stage).err().unwrap_or_else(|| panic!("{stage}: the model overflows")).to_string();
        assert!(error.contains("not finite") && !error.to_lowercase().contains("json"), "{stage}: {error}");
    }
}

/// Matrices that are not quantised, in the file: in bf16 or f32 where f16 cannot hold them.
#[test]
fn kept_matrices_lose_no_more_than_the_precision_of_f16() {
    let mut model = Tiny::new(2, "silu");
    model.multiply("model.layers.0.mlp.up_proj.weight", -40);
    model.multiply("model.layers.0.mlp.down_proj.weight", 40);
    let (_, dir) = run(&model, "[stage.rtn]\nbits = 4\ngroup_size = 32\nskip = [\"blocks.0.ffn.*\"]\n").unwrap();
    let [source, written] = ["model", "out"].map(|name| runtime::open(&dir.path().join(name), None).unwrap());
    for (name, bytes) in [("blocks.0.ffn.gate", 2), ("blocks.0.ffn.up", 4), ("blocks.0.ffn.down", 4)] {
        let [was, is] = [&source, &written].map(|model| model.store.weight(name).unwrap());
        assert_eq!(is.len_bytes(), bytes * was.to_f32().len(), "{name}");
        let columns = is.shape()[1];
        for (was, is) in was.to_f32().chunks(columns).zip(is.to_f32().chunks(columns)) {
            let greatest = was.iter().fold(0f32, |m, v| m.max(v.abs()));
            assert!(was.iter().zip(is).all(|(a, b)| (a - b).abs() <= greatest / 2048.0), "{name}");
        }
    }
}

/// A file with exponents: read back as written, damaged exponents refused by name.
#[test]
fn native_files_hold_exponents() {
    let model = Tiny::new(1, "silu");
    let dir = tempfile::tempdir().unwrap();
    model.write(dir.path());
    let source = runtime::open(dir.path(), None).unwrap();
    let scheme = Scheme::integers(Code::Int8, 32, true);
    let pack = |p: thimble::model::Parameter| {
        let weight = source.store.weight(&p.name).unwrap();
        if p.shape.len() < 2 {
            return (p.name, weight);
        }
        let values = Array2::from_shape_vec((p.shape[0], p.shape[1]), weight.to_f32().into_owned()).unwrap();
        let tensor = round_to_nearest(times(&values, -70).view(), scheme);
        (p.name, Weight::pack("w", &tensor, Layout::Tiles))
    };
    let spec = source.spec().clone();
    let weights: Vec<(String, Weight)> = spec.parameters().into_iter().map(pack).collect();
    let path = dir.path().join("m.thimble");
    write(&path, &spec, &weights, None, &Notes::default()).unwrap();
    let file = NativeFile::open(&path).unwrap();
    for (name, weight) in &weights {
        assert_eq!(*file.weight(name).unwrap().to_f32(), *weight.to_f32(), "{name}");
        assert_eq!(file.schemes().get(name).is_some_and(|stored| stored.exponents), weight.shape().len() == 2, "{name}");
    }
    // Exponents of −128, whose power is no normal number.
    let mut bytes = std::fs::read(&path).unwrap();
    let start = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: serde_json::Value = serde_json::from_slice(&bytes[8..start]).unwrap();
    let at = header["blocks.0.attn.q.exponents"]["data_offsets"][0].as_u64().unwrap() as usize;
    bytes[start + at] = i8::MIN as u8;
    // Another file: one that is mapped and changes fails every test of this process that runs now.
    let path = dir.path().join("wrong.thimble");
    std::fs::write(&path, &bytes).unwrap();
    let error = NativeFile::open(&path).err().unwrap().to_string();
    assert!(error.contains("blocks.0.attn.q.exponents") && error.contains("-128"), "{error}");
}
