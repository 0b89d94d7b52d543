//! Decode and prefill of both packings beside 4 bits and f16, on a random Llama of 1.1
//! billion parameters.

use crate::Choice;
use crate::benchmark::Found;
use crate::random_llama::{self, Shape};
use ndarray::ArrayView2;
use serde_json::json;
use std::fmt::Write as _;
use std::path::Path;
use thimble::eval::{Footprint, speed};
use thimble::export::kept;
use thimble::model::ParameterKind;
use thimble::quant::native::{self, Notes};
use thimble::quant::rounding::round_to_nearest;
use thimble::quant::{Code, Layout, Scheme, Weight};
use thimble::runtime::{self, Activations, Decoder, Model};

const SHAPE: Shape = Shape { hidden: 2048, ffn: 5632, heads: 32, kv_heads: 4, vocab: 32_000, layers: 22 };

/// What is timed: linear layers, and the head, which is the embeddings.
struct Row {
    name: &'static str,
    linear: Option<Scheme>,
    head: Option<Scheme>,
}

const EIGHT: Scheme = Scheme::integers(Code::Int8, 64, false);
const FOUR: Scheme = Scheme::integers(Code::Int4, 128, false);
// A scale a row.
const TWO_BITS: Scheme = Scheme::integers(Code::Ternary, 0, true);
const FIVE_A_BYTE: Scheme = Scheme::integers(Code::Base3, 0, true);

const ROWS: [Row; 5] = [
    Row { name: "f16", linear: None, head: None },
    Row { name: "4 bits, groups of 128", linear: Some(FOUR), head: Some(EIGHT) },
    Row { name: "ternary, two bits, head in 8 bits", linear: Some(TWO_BITS), head: Some(EIGHT) },
    Row { name: "ternary, two bits, head in 4 bits", linear: Some(TWO_BITS), head: Some(FOUR) },
    Row { name: "ternary, five to a byte, head in 4 bits", linear: Some(FIVE_A_BYTE), head: Some(FOUR) },
];

pub fn compare(choice: &Choice) -> Found {
    let dir = tempfile::tempdir().unwrap();
    random_llama::write(dir.path(), &SHAPE);
    let original = runtime::open(dir.path(), None).unwrap();
    let mut page = format!(
        "## Speed\n\nA random Llama of {:.2} billion parameters, {} wide, {} blocks; a prompt of 128 tokens, 64 made behind it, medians of 3; \
         activations in int8, in f32 against f16 weights. Instruction set {}, {} threads.\n\n\
         | weights | bits of a linear weight | bytes a token | decode, tokens/s | prefill, tokens/s |\n|---|---|---|---|---|\n",
        original.spec().parameter_count() as f64 / 1e9,
        SHAPE.hidden,
        SHAPE.layers,
        thimble::kernels::select().unwrap().isa,
        std::thread::available_parallelism().unwrap(),
    );
    let mut figures = Vec::new();
    for row in ROWS.iter().filter(|row| choice.has(row.name)) {
        let model = packed(row, &original, dir.path());
        let decoder = Decoder::new(&*model.store, Activations::Int8, 0).unwrap();
        let speed = speed::measure(&decoder, 128, 64, 3).unwrap();
        let (bits, bytes) = (Footprint::of(&*model.store).unwrap().bits_per_weight_linear, model.bytes_per_token().unwrap());
        let rates = [speed.decode_tokens_per_s, speed.prefill_tokens_per_s];
        writeln!(page, "| {} | {bits:.3} | {:.0} MB | {:.2} | {:.1} |", row.name, bytes as f64 / 1e6, rates[0], rates[1]).unwrap();
        eprintln!("{}", page.lines().last().expect("just written"));
        figures.push(json!({ "name": row.name, "bits": bits, "bytes_per_token": bytes, "decode": rates[0], "prefill": rates[1] }));
    }
    Found::without_targets(page, json!(figures))
}

/// Written and opened again, so that it is mapped as it is on a device.
fn packed(row: &Row, original: &Model, dir: &Path) -> Model {
    let spec = original.spec();
    let weights = spec.parameters().into_iter().map(|p| {
        let weight = original.store.weight(&p.name).unwrap();
        let scheme = match p.kind {
            ParameterKind::Linear => row.linear,
            ParameterKind::Embedding | ParameterKind::Head => row.head,
            ParameterKind::Kept | ParameterKind::Vector => None,
        };
        let weight = match scheme {
            None => kept(weight, p.kind),
            Some(scheme) => {
                let values = weight.to_f32();
                let matrix = ArrayView2::from_shape((p.shape[0], p.shape[1]), &values).unwrap();
                Weight::pack(&p.name, &round_to_nearest(matrix, scheme), Layout::Tiles)
            }
        };
        (p.name, weight)
    });
    let weights: Vec<(String, Weight)> = weights.collect();
    let file = dir.join("model.thimble");
    native::write(&file, spec, &weights, None, &Notes::default()).unwrap();
    runtime::open(&file, None).unwrap()
}
