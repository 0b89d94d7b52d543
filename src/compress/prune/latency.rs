//! How long the device's runtime takes for a token, from a short table: a layer's time by
//! each of its widths, between measured ones by straight lines, and what a model takes
//! besides. Weights are timed in 16 bits, as they ship where nothing quantises them.

use crate::error::{Error, Result};
use crate::eval::speed;
use crate::export::kept;
use crate::forward::Inner;
use crate::model::{Axis, ModelSpec, Selection};
use crate::progress::{Progress, Unit};
use crate::quant::{Assembled, Weight};
use crate::random::Random;
use crate::recipe::Cut;
use crate::runtime::{Activations, Decoder};
use std::collections::{BTreeMap, BTreeSet};

/// Shares of a width that are timed, besides all of it.
const SHARES: [f64; 2] = [0.25, 0.5];
/// Layers of a timed model: more than one, so that they do not stay in the nearest cache
/// from token to token where those of the whole model would not.
const LAYERS: usize = 4;
/// Tokens and runs of a measurement.
const TOKENS: usize = 24;
const RUNS: usize = 3;

/// Times by width, each kind alone.
pub struct Latency {
    /// Milliseconds of a token that are no layer's.
    fixed: f64,
    /// Milliseconds of a layer that is whole.
    layer: f64,
    /// What it takes less where a share of a width is left, shares ascending.
    saved: BTreeMap<Inner, Vec<(f64, f64)>>,
    /// Sizes of the axes in the whole model.
    spec: ModelSpec,
}

/// What times models.
struct Clock {
    activations: Activations,
    threads: usize,
    /// Random weights by shape: most are those of the model before.
    drawn: BTreeMap<Vec<usize>, Weight>,
}

impl Latency {
    /// Times models like this one with random weights, which are cut along some of these
    /// axes. `threads`: 0 = one a core.
    pub fn measure(spec: &ModelSpec, axes: &[Axis], (activations, threads): (Activations, usize), progress: &dyn Progress) -> Result<Self> {
        let inner = |axis: &Axis| match axis {
            Axis::Block(_, inner) => Some(*inner),
            Axis::Vocabulary | Axis::Positions | Axis::EmbeddingWidth | Axis::Hidden => None,
        };
        let kinds: BTreeSet<Inner> = axes.iter().filter_map(inner).collect();
        progress.begin("prune_width: timing the runtime", (2 + SHARES.len() * kinds.len()) as u64, Unit::one("models"));
        let mut clock = Clock { activations, threads, drawn: BTreeMap::new() };
        let mut time = |selection: &Selection| {
            progress.may_go_on()?;
            let smaller = selection.apply(spec).map_err(|error| Error::Usage(error.to_string()))?;
            let milliseconds = clock.milliseconds(&smaller)?;
            progress.advance(1);
            Ok::<_, Error>(milliseconds)
        };
        let of_layers = |layers: usize| {
            let mut selection = Selection::whole(spec);
            selection.layers.truncate(layers);
            selection
        };
        let layers = LAYERS.min(spec.blocks.len());
        let (whole, one) = (time(&of_layers(layers))?, time(&of_layers(1))?);
        // Where a machine is busy, fewer layers may seem to take longer.
        let layer = if layers > 1 { ((whole - one) / (layers - 1) as f64).max(0.0) } else { 0.0 };
        let mut saved = BTreeMap::new();
        for kind in kinds {
            let mut times = Vec::new();
            for share in SHARES {
                let mut selection = of_layers(layers);
                for axis in axes.iter().filter(|axis| matches!(axis, Axis::Block(block, inner) if *inner == kind && *block < layers)) {
                    selection.keep(*axis, &first_units(*axis, share, spec), spec);
                }
                times.push((share, ((whole - time(&selection)?) / layers as f64).max(0.0)));
            }
            times.push((1.0, 0.0));
            saved.insert(kind, times);
        }
        progress.end();
        Ok(Self { fixed: (one - layer).max(0.0), layer, saved, spec: spec.clone() })
    }

    /// Milliseconds of a token.
    pub fn of(&self, smaller: &ModelSpec) -> f64 {
        let there = smaller.cuttable();
        let saved = |axis: &Axis| match axis {
            Axis::Block(_, inner) => {
                self.saved.get(inner).map(|times| between(times, axis.size(smaller) as f64 / axis.size(&self.spec) as f64))
            }
            Axis::Vocabulary | Axis::Positions | Axis::EmbeddingWidth | Axis::Hidden => None,
        };
        self.fixed + self.layer * smaller.blocks.len() as f64 - there.iter().filter_map(saved).sum::<f64>()
    }
}

/// A share of an axis's units, as many of each key-value head where they are query heads.
fn first_units(axis: Axis, share: f64, spec: &ModelSpec) -> Vec<usize> {
    let groups = match (Cut::of(axis), axis) {
        (Some(Cut::QueryHeads), Axis::Block(block, _)) => Axis::Block(block, Inner::KvHeads).size(spec),
        _ => 1,
    };
    let of = axis.size(spec) / groups;
    let count = ((share * of as f64).round() as usize).max(1);
    (0..groups).flat_map(|group| (0..count).map(move |unit| group * of + unit)).collect()
}

/// On straight lines through points with ascending places, and on beyond the first.
fn between(points: &[(f64, f64)], at: f64) -> f64 {
    let right = points.iter().position(|(place, _)| *place >= at).unwrap_or(points.len() - 1).max(1);
    let ((x0, y0), (x1, y1)) = (points[right - 1], points[right]);
    y0 + (y1 - y0) * (at - x0) / (x1 - x0)
}

impl Clock {
    /// Of a token, decoded by itself.
    fn milliseconds(&mut self, spec: &ModelSpec) -> Result<f64> {
        let mut weight = |p: crate::model::Parameter| {
            let drawn = self.drawn.entry(p.shape.clone()).or_insert_with(|| {
                let random = Random::named(0, &p.name);
                let values: Vec<f32> = (0..p.count()).map(|i| 0.02 * (random.uniform(i) as f32 - 0.5)).collect();
                kept(Weight::from_f32(&p.name, p.shape.clone(), &values), p.kind)
            });
            (p.name, drawn.clone())
        };
        let model = Assembled::new(spec.clone(), spec.parameters().into_iter().map(&mut weight));
        let decoder = Decoder::new(&model, self.activations, self.threads)?;
        let tokens = TOKENS.min(spec.longest_sequence().map_or(TOKENS, |longest| longest - 1));
        Ok(1e3 / speed::measure(&decoder, 1, tokens, RUNS)?.decode_tokens_per_s)
    }
}

#[cfg(test)]
mod tests {
    use super::between;

    #[test]
    fn lines_go_through_the_points_and_on() {
        let points = [(0.25, 3.0), (0.5, 2.0), (1.0, 0.0)];
        for (at, expected) in [(0.25, 3.0), (0.5, 2.0), (0.75, 1.0), (1.0, 0.0), (0.125, 3.5)] {
            assert!((between(&points, at) - expected).abs() < 1e-12, "{at}");
        }
    }
}
