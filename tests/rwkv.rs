//! A trained RWKV-4 against the logits that its authors computed. The file's format
//! is rwkv.cpp's (its `docs/FILE_FORMAT.md`); what is read from it here is written
//! as a Hugging Face directory, and opened as any other.

#[path = "common/data.rs"]
mod data;

use safetensors::tensor::TensorView;
use serde_json::json;
use std::path::{Path, PathBuf};
use thimble::model::LogitSource;
use thimble::runtime::{self, Activations, Decoder, KvCache, NativeLogits, Step};

const TOLERANCE: f32 = 1e-4;

/// Name, shape (outermost first) and numbers.
type Tensor = (String, Vec<usize>, Vec<f32>);

struct File {
    vocab_size: u32,
    hidden_size: u32,
    blocks: u32,
    tensors: Vec<Tensor>,
}

fn read(path: &Path) -> File {
    let bytes = std::fs::read(path).unwrap();
    let mut rest = &bytes[..];
    let mut take = |n: usize| {
        let (head, tail) = rest.split_at_checked(n)?;
        rest = tail;
        Some(head)
    };
    let number = |bytes: &[u8]| u32::from_le_bytes(bytes.try_into().unwrap());
    let header: Vec<u32> = take(24).unwrap().chunks_exact(4).map(number).collect();
    assert_eq!((header[0], header[5]), (0x67676d66, 0), "an rwkv.cpp file in f32");
    let mut tensors = Vec::new();
    while let Some(entry) = take(12) {
        let entry: Vec<usize> = entry.chunks_exact(4).map(|b| number(b) as usize).collect();
        // The innermost size comes first.
        let shape: Vec<usize> = take(4 * entry[0]).unwrap().chunks_exact(4).rev().map(|b| number(b) as usize).collect();
        let name = String::from_utf8(take(entry[1]).unwrap().to_vec()).unwrap();
        let numbers = take(4 * shape.iter().product::<usize>()).unwrap();
        tensors.push((name, shape, numbers.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()));
    }
    File { vocab_size: header[2], hidden_size: header[3], blocks: header[4], tensors }
}

/// As transformers names it.
fn renamed((name, shape, numbers): Tensor) -> Tensor {
    let parts = [
        ("emb.weight", "rwkv.embeddings.weight"),
        ("blocks.", "rwkv.blocks."),
        (".ln0.", ".pre_ln."),
        (".att.", ".attention."),
        (".ffn.", ".feed_forward."),
        ("time_mix_k", "time_mix_key"),
        ("time_mix_v", "time_mix_value"),
        ("time_mix_r", "time_mix_receptance"),
        ("ln_out.", "rwkv.ln_out."),
    ];
    let renamed = parts.iter().fold(name, |name, (from, to)| name.replace(from, to));
    // The file holds -exp of what transformers keeps.
    let numbers = if renamed.ends_with("time_decay") { numbers.into_iter().map(|x| (-x).ln()).collect() } else { numbers };
    (renamed, shape, numbers)
}

fn as_hugging_face(file: File, dir: &Path) {
    let (_, up, _) = file.tensors.iter().find(|(name, ..)| name == "blocks.0.ffn.key.weight").unwrap();
    let config = json!({
        "model_type": "rwkv", "vocab_size": file.vocab_size, "hidden_size": file.hidden_size, "intermediate_size": up[0],
        "num_hidden_layers": file.blocks, "context_length": 512, "bos_token_id": null, "eos_token_id": null,
    });
    std::fs::write(dir.join("config.json"), config.to_string()).unwrap();
    let tensors: Vec<Tensor> = file.tensors.into_iter().map(renamed).collect();
    let views = tensors.iter().map(|(name, shape, numbers)| {
        (name, TensorView::new(safetensors::Dtype::F32, shape.clone(), bytemuck::cast_slice(numbers)).unwrap())
    });
    std::fs::write(dir.join("model.safetensors"), safetensors::serialize(views, None).unwrap()).unwrap();
}

/// The model and the logits after the bytes `"in`.
fn tiny(dir: &Path, data: PathBuf) -> (runtime::Model, Vec<f32>) {
    let source = data.join("models/tiny-rwkv4-660K");
    as_hugging_face(read(&source.join("tiny-rwkv-660K-FP32.bin")), dir);
    let expected = std::fs::read(source.join("expected_logits.bin")).unwrap();
    let expected = expected.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
    (runtime::open(dir, None).unwrap(), expected)
}

const PROMPT: &[u8] = b"\"in";

fn check(what: &str, source: &mut dyn LogitSource, expected: &[f32]) {
    source.run_window(&PROMPT.iter().map(|&b| b.into()).collect::<Vec<u32>>()).unwrap();
    close(what, &source.logits(PROMPT.len() - 1..PROMPT.len()).unwrap(), expected);
}

fn close(what: &str, logits: &[f32], expected: &[f32]) {
    assert_eq!(logits.len(), expected.len());
    let difference = logits.iter().zip(expected).fold(0.0f32, |m, (a, b)| m.max((a - b).abs()));
    println!("{what}: greatest difference {difference:.1e}");
    assert!(difference <= TOLERANCE, "{what}: {difference}");
}

#[test]
fn tiny_rwkv_gives_its_published_logits() {
    let Some(data) = data::shared("tiny_rwkv_gives_its_published_logits") else { return };
    let dir = tempfile::tempdir().unwrap();
    let (model, expected) = tiny(dir.path(), data);
    let decoder = || Decoder::new(&*model.store, Activations::F32, 1).unwrap();
    check("device", &mut NativeLogits::new(decoder()), &expected);
    #[cfg(feature = "torch")]
    check("libtorch", &mut thimble::compress::TorchLogits::new(model.store.clone(), thimble::compress::Compute::CPU), &expected);

    // Byte by byte, through the recurrent state alone.
    let (decoder, mut cache) = (decoder(), KvCache::new(model.spec()));
    let steps = PROMPT.iter().map(|&byte| decoder.forward(&mut [Step { cache: &mut cache, ids: &[byte.into()] }]).unwrap());
    let hidden = steps.last().unwrap();
    close("device, byte by byte", &decoder.logits(&hidden), &expected);
}
