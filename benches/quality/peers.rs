//! Our methods beside gptqmodel's, on the same weights, calibration ids and
//! settings: errors of the layers, then perplexity and divergence of the model.

use crate::benchmark::Found;
use crate::found::found;
use crate::layers::{Errors, Inputs};
use crate::stats::{geometric_mean, mean};
use crate::subject::{Quality, Subject, TEXTS};
use crate::{Choice, ours, peer};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use thimble::runtime::Model;

/// One method on both sides: our stage, and the library's settings, either without
/// bits and group size.
struct Pair {
    name: &'static str,
    ours: &'static str,
    theirs: &'static str,
    /// Calibration sequences: fewer where the library takes minutes for them.
    sequences: usize,
    /// Calibration seeds with each scheme: the pairs that targets are on have as many as make
    /// a standard error; many where both sides do the very same and differ by their rounding
    /// alone.
    seeds: [u64; SCHEMES.len()],
}

/// A new comparison = one row.
const PAIRS: [Pair; 6] = [
    Pair {
        name: "GPTQ, columns in order",
        ours: "gptq act_order=false true_sequential=true grid='min_max'",
        theirs: "gptq --set sym=false --set desc_act=false --set act_group_aware=false --set damp_percent=0.01",
        sequences: 128,
        seeds: [1, 1],
    },
    Pair {
        name: "GPTQ, act-order",
        ours: "gptq act_order=true true_sequential=true grid='min_max'",
        theirs: "gptq --set sym=false --set desc_act=true --set act_group_aware=false --set damp_percent=0.01",
        sequences: 128,
        seeds: [20, 10],
    },
    Pair {
        name: "GPTQ, group-aware order",
        ours: "gptq act_order='group_aware' true_sequential=true grid='min_max'",
        theirs: "gptq --set sym=false --set desc_act=false --set act_group_aware=true --set damp_percent=0.01",
        sequences: 128,
        seeds: [1, 1],
    },
    Pair {
        name: "GPTQ, symmetric",
        ours: "gptq symmetric=true act_order=true true_sequential=true grid='min_max'",
        theirs: "gptq --set sym=true --set desc_act=true --set act_group_aware=false --set damp_percent=0.01",
        sequences: 128,
        seeds: [1, 1],
    },
    Pair { name: "GPTQ, each tool's own settings", ours: "gptq", theirs: "gptq", sequences: 128, seeds: [1, 1] },
    Pair { name: "AWQ", ours: "awq", theirs: "awq --set sym=false", sequences: 16, seeds: [5, 5] },
];

/// Bits and columns of a group.
const SCHEMES: [(usize, usize); 2] = [(4, 128), (3, 64)];
/// Ours over theirs, of the geometric mean over the blocks.
const GREATEST_RATIO: f64 = 1.01;

/// What was found of a side at one seed.
#[derive(Deserialize, Serialize)]
struct Side {
    /// Of a linear weight.
    bits: f64,
    errors: Errors,
    quality: Quality,
}

/// Both sides at one seed.
struct Run {
    ours: Side,
    theirs: Side,
}

/// A pair with one scheme.
struct Row {
    name: String,
    runs: Vec<Run>,
}

pub fn compare(choice: &Choice) -> Found {
    let subject = Subject::open("house-6m");
    let most = choice.cut.seeds.unwrap_or(u64::MAX);
    let seeds = PAIRS.iter().flat_map(|pair| pair.seeds).max().expect("there are pairs").min(most);
    let asked: Vec<_> = all().into_iter().filter(|(scheme, pair)| choice.has(&name(*scheme, pair))).collect();
    let mut rows: Vec<Row> = Vec::new();
    for seed in 0..seeds {
        let mut calibrations = BTreeMap::new();
        for (i, &(scheme, pair)) in asked.iter().enumerate() {
            if seed >= pair.seeds[scheme] {
                continue;
            }
            let (ids, inputs) = calibrations.entry(pair.sequences).or_insert_with(|| {
                let ids = subject.calibration(pair.sequences, seed);
                let inputs = Inputs::of(&subject, &ids);
                (ids, inputs)
            });
            let (bits, group) = SCHEMES[scheme];
            let name = name(scheme, pair);
            let side = |model: &Model, bits| Side {
                bits,
                errors: inputs.errors(&*subject.original.store, &*model.store),
                quality: subject.quality(model),
            };
            let settings = format!("{} --bits {bits} --group-size {group}", pair.theirs);
            let theirs = found("quality", peer::key(&subject, &settings, ids), &subject, &format!("{name}, seed {seed}"), || {
                let made = peer::make(&subject, &settings, ids).unwrap_or_else(|said| panic!("{said}"));
                side(&made.model, made.notes.bits_per_weight_linear)
            });
            let ours =
                ours::make(&subject, &format!("{} bits={bits} group_size={group} skip=['embeddings']", pair.ours), pair.sequences, seed);
            let ours = side(&ours.model, ours.footprint.bits_per_weight_linear);
            if rows.len() == i {
                rows.push(Row { name, runs: Vec::new() });
            }
            rows[i].runs.push(Run { ours, theirs });
            eprintln!("seed {seed}: {}", rows[i].summary());
        }
    }
    page(&subject, &rows)
}

/// Each pair with each scheme, by its place.
fn all() -> Vec<(usize, &'static Pair)> {
    (0..SCHEMES.len()).flat_map(|scheme| PAIRS.iter().map(move |pair| (scheme, pair))).collect()
}

fn name(scheme: usize, pair: &Pair) -> String {
    let (bits, group) = SCHEMES[scheme];
    format!("{bits} bits g{group}, {}", pair.name)
}

impl Run {
    /// Errors of a kind of layer, ours over theirs, by block.
    fn ratios(&self, role: &str) -> Vec<f64> {
        self.ours.errors.iter().zip(&self.theirs.errors).map(|(ours, theirs)| ours[role] / theirs[role]).collect()
    }
}

impl Row {
    /// Over seeds and the blocks that are asked for.
    fn ratio(&self, role: &str, blocks: impl Fn(usize) -> bool) -> f64 {
        let blocks = |run: &Run| run.ratios(role).into_iter().enumerate().filter(|(i, _)| blocks(*i)).map(|(_, r)| r).collect::<Vec<_>>();
        geometric_mean(self.runs.iter().flat_map(blocks))
    }

    fn roles(&self) -> Vec<&str> {
        self.runs[0].ours.errors[0].keys().map(String::as_str).collect()
    }

    fn worst(&self) -> (&str, f64) {
        let of = |role| (role, self.ratio(role, |_| true));
        self.roles().into_iter().map(of).max_by(|a, b| a.1.total_cmp(&b.1)).expect("layers")
    }

    /// Ours less theirs by seed, which draws the same ids for both.
    fn differences(&self, of: impl Fn(&Quality) -> f64) -> Vec<f64> {
        self.runs.iter().map(|run| of(&run.ours.quality) - of(&run.theirs.quality)).collect()
    }

    fn side(&self, ours: bool, of: impl Fn(&Quality) -> f64) -> (f64, f64) {
        mean(&self.runs.iter().map(|run| of(if ours { &run.ours.quality } else { &run.theirs.quality })).collect::<Vec<_>>())
    }

    fn summary(&self) -> String {
        let roles: Vec<String> = self.roles().into_iter().map(|role| format!("{role} {:.4}", self.ratio(role, |_| true))).collect();
        let (home, kl) = (|q: &Quality| q.perplexity[0], |q: &Quality| q.kl[0]);
        format!(
            "{}: {}; perplexity {:.4} and {:.4}, KL {:.5} and {:.5}",
            self.name,
            roles.join(" "),
            self.side(true, home).0,
            self.side(false, home).0,
            self.side(true, kl).0,
            self.side(false, kl).0
        )
    }
}

fn page(subject: &Subject, rows: &[Row]) -> Found {
    if rows.is_empty() {
        return Found::without_targets(String::new(), json!([]));
    }
    let mut missed = Vec::new();
    let mut layers = String::new();
    let roles = rows[0].roles();
    writeln!(layers, "| | seeds | {} | worst | block 0: q, k, v |\n|---|{}", roles.join(" | "), "---|".repeat(roles.len() + 3)).unwrap();
    for row in rows {
        let cells: Vec<String> = roles.iter().map(|role| format!("{:.3}", row.ratio(role, |_| true))).collect();
        let (worst, ratio) = row.worst();
        let first = geometric_mean(["attn.q", "attn.k", "attn.v"].map(|role| row.ratio(role, |block| block == 0)));
        writeln!(layers, "| {} | {} | {} | {worst} {ratio:.3} | {first:.3} |", row.name, row.runs.len(), cells.join(" | ")).unwrap();
        if ratio > GREATEST_RATIO {
            missed.push(format!("{}: error of {worst} {ratio:.3} times theirs, {GREATEST_RATIO} is the target", row.name));
        }
    }
    let mut ends = format!(
        "| | side | bits of a linear weight | perplexity {0} | KL {0} | perplexity {1} | KL {1} |\n|---|---|---|---|---|---|---|\n",
        TEXTS[0].0, TEXTS[1].0
    );
    for row in rows {
        for (side, ours) in [("ours", true), ("gptqmodel", false)] {
            // One seed has no error.
            let error = |error: f64, digits: usize| if row.runs.len() > 1 { format!(" ± {error:.digits$}") } else { String::new() };
            let cell = |(mean, of): (f64, f64), digits: usize| format!("{mean:.digits$}{}", error(of, digits));
            let cells = [0, 1]
                .map(|t| format!("{} | {}", cell(row.side(ours, |q| q.perplexity[t]), [4, 3][t]), cell(row.side(ours, |q| q.kl[t]), 5)));
            let (name, bits) = if ours { (row.name.as_str(), row.runs[0].ours.bits) } else { ("", row.runs[0].theirs.bits) };
            writeln!(ends, "| {name} | {side} | {bits:.3} | {} |", cells.join(" | ")).unwrap();
        }
        for (what, of) in [("perplexity", (|q| q.perplexity[0]) as fn(&Quality) -> f64), ("KL", |q| q.kl[0])] {
            let (difference, error) = mean(&row.differences(of));
            if row.runs.len() > 1 && difference > error {
                missed.push(format!("{}: {what} {} is {difference:+.5} ± {error:.5} from theirs, which is worse", row.name, TEXTS[0].0));
            }
        }
    }
    let page = format!(
        "## Beside gptqmodel 7.7.0\n\n\
         The same weights and calibration ids on both sides, and the same settings but where a row says each tool's own; f32 on the CPU. house-6m, f32: perplexity {:.4} {}, {:.3} {}. \
         Linear layers alone, embeddings in 16 bits.\n\n\
         Error of a layer, ours over theirs: ‖(W − Q)X‖ / ‖WX‖ with the original model's inputs X on the calibration ids, \
         geometric mean over blocks and seeds. In block 0 both sides meet the very same q, k and v.\n\n{layers}\n\
         The whole model: mean and standard error over the seeds; bits count scales, zero points and orders of columns as each tool stores them.\n\n{ends}",
        subject.before[0], TEXTS[0].0, subject.before[1], TEXTS[1].0,
    );
    let targets = format!(
        "no kind of layer above {GREATEST_RATIO} times theirs; in rows of several seeds, perplexity and KL {}, seed by seed, not worse by more than one \
         standard error of the difference (a row of one seed has none, and is not judged).",
        TEXTS[0].0
    );
    let figure = |row: &Row| {
        json!({
            "name": row.name, "bits": [row.runs[0].ours.bits, row.runs[0].theirs.bits],
            "ratios": row.roles().into_iter().map(|role| (role.to_owned(), json!(row.ratio(role, |_| true)))).collect::<serde_json::Map<_, _>>(),
            "ours": row.runs.iter().map(|r| &r.ours.quality).collect::<Vec<_>>(),
            "theirs": row.runs.iter().map(|r| &r.theirs.quality).collect::<Vec<_>>(),
        })
    };
    Found::new(page, json!(rows.iter().map(figure).collect::<Vec<_>>()), &targets, missed)
}
