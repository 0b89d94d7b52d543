//! Both decoders against logits that `transformers` computed (see
//! `python-compat/write_fixtures.py`): 1e-4 at most, in f32.

#[path = "common/data.rs"]
mod data;

use std::path::Path;
use thimble::model::LogitSource;
use thimble::runtime::{self, Activations, Decoder, KvCache, NativeLogits, Sampler, Step, argmax, generate::generate};

const TOLERANCE: f32 = 1e-4;

struct Expected {
    ids: Vec<u32>,
    logits: Vec<f32>,
    greedy: Vec<u32>,
}

fn expected(dir: &Path) -> Expected {
    let bytes = std::fs::read(dir.join("expected.safetensors")).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let numbers =
        |name: &str| -> Vec<[u8; 4]> { file.tensor(name).unwrap().data().chunks_exact(4).map(|b| b.try_into().unwrap()).collect() };
    let ids = |name: &str| numbers(name).into_iter().map(u32::from_le_bytes).collect();
    Expected { ids: ids("ids"), logits: numbers("logits").into_iter().map(f32::from_le_bytes).collect(), greedy: ids("greedy") }
}

fn greatest_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).fold(0.0f32, |m, (a, b)| m.max((a - b).abs()))
}

/// Runs a check on every fixture, and says which failed.
fn on_all_fixtures(check: impl Fn(&str, &Path) -> Result<(), String>) {
    let fixtures = data::fixtures();
    assert!(fixtures.len() >= 60, "fixtures are missing");
    let failed: Vec<_> = fixtures.iter().filter_map(|(name, dir)| check(name, dir).err().map(|e| format!("{name}: {e}"))).collect();
    assert!(failed.is_empty(), "{} of {} failed:\n{}", failed.len(), fixtures.len(), failed.join("\n"));
}

/// Every fixture through a source of logits.
fn check_logits(what: &str, open: impl Fn(&runtime::Model) -> Box<dyn LogitSource>) {
    on_all_fixtures(|name, dir| {
        let expected = expected(dir);
        let model = runtime::open(dir, None).map_err(|e| e.to_string())?;
        let mut source = open(&model);
        source.run_window(&expected.ids).unwrap();
        let logits = source.logits(0..expected.ids.len()).unwrap();
        let difference = greatest_difference(&logits, &expected.logits);
        println!("{what}: {name}: greatest difference {difference:.1e}");
        // Some of the positions give the same part of the logits.
        let (some, vocab) = (source.logits(3..5).unwrap(), model.spec().vocab_size);
        let part = greatest_difference(&some, &logits[3 * vocab..5 * vocab]);
        if difference <= TOLERANCE && part <= TOLERANCE { Ok(()) } else { Err(format!("{what}: {difference}, positions 3 to 5 {part}")) }
    });
}

#[test]
fn device_decoder_gives_the_logits_of_transformers() {
    check_logits("device", |model| Box::new(NativeLogits::new(Decoder::new(&*model.store, Activations::F32, 2).unwrap())));
}

#[cfg(feature = "torch")]
#[test]
fn torch_decoder_gives_the_logits_of_transformers() {
    use thimble::compress::{Compute, TorchLogits};
    check_logits("libtorch", |model| Box::new(TorchLogits::new(model.store.clone(), Compute::CPU)));
}

/// bf16 forwards agree as far as bf16 goes: they are for speed, not for parity.
#[cfg(feature = "torch")]
#[test]
fn torch_decoder_runs_in_bf16() {
    use thimble::compress::{Compute, TorchLogits};
    for (name, dir) in data::fixtures() {
        let expected = expected(&dir);
        let model = runtime::open(&dir, None).unwrap();
        let mut source = TorchLogits::new(model.store.clone(), Compute { kind: tch::Kind::BFloat16, ..Compute::CPU });
        source.run_window(&expected.ids).unwrap();
        let logits = source.logits(0..expected.ids.len()).unwrap();
        let square = |x: f64| x * x;
        let error: f64 = logits.iter().zip(&expected.logits).map(|(a, b)| square(f64::from(a - b))).sum();
        let whole: f64 = expected.logits.iter().map(|b| square(f64::from(*b))).sum();
        let relative = (error / whole).sqrt();
        println!("bf16: {name}: relative error {relative:.4}");
        assert!(relative < 0.05, "{name}: {relative}");
    }
}

/// With the cache, token by token, and without it, from the start each time.
#[test]
fn greedy_continuations_are_those_of_transformers() {
    on_all_fixtures(|_, dir| {
        let expected = expected(dir);
        let model = runtime::open(dir, None).map_err(|e| e.to_string())?;
        let decoder = Decoder::new(&*model.store, Activations::F32, 1).unwrap();
        let greedy = Sampler::new(0.0, 1.0, 0);
        let cached = generate(&decoder, &expected.ids, expected.greedy.len(), &greedy, |_| ()).unwrap();
        // A fixture may go on past its end-of-text token; we stop there.
        let end = expected.greedy.iter().position(|id| model.spec().special.eos.contains(id)).unwrap_or(expected.greedy.len());
        if cached != expected.greedy[..end] {
            return Err(format!("with the cache {cached:?}, expected {:?}", expected.greedy));
        }
        let mut ids = expected.ids.clone();
        for &id in &expected.greedy {
            let mut cache = KvCache::new(model.spec());
            let hidden = decoder.forward(&mut [Step { cache: &mut cache, ids: &ids }]).unwrap();
            let logits = decoder.logits(&hidden[hidden.len() - model.spec().hidden_size..]);
            if argmax(&logits) != id {
                return Err(format!("without the cache, behind {} tokens: {} and not {id}", ids.len(), argmax(&logits)));
            }
            ids.push(id);
        }
        Ok(())
    });
}

/// Sequences that share a decoder do not see each other, be it through keys and
/// values, positions or recurrent states.
#[test]
fn sequences_in_one_batch_are_independent() {
    for name in ["mistral-window", "gpt2-by-layer", "phi3-long", "rwkv-wide-attention"] {
        let dir = data::fixture(name);
        let expected = expected(&dir);
        let model = runtime::open(&dir, None).unwrap();
        let decoder = Decoder::new(&*model.store, Activations::F32, 2).unwrap();
        let (mut a, mut b) = (KvCache::new(model.spec()), KvCache::new(model.spec()));
        // One that has been used and cleared is as good as new.
        decoder.read(&mut a, &[5, 4, 3]).unwrap();
        a.clear();
        let reversed: Vec<u32> = expected.ids.iter().rev().copied().collect();
        let mut hidden = Vec::new();
        for (ours, others) in expected.ids.chunks(5).zip(reversed.chunks(5)) {
            let both = decoder.forward(&mut [Step { cache: &mut b, ids: others }, Step { cache: &mut a, ids: ours }]).unwrap();
            hidden.extend_from_slice(&both[others.len() * model.spec().hidden_size..]);
        }
        // What was read before a long sequence turned long was read at other angles.
        let last = expected.ids.len() - 1;
        let vocab = model.spec().vocab_size;
        let from = if name == "phi3-long" { last } else { 0 };
        let logits = decoder.logits(&hidden[from * model.spec().hidden_size..]);
        let difference = greatest_difference(&logits, &expected.logits[from * vocab..]);
        assert!(difference <= TOLERANCE, "{name}: {difference}");
    }
}
