//! Loss by data type, bits and block size over models of several sizes, the study of
//! Dettmers and Zettlemoyer, "The case for 4-bit precision: k-bit Inference Scaling
//! Laws" (2022), on what is at hand: `make bench-data-types` prints the tables and
//! writes `benches/data_types.md`.
//!
//! Round to nearest of the linear layers alone, all else as it is, activations in
//! f32. Losses of models with different tokenizers are compared a byte.

use ndarray::ArrayView2;
use rayon::prelude::*;
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Instant;
use thimble::compress::{Compute, TorchLogits};
use thimble::eval::{Footprint, Protocol, evaluate, windows};
use thimble::model::{Parameter, ParameterKind, Window};
use thimble::progress::Silent;
use thimble::quant::rounding::round_to_nearest;
use thimble::quant::{Assembled, Code, DataType, Layout, PackedTensor, Scheme, Weight, WeightStore};
use thimble::runtime::{self, Model};

const MODELS: [&str; 3] = ["stories260K/hf", "babyllama-tok105/hf", "house-6m"];
const WINDOWS: usize = 64;
const NAMES: [&str; 5] = ["int", "fp", "dynamic", "normal", "quantile"];
/// Bits, block size, centred.
const SETTINGS: [(usize, usize, bool); 8] =
    [(3, 64, false), (3, 256, false), (4, 64, false), (4, 64, true), (4, 256, false), (5, 64, false), (6, 64, false), (8, 64, false)];

/// A name of [`NAMES`] at a width; centred integers are those with zero points.
fn scheme(name: &str, bits: usize, group_size: usize, centred: bool) -> Scheme {
    let data_type = if name == "fp" { DataType::float(bits) } else { name.parse().expect("a name") };
    let code = if data_type.is_int() { Code::from_bits(bits) } else { Code::of_codebook(bits) };
    Scheme { code: code.expect("bits"), group_size, symmetric: !centred, data_type }
}

struct Subject {
    name: &'static str,
    model: Model,
    windows: Vec<Window>,
    window: usize,
    /// Of the whole text.
    tokens_per_byte: f64,
}

impl Subject {
    fn open(data: &Path, name: &'static str) -> Self {
        let model = runtime::open(&data.join("models").join(name), None).unwrap_or_else(|e| panic!("{e}; THIMBLE_DATA names the data"));
        let text = std::fs::read_to_string(data.join("text/tinystories/valid.txt")).unwrap();
        let ids = model.tokenizer().unwrap().encode(&text).unwrap();
        let window = model.spec().context.min(512);
        let windows = windows(&ids, model.spec(), Protocol::Bos, window, Some(WINDOWS)).unwrap();
        Self { name: name.trim_end_matches("/hf"), windows, window, tokens_per_byte: ids.len() as f64 / text.len() as f64, model }
    }

    /// With its linear layers rounded.
    fn rounded(&self, scheme: Scheme) -> Assembled {
        let spec = self.model.spec();
        let round = |p: Parameter| {
            let weight = self.model.store.weight(&p.name).unwrap();
            if p.kind != ParameterKind::Linear {
                return (p.name, weight);
            }
            let values = weight.to_f32();
            let matrix = ArrayView2::from_shape((p.shape[0], p.shape[1]), &values).unwrap();
            (p.name, Weight::Packed(PackedTensor::pack(&round_to_nearest(matrix, scheme), Layout::Tiles)))
        };
        Assembled::new(spec.clone(), spec.parameters().into_par_iter().map(round).collect::<Vec<_>>())
    }

    /// Mean loss in nats a token.
    fn loss(&self, store: std::sync::Arc<dyn WeightStore>) -> f64 {
        let mut logits = TorchLogits::new(store, Compute::CPU);
        evaluate(&mut logits, None, &self.windows, (Protocol::Bos, self.window), &Silent).unwrap().model.loss
    }

    /// Numbers in linear layers, and in all.
    fn sizes(&self) -> (f64, f64) {
        let parameters = self.model.spec().parameters();
        let count = |p: &Parameter| p.shape.iter().product::<usize>() as f64;
        let linear = parameters.iter().filter(|p| p.kind == ParameterKind::Linear).map(count).sum();
        (linear, parameters.iter().map(count).sum())
    }
}

/// One measurement.
struct Point {
    name: &'static str,
    setting: (usize, usize, bool),
    bits_per_weight: f64,
    loss: f64,
}

fn measure(subject: &Subject) -> Vec<Point> {
    let mut points = Vec::new();
    for setting in SETTINGS {
        for name in NAMES {
            let (bits, group, centred) = setting;
            let store = std::sync::Arc::new(subject.rounded(scheme(name, bits, group, centred)));
            let bits_per_weight = Footprint::of(&*store).unwrap().bits_per_weight_linear;
            points.push(Point { name, setting, bits_per_weight, loss: subject.loss(store) });
        }
    }
    points
}

/// Increase of perplexity by setting and data type.
fn table(subject: &Subject, before: f64, points: &[Point]) -> String {
    let mut page = format!("## {}\n\nf32: loss {before:.4} nats, perplexity {:.4}.\n\n", subject.name, before.exp());
    writeln!(page, "| bits | block | bits a weight | {} |\n|---|---|---|{}", NAMES.join(" | "), "---|".repeat(NAMES.len())).unwrap();
    for row in points.chunks(NAMES.len()) {
        let (bits, group, centred) = row[0].setting;
        let least = row.iter().map(|p| p.loss).fold(f64::INFINITY, f64::min);
        let cell = |p: &Point| {
            let text = format!("{:+.2} %", 100.0 * ((p.loss - before).exp() - 1.0));
            if p.loss == least { format!("**{text}**") } else { text }
        };
        let block = if centred { format!("{group}, centred") } else { group.to_string() };
        let cells: Vec<_> = row.iter().map(cell).collect();
        // That of a shared codebook: a weight's own adds to small models what it would not to large ones.
        writeln!(page, "| {bits} | {block} | {:.2} | {} |", row[1].bits_per_weight, cells.join(" | ")).unwrap();
    }
    page
}

fn main() {
    let start = Instant::now();
    let data = std::env::var_os("THIMBLE_DATA").map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data"), PathBuf::from);
    let (mut tables, mut scaling, mut figures) = (String::new(), String::new(), Vec::<Value>::new());
    for name in MODELS {
        let subject = Subject::open(&data, name);
        let before = subject.loss(subject.model.store.clone());
        let points = measure(&subject);
        let text = table(&subject, before, &points);
        eprintln!("{text}");
        writeln!(tables, "{text}").unwrap();
        let (linear, all) = subject.sizes();
        let by_byte = |loss: f64| loss / std::f64::consts::LN_2 * subject.tokens_per_byte;
        let mut row = |bits: String, total: f64, losses: Vec<f64>| {
            let losses: Vec<_> = losses.iter().map(|loss| format!("{:.4}", by_byte(*loss))).collect();
            writeln!(scaling, "| {} | {bits} | {:.2} | {} |", subject.name, total / 1e6, losses.join(" | ")).unwrap();
        };
        row("16".into(), 16.0 * all, vec![before; NAMES.len()]);
        for of_setting in points.chunks(NAMES.len()).rev().filter(|p| p[0].setting.1 == 64 && !p[0].setting.2) {
            let total = 16.0 * (all - linear) + of_setting[1].bits_per_weight * linear;
            row(of_setting[0].setting.0.to_string(), total, of_setting.iter().map(|p| p.loss).collect());
        }
        figures.push(json!({
            "model": subject.name, "loss": before, "weights": all, "linear_weights": linear, "tokens_per_byte": subject.tokens_per_byte,
            "points": points.iter().map(|p| {
                let (bits, group, centred) = p.setting;
                json!({ "data_type": p.name, "bits": bits, "group": group, "centred": centred, "bits_per_weight": p.bits_per_weight, "loss": p.loss })
            }).collect::<Vec<_>>(),
        }));
    }
    let page = format!(
        "# Data types\n\n`make bench-data-types`\n\n\
         Increase of perplexity on tinystories/valid.txt (first {WINDOWS} windows, protocol `bos`) with the linear layers rounded to \
         nearest, all else as it is, activations in f32. `int` has its zero point in the middle, and one of its own where it says \
         centred; `fp` is split as {}; `normal` at 4 bits is NF4. A block that is wider than a row is the row. The best of each row is bold.\n\n{tables}\
         ## Scaling\n\nLoss in bits a byte of text against all bits of the model, in millions: linear layers in blocks of 64, \
         everything else in 16 bits.\n\n| model | bits | Mbit | {} |\n|---|---|---|{}\n{scaling}",
        [3, 4, 5, 6, 8].map(|bits| DataType::float(bits).to_string()).join(", "),
        NAMES.join(" | "),
        "---|".repeat(NAMES.len()),
    );
    print!("{page}");
    std::fs::write(Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/data_types.md"), page).unwrap();
    println!("{}", json!({ "models": figures, "seconds": start.elapsed().as_secs_f64() }));
}
