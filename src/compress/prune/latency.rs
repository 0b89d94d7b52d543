//! How long the device's runtime takes for a token, from a short table: a layer's time by
//! the width of its feed-forward and by its heads, between measured ones by straight
//! lines, and what a model takes besides.

use crate::error::Result;
use crate::eval::speed;
use crate::model::spec::Mixer;
use crate::model::{Axis, Inner, ModelSpec, Selection};
use crate::quant::{Assembled, Weight};
use crate::random::Random;
use crate::runtime::{Activations, Decoder};

/// Shares of a width that are timed.
const SHARES: [f64; 3] = [0.25, 0.5, 1.0];
/// Layers of a timed model: more than one, so that they do not stay in the nearest cache
/// from token to token where those of the whole model would not.
const LAYERS: usize = 4;
/// Tokens and runs of a measurement.
const TOKENS: usize = 24;
const RUNS: usize = 3;

/// Times by width, each axis alone.
pub struct Latency {
    /// Milliseconds of a token that are no layer's.
    fixed: f64,
    /// Milliseconds of a layer that is whole, and what each width of it takes less.
    layer: f64,
    saved: Vec<(Inner, Vec<(f64, f64)>)>,
    /// Sizes of the axes in the whole model.
    spec: ModelSpec,
}

impl Latency {
    /// Times models like this one with random weights. `threads`: 0 = one a core.
    pub fn measure(spec: &ModelSpec, threads: usize) -> Result<Self> {
        let of_layers = |layers: usize| {
            let mut selection = Selection::whole(spec);
            selection.layers.truncate(layers);
            selection
        };
        let time = |selection: &Selection| milliseconds(&selection.apply(spec).expect("it is narrower alone"), threads);
        let layers = LAYERS.min(spec.blocks.len());
        let (few, one) = (time(&of_layers(layers))?, time(&of_layers(1))?);
        let layer = if layers > 1 { (few - one) / (layers - 1) as f64 } else { 0.0 };
        let mut saved = Vec::new();
        for inner in [Inner::FeedForward, Inner::KvHeads, Inner::State] {
            let axis = |block| Axis::Block(block, inner);
            if !spec.cuttable().contains(&axis(0)) {
                continue;
            }
            let mut times = Vec::new();
            for share in SHARES {
                let mut selection = of_layers(layers);
                let width = |block: usize| ((share * axis(block).size(spec) as f64).round() as usize).max(1);
                (0..layers).for_each(|block| selection.keep(axis(block), &(0..width(block)).collect::<Vec<_>>(), spec));
                let less = (few - time(&selection)?) / layers as f64;
                times.push((share, if share == 1.0 { 0.0 } else { less }));
            }
            saved.push((inner, times));
        }
        Ok(Self { fixed: one - layer, layer, saved, spec: spec.clone() })
    }

    /// Milliseconds of a token.
    pub fn of(&self, smaller: &ModelSpec) -> f64 {
        let share = |block: usize, inner: Inner| {
            let axis = Axis::Block(block, inner);
            axis.size(smaller) as f64 / axis.size(&self.spec) as f64
        };
        let has = |block: usize, inner: Inner| match smaller.blocks[block].mixer {
            Mixer::Attention(_) => inner != Inner::State,
            Mixer::Wkv(_) => inner != Inner::KvHeads,
        };
        let saved = |block| {
            self.saved
                .iter()
                .filter(|(inner, _)| has(block, *inner))
                .map(|(inner, times)| between(times, share(block, *inner)))
                .sum::<f64>()
        };
        self.fixed + (0..smaller.blocks.len()).map(|block| self.layer - saved(block)).sum::<f64>()
    }
}

/// On straight lines through points with ascending places, and on beyond the first.
fn between(points: &[(f64, f64)], at: f64) -> f64 {
    let right = points.iter().position(|(place, _)| *place >= at).unwrap_or(points.len() - 1).max(1);
    let ((x0, y0), (x1, y1)) = (points[right - 1], points[right]);
    y0 + (y1 - y0) * (at - x0) / (x1 - x0)
}

/// Of a token, decoded by itself.
fn milliseconds(spec: &ModelSpec, threads: usize) -> Result<f64> {
    let weight = |p: crate::model::Parameter| {
        let random = Random::named(0, &p.name);
        let values: Vec<f32> = (0..p.count()).map(|i| 0.02 * (random.uniform(i) as f32 - 0.5)).collect();
        (p.name.clone(), Weight::from_f32(&p.name, p.shape, &values))
    };
    let model = Assembled::new(spec.clone(), spec.parameters().into_iter().map(weight));
    let decoder = Decoder::new(&model, Activations::F32, threads)?;
    let tokens = TOKENS.min(spec.longest_sequence().map_or(TOKENS, |longest| longest - 1));
    Ok(1e3 / speed::measure(&decoder, 1, tokens, RUNS)?.decode_tokens_per_s)
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
