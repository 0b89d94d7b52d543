//! Bits of a weight against what they cost, for every method, ours and the
//! library's: `make bench-frontier` prints the tables, writes `benches/frontier.md`
//! and a chart beside it for each.

use crate::benchmark::Found;
use crate::found::found;
use crate::plot::COLOURS;
use crate::subject::{Quality, Subject, TEXTS};
use crate::{Choice, ours, peer};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::fmt::Write as _;
use thimble::model::ParameterKind;

/// Where a series comes from: our stage, or the library's settings, without bits,
/// group size and embeddings.
enum Side {
    Ours(&'static str),
    Theirs(&'static str),
}

struct Series {
    name: &'static str,
    side: Side,
    bits: &'static [usize],
    /// Of what the outputs of every linear layer must be a multiple.
    multiple: usize,
}

const ALL_BITS: &[usize] = &[2, 3, 4, 6, 8];

/// A new method = one row, and a colour.
const SERIES: [Series; COLOURS.len()] = [
    Series { name: "RTN", side: Side::Ours("rtn"), bits: ALL_BITS, multiple: 1 },
    // As the library does it, and then as we do.
    Series { name: "GPTQ", side: Side::Ours("gptq true_sequential=true grid='min_max'"), bits: ALL_BITS, multiple: 1 },
    Series { name: "GPTQ, grids searched", side: Side::Ours("gptq true_sequential=true"), bits: ALL_BITS, multiple: 1 },
    Series {
        name: "GPTQ, AWQ's scales",
        side: Side::Ours("gptq true_sequential=true grid='min_max' rescale='awq'"),
        bits: ALL_BITS,
        multiple: 1,
    },
    Series {
        name: "GPTQ, normal quantiles",
        side: Side::Ours("gptq true_sequential=true grid='min_max' data_type='normal'"),
        bits: &[3, 4, 6, 8],
        multiple: 1,
    },
    Series { name: "AWQ", side: Side::Ours("awq"), bits: ALL_BITS, multiple: 1 },
    Series { name: "LLM.int8(), in groups", side: Side::Ours("llm_int8"), bits: &[8], multiple: 1 },
    Series {
        name: "GPTQ of gptqmodel",
        side: Side::Theirs("gptq --set sym=false --set desc_act=true --set act_group_aware=false --set damp_percent=0.01"),
        bits: ALL_BITS,
        multiple: 1,
    },
    Series { name: "AWQ of gptqmodel", side: Side::Theirs("awq --set sym=false"), bits: ALL_BITS, multiple: 64 },
];

/// Models, and columns of a group: a divisor of every width, which the library's AWQ
/// insists on.
const MODELS: [(&str, usize); 2] = [("house-6m", 64), ("babyllama-tok105/hf", 32)];

/// Calibration sequences: few, since the library's AWQ takes minutes for these.
const SEQUENCES: usize = 16;

/// What is counted and compressed.
#[derive(Clone, Copy, PartialEq)]
enum Scope {
    /// All of the model, embeddings as each tool has them: 8 bits in ours, 16 in theirs.
    Whole,
    /// The linear layers, embeddings and head in 16 bits on every side.
    Linear,
}

/// What was found of a compressed model.
#[derive(Deserialize, Serialize)]
struct Compressed {
    /// Of each weight, by [`Scope`].
    bits: [f64; 2],
    quality: Quality,
}

#[derive(Clone, Serialize)]
pub struct Point {
    pub series: &'static str,
    /// Of each weight in the scope, all tensors counted.
    pub bits: f64,
    pub perplexity: Vec<f64>,
    pub kl: Vec<f64>,
    #[serde(skip)]
    nominal: usize,
}

pub fn run(choice: &Choice) -> Found {
    let (mut page, mut figures) = (String::new(), Vec::new());
    for (folder, group) in MODELS {
        let subject = Subject::open(folder);
        let model = folder.split('/').next().expect("a name");
        let ids = subject.calibration(SEQUENCES, 0);
        for (scope, name, what) in [(Scope::Whole, "whole", "whole models"), (Scope::Linear, "linear", "linear layers alone")] {
            let wanted = |series: &&Series| choice.has(&format!("{model} {name} {}", series.name));
            let points: Vec<Point> = SERIES.iter().filter(wanted).flat_map(|s| s.points(&subject, scope, group, &ids)).collect();
            if points.is_empty() {
                continue;
            }
            let chart = format!("frontier-{model}-{name}.svg");
            crate::plot::write(&choice.output(&chart), &format!("{model}, {what}"), &points);
            write!(page, "\n## {model}, {what}\n\n![]({chart})\n\n{}", table(&subject, group, &points)).unwrap();
            figures.push(json!({ "model": model, "scope": name, "points": points }));
        }
    }
    let page = format!(
        "Bits of a weight, everything counted, against perplexity and mean KL from the original, first 64 windows of 512 tokens \
         (of the context where it is shorter), activations in f32, one calibration seed, {SEQUENCES} sequences. Whole models: each tool as it comes, so that ours has \
         its embeddings in 8 bits and gptqmodel in 16. Linear layers alone: embeddings and head in 16 bits on every side, and bits those of the linear layers. \
         GPTQ's grids are those of all weights of a group where a name does not say that they are searched, which is our default. \
         gptqmodel's AWQ is not there where it refuses a model: it wants layers with multiples of 64 outputs.\n{page}"
    );
    Found::without_targets(page, json!(figures))
}

impl Series {
    fn points(&self, subject: &Subject, scope: Scope, group: usize, ids: &[Vec<u32>]) -> Vec<Point> {
        let point = |&nominal: &usize| {
            let Compressed { bits, quality } = match self.side {
                Side::Ours(stage) => {
                    let skip = if scope == Scope::Linear { " skip=['embeddings']" } else { "" };
                    let made = ours::make(subject, &format!("{stage} bits={nominal} group_size={group}{skip}"), SEQUENCES, 0);
                    let bits = [made.footprint.bits_per_weight, made.footprint.bits_per_weight_linear];
                    Compressed { bits, quality: subject.quality(&made.model) }
                }
                Side::Theirs(settings) => {
                    let settings = format!("{settings} --bits {nominal} --group-size {group}");
                    let name = format!("{}, {nominal} bits", self.name);
                    found("frontier", peer::key(subject, &settings, ids), subject, &name, || {
                        let made = peer::make(subject, &settings, ids).unwrap_or_else(|said| panic!("{name}: {said}"));
                        let bits = [made.notes.bits_per_weight, made.notes.bits_per_weight_linear];
                        Compressed { bits, quality: subject.quality(&made.model) }
                    })
                }
            };
            let point = Point { series: self.name, bits: bits[scope as usize], perplexity: quality.perplexity, kl: quality.kl, nominal };
            eprintln!("{} {nominal} bits: {:.3} bits, perplexity {:.4}, KL {:.5}", self.name, point.bits, point.perplexity[0], point.kl[0]);
            point
        };
        // A library may refuse a model.
        let mut linear = subject.original.spec().parameters().into_iter().filter(|p| p.kind == ParameterKind::Linear);
        let runs = linear.all(|p| p.shape[0].is_multiple_of(self.multiple));
        self.bits.iter().filter(|_| runs).map(point).collect()
    }
}

fn table(subject: &Subject, group: usize, points: &[Point]) -> String {
    let [home, away] = TEXTS.map(|(name, _)| name);
    let [at_home, abroad] = [subject.before[0], subject.before[1]];
    let mut table = format!(
        "Groups of {group}. f32: perplexity {at_home:.4} {home}, {abroad:.3} {away}.\n\n\
         | method | bits | of a weight | perplexity {home} | KL {home} | perplexity {away} | KL {away} |\n|---|---|---|---|---|---|---|\n"
    );
    for p in points {
        let row = format!("{:.4} | {:.5} | {:.3} | {:.5}", p.perplexity[0], p.kl[0], p.perplexity[1], p.kl[1]);
        writeln!(table, "| {} | {} | {:.3} | {row} |", p.series, p.nominal, p.bits).unwrap();
    }
    table
}
