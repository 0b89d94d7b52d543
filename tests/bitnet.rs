//! BitNet's checkpoints against the logits that transformers' own layers compute (see
//! `python-compat/write_bitnet.py`).

#[cfg(feature = "torch")]
#[path = "common/compress.rs"]
mod compress;
#[path = "common/damage.rs"]
mod damage;
#[path = "common/data.rs"]
mod data;

use std::path::{Path, PathBuf};
use thimble::model::{LogitSource, ParameterKind};
use thimble::quant::{Code, Weight};
use thimble::runtime::{self, Activations, Decoder, NativeLogits};

/// Of the greatest logit.
const TOLERANCE: f32 = 1e-5;

/// Folder, and whether its layers `o_proj` are kept.
const CHECKPOINTS: [(&str, bool); 6] = [
    ("bitlinear", false),
    ("bitlinear-fused", false),
    ("autobitlinear", false),
    ("autobitlinear-unpacked", false),
    ("autobitlinear-biases", false),
    ("online", true),
];

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/bitnet").join(name)
}

/// In a folder of its own.
fn copy(name: &str) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let model = dir.path().join("model");
    std::fs::create_dir(&model).unwrap();
    for entry in std::fs::read_dir(folder(name)).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, model.join(path.file_name().unwrap())).unwrap();
    }
    (dir, model)
}

fn expected(name: &str) -> (Vec<u32>, Vec<f32>) {
    let bytes = std::fs::read(folder(name).join("expected.safetensors")).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let numbers = |name: &str| -> Vec<u32> {
        file.tensor(name).unwrap().data().chunks_exact(4).map(|b| u32::from_le_bytes(b.try_into().unwrap())).collect()
    };
    (numbers("ids"), numbers("logits").into_iter().map(f32::from_bits).collect())
}

#[test]
fn every_layout_gives_the_logits_of_transformers() {
    for (name, keeps_output) in CHECKPOINTS {
        let model = runtime::open(&folder(name), None).unwrap();
        for parameter in model.spec().parameters() {
            let kept = parameter.kind != ParameterKind::Linear || keeps_output && parameter.name.ends_with("attn.o");
            match model.store.weight(&parameter.name).unwrap() {
                Weight::Packed(packed) => assert!(!kept && packed.tiling.scheme.code == Code::Ternary, "{name}: {}", parameter.name),
                Weight::Dense(_) => assert!(kept, "{name}: {} is not packed", parameter.name),
            }
        }
        let (ids, logits) = expected(name);
        let mut source = NativeLogits::new(Decoder::new(&*model.store, Activations::Int8Token, 1).unwrap());
        source.run_window(&ids).unwrap();
        let found = source.logits(0..ids.len()).unwrap();
        let greatest = logits.iter().fold(0f32, |m, l| m.max(l.abs()));
        let off = found.iter().zip(&logits).fold(0f32, |m, (a, b)| m.max((a - b).abs()));
        println!("{name}: {off:.1e} of {greatest}");
        assert!(off <= TOLERANCE * greatest, "{name}: {off} of {greatest}");
    }
}

/// What is wrong with a file is said when its weights are asked for, or before.
#[test]
fn damage_is_found() {
    let (up, scale) = ("model.layers.1.mlp.up_proj.weight", "model.layers.1.mlp.up_proj.weight_scale");
    let f32_bytes = |value: f32| value.to_le_bytes();
    let cases: [(&str, &str, &[u8], &[&str]); 4] = [
        // Two bits that are none of the three codes.
        ("bitlinear", up, &[0b1101_1010], &[up, "NaN or infinite"]),
        ("bitlinear", scale, &f32_bytes(0.0), &[scale, "positive and finite"]),
        ("autobitlinear", scale, &f32_bytes(-1.0), &[scale, "positive and finite", "-1.0"]),
        ("autobitlinear-unpacked", up, &f32_bytes(0.5), &[up, "none of −1, 0 and 1"]),
    ];
    for (name, tensor, bytes, said) in cases {
        let (_dir, model) = copy(name);
        damage::edit_tensors(&model.join("model.safetensors"), |t| t.put(tensor, 0, bytes));
        let opened = runtime::open(&model, None).and_then(|model| model.store.weight("blocks.1.ffn.up"));
        let error = opened.map(|_| ()).unwrap_err().to_string();
        assert!(said.iter().all(|part| error.contains(part)), "{name}: {error}");
    }
}

/// Ternary layers go to the native file as they are; what would round them anew to less, or
/// needs full precision, is refused.
#[cfg(feature = "torch")]
#[test]
fn compressing_keeps_what_is_ternary() {
    let (_dir, model) = copy("autobitlinear");
    let out = tempfile::tempdir().unwrap();
    let recipe =
        |stage: &str| format!("[calibration]\nsequences = 2\nlength = 16\n[[stage]]\n{stage}\n[evaluate]\nwindow = 16\nmax_windows = 2\n");
    compress::run(&recipe("[stage.rtn]\nbits = 8\nskip = ['blocks.*']"), &model, out.path()).unwrap();
    let [before, after] = [&model, &out.path().to_path_buf()].map(|path| runtime::open(path, None).unwrap());
    for parameter in before.spec().parameters().iter().filter(|p| p.kind == ParameterKind::Linear) {
        let [Weight::Packed(before), Weight::Packed(after)] = [&before, &after].map(|m| m.store.weight(&parameter.name).unwrap()) else {
            panic!("{} is packed", parameter.name)
        };
        assert!(before == after && after.tiling.scheme.code == Code::Ternary, "{}", parameter.name);
    }
    assert!(matches!(after.store.weight(thimble::model::parameters::EMBEDDINGS).unwrap(), Weight::Packed(_)));
    for (stage, says) in [
        ("[stage.ternary]", "ternary needs full-precision ones"),
        ("[stage.sparsify]\nmethod = 'magnitude'\nsparsity = 0.5", "sparsify needs full-precision ones"),
        ("[stage.rtn]\nbits = 8\n[output]\nformat = 'hf'", "native"),
    ] {
        let error = compress::run(&recipe(stage), &model, out.path()).unwrap_err().to_string();
        assert!(error.contains(says), "{stage}: {error}");
    }
}
