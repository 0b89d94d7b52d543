//! The native file: its bytes are pinned by a golden file, any safetensors reader
//! opens it, and what is read is what was written.

#[path = "common/data.rs"]
mod data;

use ndarray::ArrayView2;
use serde_json::json;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use thimble::checkpoint::{DenseTensor, FloatType};
use thimble::model::{ModelSpec, ParameterKind};
use thimble::quant::native::{self, NativeFile, Notes};
use thimble::quant::rounding::round_to_nearest;
use thimble::quant::{Code, Columns, DataType, Layout, Outliers, PackedTensor, Permutation, Scheme, Weight, WeightStore};
use thimble::runtime::{self, Activations, Decoder, KvCache, Step};

/// What a file pins: its name, and the schemes of one model's weights.
type Golden = (&'static str, &'static [(&'static str, Scheme)]);

/// Each code, symmetric or centred and not, groups and whole rows.
const GOLDEN: [Golden; 3] = [
    (
        "golden",
        &[
            ("embeddings", Scheme::integers(Code::Int8, 32, false)),
            ("head", Scheme::integers(Code::Int4, 0, true)),
            ("blocks.0.attn.q", Scheme::integers(Code::Int2, 32, false)),
            ("blocks.0.attn.k", Scheme::integers(Code::Int3, 32, true)),
            ("blocks.0.attn.v", Scheme::integers(Code::Int4, 32, false)),
            ("blocks.0.attn.o", Scheme::integers(Code::Int5, 32, true)),
            ("blocks.0.ffn.gate", Scheme::integers(Code::Int6, 0, false)),
            ("blocks.0.ffn.up", Scheme::integers(Code::Int8, 64, true)),
            ("blocks.0.ffn.down", Scheme::integers(Code::Int3, 32, false)),
            ("blocks.1.ffn.gate", Scheme::integers(Code::Int5, 32, false)),
            ("blocks.1.ffn.down", Scheme::integers(Code::Int6, 32, true)),
        ],
    ),
    (
        "golden-books",
        &[
            ("embeddings", of_codebook(Code::Codebook8, DataType::Dynamic, 32, false)),
            ("head", of_codebook(Code::Codebook4, DataType::Normal, 0, true)),
            ("blocks.0.attn.q", of_codebook(Code::Codebook3, E2M0, 32, false)),
            ("blocks.0.attn.k", of_codebook(Code::Codebook4, DataType::Normal, 32, true)),
            ("blocks.0.attn.v", of_codebook(Code::Codebook4, DataType::Quantile, 32, false)),
            ("blocks.0.attn.o", of_codebook(Code::Codebook5, DataType::Quantile, 32, true)),
            ("blocks.0.ffn.gate", of_codebook(Code::Codebook6, DataType::Normal, 0, false)),
            ("blocks.0.ffn.up", of_codebook(Code::Codebook7, DataType::Dynamic, 64, true)),
            ("blocks.0.ffn.down", of_codebook(Code::Codebook8, DataType::Quantile, 32, true)),
            ("blocks.1.ffn.gate", of_codebook(Code::Codebook4, DataType::Normal, 32, false)),
            ("blocks.1.ffn.down", Scheme::integers(Code::Int4, 32, false)),
        ],
    ),
    (
        "golden-ternary",
        &[
            ("embeddings", Scheme::integers(Code::Base3, 0, true)),
            ("head", Scheme::integers(Code::Ternary, 0, true)),
            ("blocks.0.attn.q", Scheme::integers(Code::Base3, 32, true)),
            ("blocks.0.attn.k", Scheme::integers(Code::Ternary, 0, true)),
            ("blocks.0.attn.v", Scheme::integers(Code::Ternary, 32, true)),
            ("blocks.0.attn.o", Scheme::integers(Code::Base3, 0, true)),
            ("blocks.0.ffn.gate", Scheme::integers(Code::Base3, 0, true)),
            ("blocks.0.ffn.up", Scheme::integers(Code::Ternary, 64, true)),
            ("blocks.0.ffn.down", Scheme::integers(Code::Base3, 64, true)),
            ("blocks.1.ffn.down", Scheme::integers(Code::Int4, 32, false)),
        ],
    ),
];
const E2M0: DataType = DataType::Float { exponent: 2, mantissa: 0 };

const fn of_codebook(code: Code, data_type: DataType, group_size: usize, symmetric: bool) -> Scheme {
    Scheme { code, group_size, symmetric, data_type }
}

/// These read one input and share an order of columns.
const PERMUTED: [&str; 3] = ["blocks.0.attn.q", "blocks.0.attn.k", "blocks.0.attn.v"];

fn weights(model: &runtime::Model, schemes: &[(&str, Scheme)]) -> Vec<(String, Weight)> {
    let quantize = |name: &str, weight: &Weight, scheme: Scheme| {
        let shape = weight.shape();
        let values = weight.to_f32();
        let mut matrix = ArrayView2::from_shape((shape[0], shape[1]), &values).unwrap().to_owned();
        let permutation = PERMUTED.contains(&name).then(|| {
            // Columns from the last to the first.
            matrix.invert_axis(ndarray::Axis(1));
            Arc::new(Permutation { name: "blocks.0.attn.q.perm".into(), order: (0..shape[1] as u32).rev().collect() })
        });
        let mut tensor = round_to_nearest(matrix.view(), scheme);
        tensor.permutation = permutation;
        let layout = if name == "embeddings" { Layout::Rows } else { Layout::Tiles };
        Weight::Packed(PackedTensor::pack(&tensor, layout))
    };
    let keep = |name: &str, weight: Weight| match weight {
        // Both 16-bit formats, besides the vectors in f32.
        Weight::Dense(t) if t.shape.len() == 2 => Weight::Dense(narrow(&t, name.ends_with('q'))),
        other => other,
    };
    let spec = model.spec();
    let convert = |p: thimble::model::Parameter| {
        let weight = model.store.weight(&p.name).unwrap();
        let weight = match schemes.iter().find(|s| s.0 == p.name) {
            Some((_, scheme)) => quantize(&p.name, &weight, *scheme),
            None => keep(&p.name, weight),
        };
        (p.name, weight)
    };
    spec.parameters().into_iter().map(convert).collect()
}

fn narrow(tensor: &DenseTensor, f16: bool) -> DenseTensor {
    let bits = |v: &f32| if f16 { half::f16::from_f32(*v).to_bits() } else { half::bf16::from_f32(*v).to_bits() };
    let bytes = tensor.to_f32().iter().flat_map(|v| bits(v).to_le_bytes()).collect();
    let float_type = if f16 { FloatType::F16 } else { FloatType::Bf16 };
    DenseTensor { float_type, bytes: thimble::checkpoint::Bytes::from_vec(bytes), ..tensor.clone() }
}

fn write(path: &Path, schemes: &[(&str, Scheme)]) -> (ModelSpec, Vec<(String, Weight)>) {
    let model = runtime::open(&data::fixture("llama-head-dim"), None).unwrap();
    let weights = weights(&model, schemes);
    let notes = Notes { recipe: json!({ "golden": true }), provenance: json!({ "tool": "test" }), ..Notes::default() };
    native::write(path, model.spec(), &weights, Some(b"{\"tokenizer\": \"bytes\"}"), &notes).unwrap();
    (model.spec().clone(), weights)
}

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name).with_extension("thimble")
}

/// A change of these bytes is a new version of the format. `THIMBLE_BLESS=1`
/// writes the file anew.
#[test]
fn bytes_are_those_of_the_golden_files() {
    for (name, schemes) in GOLDEN {
        let dir = tempfile::tempdir().unwrap();
        let (path, golden) = (dir.path().join("model.thimble"), golden(name));
        write(&path, schemes);
        if std::env::var_os("THIMBLE_BLESS").is_some() {
            std::fs::copy(&path, &golden).unwrap();
        }
        assert!(std::fs::read(&path).unwrap() == std::fs::read(&golden).unwrap(), "the written bytes differ from {}", golden.display());
    }
}

#[test]
fn what_is_read_is_what_was_written() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.thimble");
    for (_, schemes) in GOLDEN {
        let (spec, weights) = write(&path, schemes);
        let file = NativeFile::open(&path).unwrap();
        assert_eq!(*file.spec(), spec);
        assert_eq!(file.tokenizer(), Some(&b"{\"tokenizer\": \"bytes\"}"[..]));
        assert_eq!(file.notes().recipe, json!({ "golden": true }));
        for (name, weight) in weights {
            match (weight, file.weight(&name).unwrap()) {
                (Weight::Packed(a), Weight::Packed(b)) => assert!(a.unpack() == b.unpack(), "{name}"),
                (Weight::Dense(a), Weight::Dense(b)) => assert!(*a.bytes == *b.bytes && a.float_type == b.float_type, "{name}"),
                _ => panic!("{name} changed its kind"),
            }
        }
    }
}

/// Weights that keep columns in 16 bits: name, scheme, and the name of their columns.
const KEPT: [(&str, Scheme, &str); 6] = [
    ("embeddings", Scheme::integers(Code::Int8, 0, true), "embeddings.outlier_columns"),
    ("blocks.0.attn.q", Scheme::integers(Code::Int8, 0, true), "blocks.0.attn.q.outlier_columns"),
    ("blocks.0.attn.k", Scheme::integers(Code::Int8, 0, true), "blocks.0.attn.q.outlier_columns"),
    ("blocks.0.attn.v", Scheme::integers(Code::Int4, 32, false), "blocks.0.attn.q.outlier_columns"),
    ("blocks.0.ffn.down", Scheme::integers(Code::Int3, 32, true), "blocks.0.ffn.down.outlier_columns"),
    ("blocks.1.ffn.gate", Scheme::integers(Code::Int8, 0, true), "blocks.1.ffn.gate.outlier_columns"),
];

fn kept(name: &str) -> Arc<Columns> {
    let places = match name {
        "embeddings.outlier_columns" => vec![31],
        "blocks.0.attn.q.outlier_columns" => vec![0, 5, 6, 30],
        _ => (0..17).map(|i| 2 * i).collect(),
    };
    // Each weight has a list of its own in memory; the file has one a name.
    Arc::new(Columns { name: name.into(), places: places.into_iter().filter(|&p| name.contains("down") || p < 32).collect() })
}

/// The same model with columns in 16 bits beside codes of several kinds, one of them in
/// another order of columns.
fn write_kept(path: &Path) -> Vec<(String, Weight)> {
    let model = runtime::open(&data::fixture("llama-head-dim"), None).unwrap();
    let keep = |name, weight| match weight {
        Weight::Dense(t) if t.shape.len() == 2 => (name, Weight::Dense(narrow(&t, true))),
        other => (name, other),
    };
    let convert = |p: thimble::model::Parameter| {
        let weight = model.store.weight(&p.name).unwrap();
        let Some((_, scheme, columns)) = KEPT.iter().find(|k| k.0 == p.name) else { return keep(p.name, weight) };
        let values = weight.to_f32();
        let mut matrix = ArrayView2::from_shape((p.shape[0], p.shape[1]), &values).unwrap().to_owned();
        let outliers = Outliers::take(&mut matrix, &kept(columns));
        let permuted = p.name.ends_with("attn.v");
        if permuted {
            matrix = matrix.slice(ndarray::s![.., ..;-1]).as_standard_layout().into_owned();
        }
        let mut tensor = round_to_nearest(matrix.view(), *scheme);
        let order = (0..p.shape[1] as u32).rev().collect();
        tensor.permutation = permuted.then(|| Arc::new(Permutation { name: format!("{}.perm", p.name), order }));
        tensor.outliers = Some(outliers);
        let layout = if p.name == "embeddings" { Layout::Rows } else { Layout::Tiles };
        (p.name.clone(), Weight::pack(&p.name, &tensor, layout))
    };
    let weights: Vec<_> = model.spec().parameters().into_iter().map(convert).collect();
    native::write(path, model.spec(), &weights, None, &Notes::default()).unwrap();
    weights
}

fn golden_kept() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/golden-outliers.thimble")
}

/// Columns in 16 bits: pinned bytes, read back as written, one list of columns a name,
/// all of it counted, and run as decoded.
#[test]
fn columns_in_16_bits_are_stored_beside_the_codes() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.thimble");
    let weights = write_kept(&path);
    if std::env::var_os("THIMBLE_BLESS").is_some() {
        std::fs::copy(&path, golden_kept()).unwrap();
    }
    assert!(
        std::fs::read(&path).unwrap() == std::fs::read(golden_kept()).unwrap(),
        "the written bytes differ from {}",
        golden_kept().display()
    );
    let file = NativeFile::open(&path).unwrap();
    for (name, weight) in &weights {
        if let (Weight::Packed(a), Weight::Packed(b)) = (weight, file.weight(name).unwrap()) {
            assert!(a.unpack() == b.unpack() && a.outliers.is_some(), "{name}");
        }
    }
    let columns = |name: &str| match file.weight(name).unwrap() {
        Weight::Packed(packed) => packed.outliers.unwrap().columns,
        Weight::Dense(_) => panic!("{name} is dense"),
    };
    assert!(Arc::ptr_eq(&columns("blocks.0.attn.q"), &columns("blocks.0.attn.v")));
    let bytes = std::fs::read(&path).unwrap();
    let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    assert_eq!(header.tensors().keys().filter(|name| name.ends_with("outlier_columns")).count(), 4, "one list for q, k and v");
    let stored: usize = header.tensors().values().map(|info| info.data_offsets.1 - info.data_offsets.0).sum();
    let footprint = thimble::eval::Footprint::of(&file).unwrap();
    assert_eq!((footprint.bits_per_weight * footprint.parameters as f64 / 8.0).round() as usize, stored, "every byte is counted");
    runs_as_it_decodes("golden-outliers", &file);
}

/// The promises of the contract, read by the safetensors crate alone.
#[test]
fn layout_keeps_its_promises() {
    for (name, _) in GOLDEN {
        keeps_its_promises(name);
    }
}

fn keeps_its_promises(name: &str) {
    let bytes = std::fs::read(golden(name)).unwrap();
    let (header_len, header) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    assert_eq!((header_len + 8) % 64, 0, "data begins at a multiple of 64");
    assert_eq!(header.metadata().as_ref().unwrap()["thimble.version"], "1");
    let mut by_place: Vec<_> = header.tensors().into_iter().map(|(name, info)| (info.data_offsets, name, info)).collect();
    by_place.sort_by_key(|(offsets, ..)| *offsets);
    let rank = |name: &str| ["codes", "scales", "zeros"].iter().position(|end| name.ends_with(end)).unwrap_or(3);
    assert!(by_place.windows(2).all(|w| rank(&w[0].1) <= rank(&w[1].1)), "codes, then scales, then zero points, then the rest");
    for ((start, end), name, info) in &by_place {
        match rank(name) {
            0 => assert!(start % 64 == 0 && end % 64 == 0, "{name}: {start}..{end}"),
            1 => assert!(start % 32 == 0 && info.dtype == safetensors::Dtype::F16, "{name}"),
            2 => assert!(start % 16 == 0 && [safetensors::Dtype::U8, safetensors::Dtype::F16].contains(&info.dtype), "{name}"),
            _ => assert_eq!(start % (info.dtype.bitsize() / 8), 0, "{name}"),
        }
    }
    let names: Vec<_> = by_place.iter().map(|(_, name, _)| name.as_str()).collect();
    assert!(!names.contains(&"blocks.0.attn.k.zeros"), "symmetric weights have no zero points");
    assert_eq!(names.iter().filter(|n| n.ends_with(".perm")).count(), 1, "one order for q, k and v");
    assert_eq!(header.tensors()["blocks.0.attn.q.scales"].shape, [3, 1, 16], "[tiles, groups, 16]");
    let codebooks: Vec<_> = by_place.iter().filter(|(_, name, _)| name.starts_with("book.") || name.ends_with(".book")).collect();
    assert!(codebooks.iter().all(|(_, _, info)| info.dtype == safetensors::Dtype::F32), "codebooks are f32");
    let shared = codebooks.iter().filter(|(_, name, _)| name.starts_with("book.")).count();
    let all = if name == "golden-books" { (8, 5) } else { (0, 0) };
    assert_eq!((codebooks.len(), shared), all, "a codebook that weights share is stored once: {codebooks:?}");
}

/// Every layout at once in a running model: the device against its own decoded
/// weights in the plain decoder.
#[test]
fn device_runs_every_code_as_it_decodes() {
    for (name, _) in GOLDEN {
        runs_as_it_decodes(name, &NativeFile::open(&golden(name)).unwrap());
    }
}

fn runs_as_it_decodes(name: &str, file: &NativeFile) {
    let decoded = Decoded(file);
    let ids: Vec<u32> = (0..24).map(|i| (i * 37 + 5) % 96).collect();
    let logits = |store: &dyn WeightStore, activations| {
        let decoder = Decoder::new(store, activations, 1).unwrap();
        let mut cache = KvCache::new(store.spec());
        decoder.logits(&decoder.forward(&mut [Step { cache: &mut cache, ids: &ids }]).unwrap())
    };
    let dense = logits(&decoded, Activations::F32);
    let greatest = |a: &[f32]| a.iter().zip(&dense).fold(0.0f32, |m, (a, b)| m.max((a - b).abs()));
    let (exact, int8) = (greatest(&logits(file, Activations::F32)), greatest(&logits(file, Activations::Int8)));
    println!("{name}: greatest difference {exact:.1e} with f32 activations, {int8:.1e} with int8");
    assert!(exact < 1e-4, "{exact}");
    assert!(int8 > exact && int8 < 0.5, "{int8}");
}

/// The same weights, decoded to f32.
struct Decoded<'a>(&'a NativeFile);

impl WeightStore for Decoded<'_> {
    fn spec(&self) -> &ModelSpec {
        self.0.spec()
    }
    fn weight(&self, name: &str) -> thimble::Result<Weight> {
        let weight = self.0.weight(name)?;
        Ok(Weight::Dense(DenseTensor::from_f32(name, Path::new("decoded"), weight.shape(), &weight.to_f32())))
    }
    fn files(&self) -> Vec<Arc<PathBuf>> {
        Vec::new()
    }
}

#[test]
fn every_code_is_in_a_golden_file() {
    assert!(Code::ALL.iter().all(|code| GOLDEN.iter().any(|(_, schemes)| schemes.iter().any(|(_, s)| s.code == *code))));
    let spec = NativeFile::open(&golden("golden")).unwrap().spec().clone();
    assert!(spec.parameters().iter().any(|p| p.kind == ParameterKind::Embedding) && !spec.tied);
}
