//! One tokenizer, embeddings padded to different numbers of rows, as Qwen2.5's: divergence,
//! agreement and losses on logits are those over the rows that both models have.

#[path = "common/data.rs"]
mod data;

use safetensors::{Dtype, SafeTensors};
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use tempfile::TempDir;
use thimble::checkpoint::{Entry, write_tensors};

/// Tokens of the tokenizer: ids from here on have rows and no token.
const WORDS: usize = 90;
/// Rows of the fixture, and of the same padded.
const ROWS: usize = 96;
const PADDED: usize = 128;

/// Models of one tokenizer, and a text.
struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        for (name, rows, moved) in [("a", ROWS, 0.0), ("a-padded", PADDED, 0.0), ("b", ROWS, 0.3), ("b-padded", PADDED, 0.3)] {
            folder.model(name, rows, moved);
        }
        let words: Vec<String> = (0..3000).map(|i: usize| format!("w{}", 3 + (i * i + 7 * i) % 87)).collect();
        std::fs::write(folder.path("text.txt"), words.join(" ")).unwrap();
        folder
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// The fixture with embeddings that are moved a little, and with rows of padding that are
    /// far from zero: left in, they would change every probability.
    fn model(&self, name: &str, rows: usize, moved: f32) {
        let (from, to) = (data::fixture("llama-gqa-tied"), self.path(name));
        std::fs::create_dir(&to).unwrap();
        let mut config: Value = serde_json::from_slice(&std::fs::read(from.join("config.json")).unwrap()).unwrap();
        config["vocab_size"] = rows.into();
        std::fs::write(to.join("config.json"), config.to_string()).unwrap();
        std::fs::write(to.join("tokenizer.json"), tokenizer(WORDS).to_string()).unwrap();
        let file = std::fs::read(from.join("model.safetensors")).unwrap();
        let file = SafeTensors::deserialize(&file).unwrap();
        let mut tensors = Vec::new();
        for (name, tensor) in file.tensors() {
            assert_eq!(tensor.dtype(), Dtype::F32);
            let mut values: Vec<f32> = tensor.data().as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
            let mut shape = tensor.shape().to_vec();
            if name.contains("embed_tokens") {
                values.iter_mut().enumerate().for_each(|(i, x)| *x += moved * (1.7 * i as f32).sin());
                let width = shape[1];
                values.extend((ROWS * width..rows * width).map(|i| 2.0 * (0.9 * i as f32).cos()));
                shape[0] = rows;
            }
            tensors.push((name, shape, values));
        }
        let entries: Vec<Entry<&[u8]>> = tensors
            .iter()
            .map(|(name, shape, values)| Entry {
                name: name.clone(),
                dtype: Dtype::F32,
                shape: shape.clone(),
                bytes: bytemuck::cast_slice(values),
            })
            .collect();
        write_tensors(&to.join("model.safetensors"), entries, Map::new()).unwrap();
    }
}

/// A word a token, cut at blanks.
fn tokenizer(words: usize) -> Value {
    let vocabulary: Map<String, Value> = (0..words).map(|id| (format!("w{id}"), id.into())).collect();
    json!({
        "version": "1.0",
        "added_tokens": [],
        "pre_tokenizer": { "type": "WhitespaceSplit" },
        "model": { "type": "WordLevel", "vocab": vocabulary, "unk_token": "w0" },
    })
}

fn thimble(args: &[&str], paths: &[&Path]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_thimble")).args(args).args(paths).output().unwrap()
}

const WINDOW: usize = 16;
const WINDOWS: usize = 3;

/// Evaluates a model against a reference; what was warned of.
fn eval(folder: &Folder, model: &str, reference: &str) -> (Value, String) {
    let options = ["--window", "16", "--max-windows", "3", "--activations", "f32", "--json"];
    let (model, reference, text) = (folder.path(model), folder.path(reference), folder.path("text.txt"));
    let done = thimble(&[&["eval"], &options[..]].concat(), &[&model, Path::new("--reference"), &reference, Path::new("--text"), &text]);
    let warned = String::from_utf8_lossy(&done.stderr).into_owned();
    assert!(done.status.success(), "{warned}");
    (serde_json::from_slice(&done.stdout).unwrap(), warned)
}

/// Logits `[windows][positions][rows]` of the text's first windows, and the ids behind each.
fn logits(folder: &Folder, model: &str) -> (Vec<Vec<f64>>, Vec<usize>) {
    use thimble::model::LogitSource;
    use thimble::runtime::{Activations, Decoder, NativeLogits};
    let model = thimble::runtime::open(&folder.path(model), None).unwrap();
    let text = std::fs::read_to_string(folder.path("text.txt")).unwrap();
    let ids: Vec<u32> = text.split(' ').map(|word| word[1..].parse().unwrap()).take(WINDOW * WINDOWS).collect();
    let mut source = NativeLogits::new(Decoder::new(&*model.store, Activations::F32, 1).unwrap());
    let (mut rows, mut next) = (Vec::new(), Vec::new());
    for window in ids.chunks(WINDOW) {
        source.run_window(window).unwrap();
        let logits = source.logits(0..WINDOW - 1).unwrap();
        rows.extend(logits.chunks(model.spec().vocab_size).map(|row| row.iter().map(|&x| f64::from(x)).collect()));
        next.extend(window[1..].iter().map(|&id| id as usize));
    }
    (rows, next)
}

/// Logarithms of a softmax, in double precision.
fn log_softmax(row: &[f64]) -> Vec<f64> {
    let greatest = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let log_sum = row.iter().map(|x| (x - greatest).exp()).sum::<f64>().ln() + greatest;
    row.iter().map(|x| x - log_sum).collect()
}

fn first_greatest(row: &[f64]) -> usize {
    (0..row.len()).rev().max_by(|a, b| row[*a].total_cmp(&row[*b])).unwrap()
}

/// KL, its greatest value, agreement and perplexity by their formulas over the first rows.
fn by_formula(folder: &Folder, model: &str, reference: &str, common: usize) -> [f64; 4] {
    let ((ours, next), (theirs, _)) = (logits(folder, model), logits(folder, reference));
    let n = ours.len() as f64;
    let kl: Vec<f64> = ours
        .iter()
        .zip(&theirs)
        .map(|(q, p)| {
            let (q, p) = (log_softmax(&q[..common]), log_softmax(&p[..common]));
            p.iter().zip(&q).map(|(p, q)| p.exp() * (p - q)).sum()
        })
        .collect();
    let agree = ours.iter().zip(&theirs).filter(|(q, p)| first_greatest(&q[..common]) == first_greatest(&p[..common])).count();
    // That of one model is over all its rows.
    let loss = ours.iter().zip(&next).map(|(row, &id)| -log_softmax(row)[id]).sum::<f64>() / n;
    [kl.iter().sum::<f64>() / n, kl.iter().copied().fold(0.0, f64::max), agree as f64 / n, loss.exp()]
}

fn figures(report: &Value) -> [f64; 4] {
    ["kl_mean", "kl_max", "top1_agreement", "perplexity"].map(|key| report[key].as_f64().unwrap())
}

fn assert_near(found: [f64; 4], expected: [f64; 4], what: &str) {
    for (a, b) in found.iter().zip(expected) {
        assert!((a - b).abs() < 2e-5 * (1.0 + b.abs()), "{what}: {found:?}, by formula {expected:?}");
    }
}

#[test]
fn figures_are_those_over_common_rows() {
    let folder = Folder::new();
    for (model, reference) in [("a", "b-padded"), ("a-padded", "b"), ("a", "b"), ("a-padded", "b-padded")] {
        let (report, warned) = eval(&folder, model, reference);
        let padded = [model, reference].map(|name| name.ends_with("padded"));
        let common = if padded == [true, true] { PADDED } else { ROWS };
        assert_near(figures(&report), by_formula(&folder, model, reference, common), &format!("{model}, {reference}"));
        let differ = padded[0] != padded[1];
        assert_eq!(report.get("vocabulary_compared").and_then(Value::as_u64), differ.then_some(ROWS as u64));
        assert_eq!(warned.contains("the 32 rows that only one has, which no token has, are left out"), differ, "{warned}");
    }
    // The padding of the reference changes nothing.
    let [padded, plain] = ["b-padded", "b"].map(|reference| figures(&eval(&folder, "a", reference).0));
    assert!(padded.iter().zip(plain).all(|(a, b)| (a - b).abs() < 1e-9), "{padded:?}, {plain:?}");
    // Left in, it would: the test can fail.
    let [with, without] = [("a-padded", "b-padded"), ("a", "b")].map(|(model, reference)| figures(&eval(&folder, model, reference).0));
    assert!((with[0] - without[0]).abs() > 1e-2, "{with:?}, {without:?}");
}

/// Without tokenizers that are one, rows of another number may be other tokens.
#[test]
fn other_vocabularies_are_refused() {
    let folder = Folder::new();
    let refused = |says: &str| {
        let (model, reference, text) = (folder.path("a"), folder.path("b-padded"), folder.path("text.txt"));
        let done = thimble(&["eval", "--window", "16"], &[&model, Path::new("--reference"), &reference, Path::new("--text"), &text]);
        let error = String::from_utf8_lossy(&done.stderr).into_owned();
        assert!(done.status.code() == Some(3) && error.contains(says), "{error}");
    };
    let its = folder.path("b-padded").join("tokenizer.json");
    let others =
        json!({ "version": "1.0", "model": { "type": "WordLevel", "vocab": { "Once": 0, "upon": 1, "<unk>": 2 }, "unk_token": "<unk>" } });
    std::fs::write(&its, others.to_string()).unwrap();
    refused("tokenizer");
    std::fs::remove_file(&its).unwrap();
    refused("put its tokenizer beside it");
}

#[cfg(feature = "torch")]
#[path = "common/compress.rs"]
mod common;

/// Distils `a` from a teacher; losses of all steps, and perplexity behind them.
#[cfg(feature = "torch")]
fn distil(folder: &Folder, student: &str, teacher: &str, keys: &str) -> (Vec<f64>, f64) {
    let name = format!("{student}-{teacher}-{}", blake3_of(keys));
    let cache = if keys.contains("cache") { format!("cache = {{ top_k = 12, file = '{name}.cache' }}\n") } else { String::new() };
    let keys = keys.replace("cache\n", &cache);
    let recipe = format!(
        "[[stage]]\n[stage.distil]\nteacher = '../{teacher}'\n{keys}\n[stage.distil.training]\ntext = ['../text.txt']\nlength = 16\n\
         batch = 4\nheld_out = 4\ntokens = 1024\nlearning_rate = 0.003\n[evaluate]\ntext = '../text.txt'\nwindow = 32\nmax_windows = 4\nactivations = 'f32'\n"
    );
    let out = folder.path(&name);
    std::fs::create_dir(&out).unwrap();
    let report = common::run(&recipe, &folder.path(student), &out).unwrap_or_else(|e| panic!("{name}: {e}"));
    let remarked = report.stages[0].remarks.iter().any(|remark| remark.contains("rows that only one has"));
    assert_eq!(remarked, student.ends_with("padded") != teacher.ends_with("padded"), "{:?}", report.stages[0].remarks);
    let losses = report.stages[0].training[0].lines.iter().map(|line| line.loss).collect();
    (losses, report.after.perplexity)
}

#[cfg(feature = "torch")]
fn blake3_of(text: &str) -> String {
    text.chars().filter(char::is_ascii_alphanumeric).collect()
}

/// Whatever is learnt, from logits, from a cache, on the corpus or on texts of the student's
/// own: the teacher's padding changes no loss and no weight.
#[cfg(feature = "torch")]
#[test]
fn padding_of_a_teacher_teaches_nothing() {
    let folder = Folder::new();
    for keys in [
        "divergence = 'forward_kl'",
        "divergence = 'reverse_kl'\nhard = 0.5\nhidden = { loss = 'mean_square', weight = 0.1 }",
        "divergence = 'forward_kl'\ntemperature = 2.0\ncache\n",
        "on_policy = { method = 'gkd', prompt = 4 }\ndivergence = { jensen_shannon = 0.5 }",
        "on_policy = { method = 'minillm', prompt = 4, teacher_mix = 0.5 }\ndivergence = 'reverse_kl'",
    ] {
        let (plain, padded) = (distil(&folder, "a", "b", keys), distil(&folder, "a", "b-padded", keys));
        assert_eq!(plain.0.len(), 16);
        for (a, b) in plain.0.iter().zip(&padded.0) {
            assert!((a - b).abs() < 1e-4 * a.abs(), "{keys}: losses {plain:?}, {padded:?}");
        }
        assert!((plain.1 - padded.1).abs() < 1e-4 * plain.1, "{keys}: perplexity {}, {}", plain.1, padded.1);
        // A student with more rows than its teacher.
        let (losses, _) = distil(&folder, "a-padded", "b", keys);
        assert!(losses.iter().all(|loss| loss.is_finite()), "{keys}: {losses:?}");
        if !keys.contains("hard") {
            assert!((losses[0] - plain.0[0]).abs() < 1e-4 * plain.0[0].abs(), "{keys}: first losses {} and {}", losses[0], plain.0[0]);
        }
    }
}
