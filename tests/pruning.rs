//! Structured pruning: what units are worth and what stays becomes, against the formulas
//! in float64, and the stages on every family.
#![cfg(feature = "torch")]

#[path = "common/compress.rs"]
mod common;
#[path = "common/data.rs"]
mod data;
#[path = "naive/matrix.rs"]
mod matrix;
#[path = "common/normal.rs"]
mod normal;
#[path = "common/stop.rs"]
mod stop;

use matrix::inverse;
use ndarray::{Array1, Array2, ArrayView1, Axis as Along, s};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use tch::{Kind, Tensor};
use thimble::compress::calibrate::InputStatistics;
use thimble::compress::libtorch::{EmbeddingLayer, block_forward};
use thimble::compress::prune::depth;
use thimble::compress::prune::gradients::Gradients;
use thimble::compress::prune::latency::Latency;
use thimble::compress::prune::saliency::{Judge, Scores, Tallies, comparable};
use thimble::compress::prune::search::search;
use thimble::compress::solve::least_squares::{Paired, Solved, solve};
use thimble::compress::{Compute, Parameters, TorchLogits};
use thimble::forward::Inner;
use thimble::model::{Axis, DenseModel, LogitSource, ModelSpec, Parameter, Selection};
use thimble::progress::Silent;
use thimble::quant::{Assembled, Weight, WeightStore};
use thimble::random::Random;
use thimble::recipe::{Aggregate, LayerSaliency, Normalise, PruneWidth, RawRecipe, Saliency};
use thimble::report::CompressReport;
use thimble::runtime::{self, Activations};

const GROUPED: &str = "llama-gqa-tied";

fn model(fixture: &str) -> DenseModel {
    DenseModel::open_hugging_face(&data::fixture(fixture)).unwrap()
}

fn tensor(matrix: &Array2<f64>) -> Tensor {
    let (rows, columns) = matrix.dim();
    Tensor::from_slice(matrix.as_standard_layout().as_slice().unwrap()).view([rows as i64, columns as i64])
}

fn array(tensor: &Tensor) -> Array2<f64> {
    let (rows, columns) = tensor.size2().unwrap();
    let flat = Vec::<f64>::try_from(tensor.to_kind(Kind::Double).contiguous().view(-1)).unwrap();
    Array2::from_shape_vec((rows as usize, columns as usize), flat).unwrap()
}

/// Inputs `[tokens, in]` that go together, as those of real layers do.
fn inputs(seed: u64, tokens: usize, width: usize) -> Array2<f64> {
    let mixing = normal::normal(Random::new(seed, 1), (width, width));
    normal::normal(Random::new(seed, 2), (tokens, width)).dot(&mixing)
}

/// A layer of a fixture, its weight, and what is known of some input of it.
struct Layer {
    spec: ModelSpec,
    parameter: Parameter,
    weight: Array2<f64>,
    x: Array2<f64>,
}

impl Layer {
    fn new(name: &str) -> Self {
        let spec = model(GROUPED).spec().clone();
        let parameter = spec.parameters().into_iter().find(|p| p.name == name).unwrap();
        let weight = normal::normal(Random::new(5, 0), (parameter.shape[0], parameter.shape[1]));
        let x = inputs(6, 3 * parameter.shape[1], parameter.shape[1]);
        Self { spec, parameter, weight, x }
    }

    fn hessian(&self) -> Array2<f64> {
        self.x.t().dot(&self.x) * (2.0 / self.x.nrows() as f64)
    }

    /// Scores of the units of one axis.
    fn scores(&self, axis: Axis, saliency: Saliency, aggregate: Aggregate) -> Vec<f64> {
        let magnitudes = self.x.mapv(f64::abs).mean_axis(Along(0)).unwrap();
        let input = InputStatistics {
            tokens: self.x.nrows() as f64,
            power: 1.0,
            hessian: tensor(&self.hessian()),
            mean_magnitude: Tensor::from_slice(magnitudes.as_slice().unwrap()),
            greatest_magnitude: Tensor::zeros([self.x.ncols() as i64], (Kind::Double, tch::Device::Cpu)),
        };
        let mut tallies = Tallies::new(&self.spec, &[axis]);
        let judge = Judge { saliency, gradients: None, damp_percent: 1e-9 };
        judge.look(&[(self.parameter.clone(), tensor(&self.weight))], Some(&input), &mut tallies).unwrap();
        tallies.scores(aggregate).remove(&axis).unwrap()
    }

    /// Columns of each unit, by hand: channels one by one, heads with those they serve.
    fn columns(&self, units: usize) -> Vec<Vec<usize>> {
        let each = self.weight.ncols() / units;
        (0..units).map(|unit| (unit * each..(unit + 1) * each).collect()).collect()
    }
}

#[track_caller]
fn assert_near(found: &[f64], expected: &[f64], relative: f64, what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (a, b) in found.iter().zip(expected) {
        assert!((a - b).abs() <= relative * b.abs(), "{what}: {a} for {b}");
    }
}

/// Units of a block's axis and the layer that reads them.
fn read_by() -> [(Axis, &'static str); 2] {
    [(Axis::Block(1, Inner::FeedForward), "blocks.1.ffn.down"), (Axis::Block(1, Inner::KvHeads), "blocks.1.attn.o")]
}

#[test]
fn weights_and_inputs_give_the_scores_of_the_papers() {
    for (axis, name) in read_by() {
        let layer = Layer::new(name);
        let columns = layer.columns(axis.size(&layer.spec));
        // Of Wanda, with the norm that the mean square is (a common factor of all layers).
        let norms: Array1<f64> = layer.hessian().diag().mapv(f64::sqrt);
        let wanda = layer.weight.mapv(f64::abs) * &norms;
        let (means, weight) = (layer.x.mapv(f64::abs).mean_axis(Along(0)).unwrap(), layer.weight.mapv(f64::abs));
        let of = |m: &Array2<f64>, unit: &[usize]| -> Vec<f64> { unit.iter().flat_map(|&c| m.column(c).to_vec()).collect() };
        for (saliency, numbers) in [(Saliency::Wanda, &wanda), (Saliency::Magnitude, &weight)] {
            let by = |f: &dyn Fn(Vec<f64>) -> f64| columns.iter().map(|unit| f(of(numbers, unit))).collect::<Vec<f64>>();
            let what = format!("{name}, {saliency:?}");
            assert_near(&layer.scores(axis, saliency, Aggregate::Sum), &by(&|v| v.iter().sum()), 1e-6, &what);
            assert_near(&layer.scores(axis, saliency, Aggregate::Mean), &by(&|v| v.iter().sum::<f64>() / v.len() as f64), 1e-6, &what);
            assert_near(&layer.scores(axis, saliency, Aggregate::L2), &by(&|v| v.iter().map(|x| x * x).sum::<f64>().sqrt()), 1e-6, &what);
            assert_near(&layer.scores(axis, saliency, Aggregate::Max), &by(&|v| v.into_iter().fold(0.0, f64::max)), 1e-6, &what);
        }
        let activation: Vec<f64> = columns.iter().map(|unit| unit.iter().map(|&c| means[c]).sum()).collect();
        assert_near(&layer.scores(axis, Saliency::Activation, Aggregate::Sum), &activation, 1e-6, name);
    }
}

/// The error that is left when a unit's columns go and the others make good what they
/// can, by the Schur complement, which the inverse's blocks are the inverses of.
#[test]
fn the_optimal_brain_knows_what_is_left_when_others_make_good() {
    for (axis, name) in read_by() {
        let layer = Layer::new(name);
        let hessian = layer.hessian();
        let expected: Vec<f64> = layer
            .columns(axis.size(&layer.spec))
            .into_iter()
            .map(|gone| {
                let stay: Vec<usize> = (0..hessian.nrows()).filter(|i| !gone.contains(i)).collect();
                let part = |rows: &[usize], columns: &[usize]| hessian.select(Along(0), rows).select(Along(1), columns);
                let schur = part(&gone, &gone) - part(&gone, &stay).dot(&inverse(&part(&stay, &stay))).dot(&part(&stay, &gone));
                let weight = layer.weight.select(Along(1), &gone);
                (weight.dot(&schur) * &weight).sum()
            })
            .collect();
        assert_near(&layer.scores(axis, Saliency::OptimalBrain, Aggregate::Sum), &expected, 1e-5, name);
    }
}

/// The solution against the normal equations, token by token, with a bias as a column of
/// ones that is not damped.
#[test]
fn what_stays_is_solved_by_least_squares() {
    let (tokens, width, out) = (60, 12, 5);
    let x = inputs(1, tokens, width) + 0.7;
    let stay: Vec<usize> = vec![0, 2, 3, 7, 8, 11];
    // What the smaller model makes of the text is not quite what the whole one does.
    let y = x.select(Along(1), &stay) + normal::normal(Random::new(2, 0), (tokens, stay.len())) * 0.1;
    let weight = normal::normal(Random::new(3, 0), (out, width));
    let bias = normal::normal(Random::new(4, 0), (1, out));
    let sums = |m: &Array2<f64>| Tensor::from_slice(m.sum_axis(Along(0)).as_slice().unwrap());
    let paired = Paired {
        tokens: tokens as f64,
        across: tensor(&x.t().dot(&y)),
        products: tensor(&y.t().dot(&y)),
        squares: tensor(&x.t().dot(&x)),
        before: sums(&x),
        after: sums(&y),
        magnitudes: sums(&y.mapv(f64::abs)),
    };
    let places = Tensor::from_slice(&stay.iter().map(|&i| i as i64).collect::<Vec<_>>());
    for (damp, with_bias) in [(0.01, false), (0.5, true), (1e-6, true)] {
        let given = with_bias.then(|| tensor(&bias).view(-1));
        let Solved { weight: found, bias: found_bias, .. } = solve(&tensor(&weight), given.as_ref(), &places, &paired, damp).unwrap();
        let centre = |m: &Array2<f64>| if with_bias { m - &m.mean_axis(Along(0)).unwrap() } else { m.clone() };
        let products = centre(&y).t().dot(&centre(&y));
        let lambda = damp * products.diag().mean().unwrap();
        // Targets behind which stands λ times what the weights were.
        let start = weight.select(Along(1), &stay);
        let right = weight.dot(&centre(&x).t().dot(&centre(&y))) + &start * lambda;
        let expected = right.dot(&inverse(&(products + Array2::<f64>::eye(stay.len()) * lambda)));
        assert_near(array(&found).as_slice().unwrap(), expected.as_standard_layout().as_slice().unwrap(), 1e-8, "weights");
        let residual = x.dot(&weight.t()) - y.dot(&array(&found).t());
        if let Some(found_bias) = found_bias {
            let expected = &bias.row(0) + &residual.mean_axis(Along(0)).unwrap();
            assert_near(&Vec::<f64>::try_from(found_bias).unwrap(), expected.as_slice().unwrap(), 1e-8, "bias");
        }
        let square = |m: &Array2<f64>| centre(m).iter().map(|v| v * v).sum::<f64>();
        let error = (square(&residual) / square(&x.dot(&weight.t()))).sqrt();
        assert_near(&[paired.relative_error_of(&tensor(&weight), with_bias, &found)], &[error], 1e-6, "relative error");
    }
}

/// The loss of sequences, each by itself, in double precision.
fn loss(store: Arc<dyn WeightStore>, sequences: &[Vec<u32>]) -> f64 {
    let vocab = store.spec().vocab_size;
    let mut source = TorchLogits::new(store, Compute { kind: Kind::Double, ..Compute::CPU });
    let of = |ids: &Vec<u32>| {
        source.run_window(ids).unwrap();
        let logits = source.logits(0..ids.len() - 1).unwrap();
        let token = |(row, next): (&[f32], &u32)| {
            let sum: f64 = row.iter().map(|v| f64::from(*v).exp()).sum();
            sum.ln() - f64::from(row[*next as usize])
        };
        logits.chunks_exact(vocab).zip(&ids[1..]).map(token).sum::<f64>() / (ids.len() - 1) as f64
    };
    let losses: Vec<f64> = sequences.iter().map(of).collect();
    losses.iter().sum::<f64>() / losses.len() as f64
}

#[test]
fn taylors_gradients_are_those_of_the_loss() {
    let model = model(GROUPED);
    let sequences: Vec<Vec<u32>> = (0..3).map(|s| (0..9).map(|i| (7 * i + 11 * s + i * i) % 90).collect()).collect();
    let compute = Compute { kind: Kind::Double, ..Compute::CPU };
    let names = ["blocks.0.attn.k", "blocks.1.ffn.down", "embeddings"];
    let gradients = [false, true]
        .map(|squares| Gradients::of(&model, (names.map(String::from).to_vec(), squares), &sequences, compute, &Silent).unwrap());
    let weights: Vec<(String, Weight)> =
        model.spec().parameters().into_iter().map(|p| (p.name.clone(), model.weight(&p.name).unwrap())).collect();
    for name in names {
        let numbers = model.weight(name).unwrap().to_f32().into_owned();
        let shape = model.weight(name).unwrap().shape();
        let flat = Tensor::from_slice(&numbers).view([shape[0] as i64, shape[1] as i64]);
        let [first, second] = gradients.each_ref().map(|of| array(&of.salience(name, &flat).unwrap()).into_raw_vec_and_offset().0);
        let most = |of: &dyn Fn(usize) -> f64| (0..numbers.len()).max_by(|a, b| of(*a).total_cmp(&of(*b))).unwrap();
        let moved = |place: usize, by: f32, sequences: &[Vec<u32>]| {
            let mut numbers = numbers.clone();
            numbers[place] += by;
            let changed = weights.iter().map(|(other, weight)| match other == name {
                true => (other.clone(), Weight::from_f32(name, shape.clone(), &numbers)),
                false => (other.clone(), weight.clone()),
            });
            loss(Arc::new(Assembled::new(model.spec().clone(), changed)), sequences)
        };
        let step = 1f32 / 64.0;
        let slope = |place: usize, sequences: &[Vec<u32>]| {
            (moved(place, step, sequences) - moved(place, -step, sequences)) / (2.0 * f64::from(step))
        };
        let greatest = most(&|i| first[i]);
        let linear = |place: usize| f64::from(numbers[place]) * slope(place, &sequences);
        assert_near(&[first[greatest]], &[linear(greatest).abs()], 2e-3, name);
        // Where the squares make the greatest difference.
        let apart = most(&|i| (first[i] - second[i]).abs());
        let fisher = sequences.iter().map(|s| slope(apart, std::slice::from_ref(s)).powi(2)).sum::<f64>() / 3.0;
        let square = 0.5 * f64::from(numbers[apart]).powi(2) * fisher;
        let (expected, tolerance) = ((linear(apart) - square).abs(), 0.05 * square + 2e-3 * linear(apart).abs());
        assert!(square > 2.0 * tolerance && (second[apart] - expected).abs() < tolerance, "{name}: {} for {expected}", second[apart]);
    }
}

/// Any scores of a model's heads and channels.
fn any_scores(spec: &ModelSpec, plan: &PruneWidth) -> Scores {
    plan.axes(spec)
        .into_iter()
        .enumerate()
        .map(|(i, axis)| {
            (axis, (0..axis.size(spec)).map(|unit| (1.0 + i as f64) * Random::new(1, i as u64).uniform(unit as u64)).collect())
        })
        .collect()
}

#[test]
fn widths_are_searched_to_the_target() {
    let spec = model(GROUPED).spec().clone();
    let whole = spec.block_parameter_count() as f64;
    for uniform in [true, false] {
        let mut last = usize::MAX;
        for ratio in [0.05, 0.2, 0.4, 0.6] {
            let plan = PruneWidth { ratio: Some(ratio), uniform, multiple: 4, ..PruneWidth::default() };
            let scores = comparable(any_scores(&spec, &plan), Normalise::Mean, &spec);
            let selection = search(&plan, &scores, &spec, &|_| unreachable!("it is counted")).unwrap();
            let smaller = selection.apply(&spec).unwrap();
            let left = smaller.block_parameter_count() as f64 / whole;
            assert!(left <= 1.0 - ratio && left > 0.95 - ratio, "{left} is left of {ratio}, uniform {uniform}");
            assert!((left * 1e9) as usize <= last);
            last = (left * 1e9) as usize;
            let widths: Vec<usize> = smaller.blocks.iter().map(|block| block.feed_forward().unwrap().width).collect();
            assert!(widths.iter().all(|width| width.is_multiple_of(4)), "{widths:?}");
            assert!(!uniform || widths.iter().all(|width| *width == widths[0]), "{widths:?}");
            // Those that stay are those that score highest.
            for (axis, scores) in &scores {
                let kept = selection.of(*axis, &spec).indices;
                let least = kept.iter().map(|&i| scores[i]).fold(f64::INFINITY, f64::min);
                assert!((0..scores.len()).filter(|i| !kept.contains(i)).all(|i| scores[i] <= least), "{axis}");
            }
        }
    }
    // By time, as a model's runtime would tell it.
    let plan = PruneWidth { target_ms: Some(3.0), multiple: 4, ..PruneWidth::default() };
    let milliseconds = |spec: &ModelSpec| 5.0 * spec.block_parameter_count() as f64 / whole;
    let smaller = search(&plan, &any_scores(&spec, &plan), &spec, &milliseconds).unwrap().apply(&spec).unwrap();
    assert!(milliseconds(&smaller) <= 3.0 && milliseconds(&smaller) > 2.5, "{} ms", milliseconds(&smaller));
    let plan = PruneWidth { target_ms: Some(0.01), multiple: 4, ..PruneWidth::default() };
    let error = search(&plan, &any_scores(&spec, &plan), &spec, &milliseconds).unwrap_err().to_string();
    assert!(error.contains("cannot be reached"), "{error}");
}

fn recipe(stage: &str) -> String {
    format!(
        "[calibration]\nsequences = 6\nlength = 24\n[[stage]]\n{stage}\n[evaluate]\nwindow = 16\nmax_windows = 2\nactivations = 'f32'\n"
    )
}

fn run(stage: &str, dir: &Path) -> thimble::Result<(CompressReport, tempfile::TempDir)> {
    let out = tempfile::tempdir().unwrap();
    common::run(&recipe(stage), dir, out.path()).map(|report| (report, out))
}

/// What is written is read back and compared by the pipeline itself.
#[test]
fn every_cut_runs_on_every_family() {
    let mut done = BTreeMap::new();
    for (name, dir) in data::fixtures() {
        let width = |cut: &str| format!("[stage.prune_width]\nratio = 0.1\nmultiple = 4\ncut = ['{cut}']");
        let cuts = ["ffn", "heads", "query_heads", "hidden", "state"].map(|cut| (cut, width(cut)));
        for (cut, stage) in cuts.into_iter().chain([("layers", "[stage.prune_depth]\nlayers = 1".into())]) {
            match run(&stage, &dir) {
                Ok((report, out)) => {
                    let pruning = report.stages[0].pruning.as_ref().unwrap();
                    let smaller = runtime::open(out.path(), None).unwrap();
                    assert_eq!(smaller.spec().parameter_count(), pruning.parameters_after, "{name}");
                    assert!(pruning.parameters_after < pruning.parameters_before && report.after.perplexity.is_finite(), "{name}: {stage}");
                    *done.entry(cut).or_insert(0) += 1;
                }
                Err(error) => {
                    let known =
                        ["share their weights", "to take out; it has", "must stay", "none can go", "cannot be reached", "cut alike"];
                    let error = error.to_string();
                    assert!(known.iter().any(|known| error.contains(known)), "{name}: {stage}: {error}");
                }
            }
        }
    }
    println!("{done:?}");
    assert!(["ffn", "heads", "hidden", "layers"].iter().all(|cut| done[cut] > 20) && done["query_heads"] > 5 && done["state"] == 2);
}

/// On a model that has learnt something, every way to judge, and solving anew.
#[test]
fn what_stays_is_nearer_to_the_original_when_solved() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/demo");
    let text = |name: &str| root.join(name).display().to_string();
    let kl = |keys: &str| {
        let recipe = format!(
            "[calibration]\ntext = '{}'\nsequences = 8\nlength = 128\n[[stage]]\n[stage.prune_width]\n{keys}\n\
             [evaluate]\ntext = '{}'\nwindow = 128\nmax_windows = 4\nactivations = 'f32'\n",
            text("calibration.txt"),
            text("held-out.txt")
        );
        let out = tempfile::tempdir().unwrap();
        let report = common::run(&recipe, &root.join("model"), out.path()).unwrap();
        report.after.divergence.unwrap().kl_mean
    };
    for saliency in ["magnitude", "wanda", "taylor", "taylor_second", "activation", "optimal_brain"] {
        let keys = format!("ratio = 0.3\nmultiple = 8\nuniform = false\nsaliency = '{saliency}'");
        let (solved, as_it_was) = (kl(&keys), kl(&format!("{keys}\nreconstruct = false")));
        println!("{saliency}: KL {solved:.4} solved, {as_it_was:.4} as it was");
        assert!(solved < as_it_was, "{saliency}: {solved} solved, {as_it_was} as it was");
    }
    let hidden = "ratio = 0.15\nmultiple = 8\ncut = ['hidden']\nsaliency = 'activation'";
    assert!(kl(hidden) < kl(&format!("{hidden}\nreconstruct = false")));
}

/// States behind each layer, the embedded tokens first: `[tokens][hidden]` of each
/// sequence.
fn states(store: &dyn WeightStore, ids: &[u32]) -> Vec<Array2<f64>> {
    let spec = store.spec();
    let mut x = EmbeddingLayer::load(spec, |name| store.weight(name), Compute::CPU).unwrap().forward(&[ids]);
    let mut all = vec![array(&x.squeeze_dim(0))];
    for (i, block) in spec.blocks.iter().enumerate() {
        x = block_forward(block, &Parameters::block(store, i, Compute::CPU).unwrap(), &x, &mut |_, _| ());
        all.push(array(&x.squeeze_dim(0)));
    }
    all
}

fn cosine(a: ArrayView1<f64>, b: ArrayView1<f64>) -> f64 {
    a.dot(&b) / (a.dot(&a) * b.dot(&b)).sqrt()
}

/// By the papers' formulas, on the demo's model.
#[test]
fn layers_are_worth_what_the_papers_say() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/demo/model");
    let opened = runtime::open(&root, None).unwrap();
    let store = opened.store.clone();
    let layers = store.spec().blocks.len();
    assert!(layers > 2);
    let sequences: Vec<Vec<u32>> = (0..5).map(|s| (0..24).map(|i| (13 * i + 31 * s + i * i) % 400 + 3).collect()).collect();
    let states: Vec<Vec<Array2<f64>>> = sequences.iter().map(|ids| states(&*store, ids)).collect();
    let mean = |of: &dyn Fn(&Vec<Array2<f64>>) -> f64| states.iter().map(of).sum::<f64>() / states.len() as f64;
    let choose = |by, count| depth::choose(by, count, &*store, &sequences, Compute::CPU, &Silent).unwrap();

    let influence = |layer: usize| {
        mean(&|s| {
            let tokens = s[layer].outer_iter().zip(s[layer + 1].outer_iter());
            1.0 - tokens.map(|(x, y)| cosine(x, y)).sum::<f64>() / s[layer].nrows() as f64
        })
    };
    let expected: Vec<f64> = (0..layers).map(influence).collect();
    let found = choose(LayerSaliency::BlockInfluence, 2);
    assert_near(&found.scores, &expected, 1e-4, "block influence");
    let mut order: Vec<usize> = (0..layers).collect();
    order.sort_by(|a, b| expected[*a].total_cmp(&expected[*b]));
    assert_eq!(found.out, BTreeSet::from([order[0], order[1]]).into_iter().collect::<Vec<_>>());

    let angle = |first: usize| {
        mean(&|s| {
            let last = |state: &Array2<f64>| state.row(state.nrows() - 1).to_owned();
            cosine(last(&s[first]).view(), last(&s[first + 2]).view()).acos() / std::f64::consts::PI
        })
    };
    let expected: Vec<f64> = (0..=layers - 2).map(angle).collect();
    let found = choose(LayerSaliency::AngularDistance, 2);
    assert_near(&found.scores, &expected, 1e-4, "angular distance");
    let first = (0..expected.len()).min_by(|a, b| expected[*a].total_cmp(&expected[*b])).unwrap();
    assert_eq!(found.out, [first, first + 1]);

    // One goes, then of the rest the next.
    let without = |out: &[usize]| {
        let mut selection = Selection::whole(store.spec());
        selection.layers.retain(|layer| !out.contains(layer));
        let spec = selection.apply(store.spec()).unwrap();
        let weight = |p: Parameter| (p.name.clone(), store.weight(&selection.there(&p, store.spec()).name).unwrap());
        loss(Arc::new(Assembled::new(spec.clone(), spec.parameters().into_iter().map(weight))), &sequences).exp()
    };
    let found = choose(LayerSaliency::Perplexity, 2);
    let alone: Vec<f64> = (0..layers).map(|layer| without(&[layer])).collect();
    assert_near(&found.scores, &alone, 1e-4, "perplexity");
    let first = (0..layers).min_by(|a, b| alone[*a].total_cmp(&alone[*b])).unwrap();
    let second =
        (0..layers).filter(|layer| *layer != first).min_by(|a, b| without(&[first, *a]).total_cmp(&without(&[first, *b]))).unwrap();
    assert_eq!(found.out, BTreeSet::from([first, second]).into_iter().collect::<Vec<_>>());
}

/// Rows count where the saliency is of weights alone: those that write a head or a
/// channel, and those of the residual stream on either side.
#[test]
fn weights_that_write_a_unit_count_too() {
    for (axis, name, rows) in [
        (Axis::Block(1, Inner::FeedForward), "blocks.1.ffn.up", true),
        (Axis::Block(1, Inner::KvHeads), "blocks.1.attn.q", true),
        (Axis::Block(1, Inner::QueryHeads), "blocks.1.attn.q", true),
        (Axis::Hidden, "blocks.1.ffn.down", true),
        (Axis::Hidden, "blocks.1.ffn.up", false),
    ] {
        let layer = Layer::new(name);
        let weight = if rows { layer.weight.clone() } else { layer.weight.t().to_owned() };
        let units = axis.size(&layer.spec);
        let each = weight.nrows() / units;
        let expected: Vec<f64> = (0..units).map(|unit| weight.slice(s![unit * each..(unit + 1) * each, ..]).mapv(f64::abs).sum()).collect();
        assert_near(&layer.scores(axis, Saliency::Magnitude, Aggregate::Sum), &expected, 1e-9, &format!("{axis}, {name}"));
    }
}

/// By time as it is measured here: a model that takes at most three quarters of it.
#[test]
fn a_target_in_milliseconds_is_measured() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/demo/model");
    let (spec, axes) = {
        let spec = runtime::open(&root, None).unwrap().spec().clone();
        let plan = PruneWidth { ratio: Some(0.2), multiple: 8, ..PruneWidth::default() };
        let axes = plan.axes(&spec);
        (spec, axes)
    };
    let latency = Latency::measure(&spec, &axes, (Activations::F32, 1), &Silent).unwrap();
    let whole = latency.of(&spec);
    assert!(whole > 0.0 && whole.is_finite(), "{whole} ms");
    let mut selection = Selection::whole(&spec);
    selection.layers.truncate(1);
    assert!(latency.of(&selection.apply(&spec).unwrap()) <= whole);
}

#[test]
fn a_run_that_was_stopped_ends_with_the_same_file() {
    let stage = "[stage.prune_width]\nratio = 0.3\nmultiple = 4\n[[stage]]\n[stage.prune_depth]\nlayers = 1";
    let (dir, parsed) = (data::fixture(GROUPED), RawRecipe::parse(&recipe(stage), Path::new("r.toml"), &[]).unwrap());
    let (_, whole) = run(stage, &dir).unwrap();
    let out = tempfile::tempdir().unwrap();
    let stops = stop::run(&parsed, &dir, out.path());
    assert!(stops > 2, "it was stopped {stops} times");
    let read = |dir: &Path| std::fs::read(dir.join("model.thimble")).unwrap();
    assert!(read(whole.path()) == read(out.path()));
}

/// Before any weight is read, with the reason and what to do.
#[test]
fn what_cannot_be_pruned_is_refused() {
    let cases = [
        (GROUPED, "prune_depth", "", "layers = 2, or which share"),
        (GROUPED, "prune_depth", "layers = 2\nratio = 0.5", "layers = 2, or which share"),
        (GROUPED, "prune_depth", "layers = 0", "take out 1 to"),
        (GROUPED, "prune_depth", "layers = 2", "take out 1 to"),
        (GROUPED, "prune_depth", "ratio = 1.5", "must be above 0 and below 1"),
        (GROUPED, "prune_depth", "layers = 1\nby = 'angle'", "unknown field `by`"),
        (GROUPED, "prune_width", "", "exactly one of ratio"),
        (GROUPED, "prune_width", "ratio = 0.3\nreconstruct = false\ndamp_percent = 0.1", "damp_percent is for reconstruct = true"),
        (GROUPED, "prune_width", "ratio = 0.3\nparameters = 1000", "exactly one of ratio"),
        (GROUPED, "prune_width", "ratio = 0.0", "must be above 0 and below 1"),
        (GROUPED, "prune_width", "ratio = 0.99\nmultiple = 4", "cannot be reached"),
        (GROUPED, "prune_width", "parameters = 100\nmultiple = 4", "cannot be reached"),
        (GROUPED, "prune_width", "ratio = 0.2\nmultiple = 4096", "set multiple ="),
        (GROUPED, "prune_width", "ratio = 0.2\nmultiple = 0", "multiple must be at least 1"),
        (GROUPED, "prune_width", "ratio = 0.2\nmultiple = 4\ncut = ['state']", "no state to take out"),
        (GROUPED, "prune_width", "widths = { heads = 0 }", "heads = 0 must be from 1"),
        (GROUPED, "prune_width", "widths = { heads = 99 }", "heads = 99 must be from 1"),
        (GROUPED, "prune_width", "widths = { query_heads = 3 }", "must be a multiple of the 2 key-value heads"),
        (GROUPED, "prune_width", "target_ms = -1.0", "positive number of milliseconds"),
        (GROUPED, "prune_width", "target_ms = 1.0\ncut = ['hidden']", "leave hidden out"),
        (GROUPED, "prune_width", "ratio = 0.2\nmultiple = 4\ncut = ['heads', 'query_heads']", "leave one of heads and query_heads out"),
        (GROUPED, "prune_width", "ratio = 0.2\nmultiple = 4\ncut = ['query_heads', 'heads']", "leave one of heads and query_heads out"),
        (GROUPED, "prune_width", "widths = { heads = 1, query_heads = 2 }", "leave one of heads and query_heads out"),
        (GROUPED, "prune_width", "widths = { heads = 1 }\ncut = ['ffn']", "leave cut out"),
        (GROUPED, "prune_width", "ratio = 0.2\ncut = []", "cut is empty"),
        (GROUPED, "prune_width", "ratio = 0.2\nbits_per_weight = 4.0", "is what bytes counts"),
        ("gemma-one-kv-head", "prune_width", "ratio = 0.2\nmultiple = 4\ncut = ['heads']", "must stay: leave heads out"),
        ("mobillama-shared", "prune_width", "ratio = 0.2\nmultiple = 4\ncut = ['ffn']", "share their weights"),
        ("mobilellm-layer-share", "prune_depth", "layers = 1", "share their weights"),
        ("bloom-six-heads", "prune_width", "ratio = 0.2\nmultiple = 4\ncut = ['hidden']", "none can go"),
    ];
    for (fixture, method, keys, says) in cases {
        let text = format!("[[stage]]\n[stage.{method}]\n{keys}\n");
        let refused = RawRecipe::parse(&text, Path::new("r.toml"), &[]).and_then(|recipe| recipe.resolve(model(fixture).spec()));
        let error = refused.expect_err(keys).to_string();
        assert!(error.contains(says), "{fixture}, {keys}: {says:?} is not in {error}");
    }
}
