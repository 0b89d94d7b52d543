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

use matrix::inverse;
use ndarray::{Array1, Array2, Axis as Along};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tch::{Kind, Tensor};
use thimble::Error;
use thimble::compress::calibrate::InputStatistics;
use thimble::compress::prune::gradients::Gradients;
use thimble::compress::prune::saliency::{Judge, Scores, Tallies, comparable};
use thimble::compress::prune::search::search;
use thimble::compress::solve::least_squares::{Paired, solve};
use thimble::compress::{Compute, TorchLogits};
use thimble::model::{Axis, DenseModel, Inner, LogitSource, ModelSpec, Parameter};
use thimble::pipeline::{Options, Unfinished, compress};
use thimble::progress::{Progress, Silent};
use thimble::quant::{Assembled, Weight, WeightStore};
use thimble::random::Random;
use thimble::recipe::{Aggregate, Normalise, PruneWidth, RawRecipe, Saliency};
use thimble::report::CompressReport;
use thimble::runtime;

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
            hessian: tensor(&self.hessian()),
            mean_magnitude: Tensor::from_slice(magnitudes.as_slice().unwrap()),
            greatest_magnitude: Tensor::zeros([self.x.ncols() as i64], (Kind::Double, tch::Device::Cpu)),
        };
        let mut tallies = Tallies::new(&self.spec, &[axis]);
        let judge = Judge { saliency, gradients: None, damp_percent: 1e-9 };
        judge.look(&self.parameter, &tensor(&self.weight), Some(&input), &mut tallies).unwrap();
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
    };
    let places = Tensor::from_slice(&stay.iter().map(|&i| i as i64).collect::<Vec<_>>());
    for (damp, with_bias) in [(0.01, false), (0.5, true), (1e-6, true)] {
        let given = with_bias.then(|| tensor(&bias).view(-1));
        let (found, found_bias) = solve(&tensor(&weight), given.as_ref(), &places, &paired, damp).unwrap();
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
        let square = |m: &Array2<f64>| m.iter().map(|v| v * v).sum::<f64>();
        let error = (square(&residual) / square(&x.dot(&weight.t()))).sqrt();
        assert_near(&[paired.relative_error(&tensor(&weight), &found)], &[error], 1e-6, "relative error");
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
    let gradients = Gradients::of(&model, &sequences, compute, &Silent).unwrap();
    let weights: Vec<(String, Weight)> =
        model.spec().parameters().into_iter().map(|p| (p.name.clone(), model.weight(&p.name).unwrap())).collect();
    for name in ["blocks.0.attn.k", "blocks.1.ffn.down", "embeddings"] {
        let numbers = model.weight(name).unwrap().to_f32().into_owned();
        let shape = model.weight(name).unwrap().shape();
        let flat = Tensor::from_slice(&numbers).view([shape[0] as i64, shape[1] as i64]);
        let salience = |by| array(&gradients.salience(name, &flat, by).unwrap()).into_raw_vec_and_offset().0;
        let (first, second) = (salience(Saliency::Taylor), salience(Saliency::TaylorSecond));
        let greatest = (0..numbers.len()).max_by(|a, b| first[*a].total_cmp(&first[*b])).unwrap();
        let moved = |by: f32, sequences: &[Vec<u32>]| {
            let mut numbers = numbers.clone();
            numbers[greatest] += by;
            let changed = weights.iter().map(|(other, weight)| match other == name {
                true => (other.clone(), Weight::from_f32(name, shape.clone(), &numbers)),
                false => (other.clone(), weight.clone()),
            });
            loss(Arc::new(Assembled::new(model.spec().clone(), changed)), sequences)
        };
        let step = 1f32 / 64.0;
        let slope = |sequences: &[Vec<u32>]| (moved(step, sequences) - moved(-step, sequences)) / (2.0 * f64::from(step));
        let weight = f64::from(numbers[greatest]);
        assert_near(&[first[greatest]], &[(weight * slope(&sequences)).abs()], 2e-3, name);
        let fisher = sequences.iter().map(|s| slope(std::slice::from_ref(s)).powi(2)).sum::<f64>() / 3.0;
        let expected = (weight * slope(&sequences) - 0.5 * weight * weight * fisher).abs();
        assert!((second[greatest] - expected).abs() < 2e-3 * first[greatest], "{name}: {} for {expected}", second[greatest]);
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
            let widths: Vec<usize> = smaller.blocks.iter().map(|block| block.ffn.width).collect();
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
fn both_stages_run_on_every_family() {
    for (name, dir) in data::fixtures() {
        let model = DenseModel::open_hugging_face(&dir).unwrap();
        let spec = model.spec();
        let state = spec.cuttable().contains(&Axis::Block(0, Inner::State));
        let cut = if state { "['ffn', 'state']" } else { "['ffn']" };
        for stage in [format!("[stage.prune_width]\nratio = 0.2\nmultiple = 4\ncut = {cut}"), "[stage.prune_depth]\nlayers = 1".into()] {
            match run(&stage, &dir) {
                Ok((report, out)) => {
                    let pruning = report.stages[0].pruning.as_ref().unwrap();
                    let smaller = runtime::open(out.path(), None).unwrap();
                    assert_eq!(smaller.spec().parameter_count(), pruning.parameters_after, "{name}");
                    assert!(pruning.parameters_after < pruning.parameters_before && report.after.perplexity.is_finite(), "{name}: {stage}");
                }
                Err(error) => {
                    assert!(spec.shares_weights() && error.to_string().contains("share their weights"), "{name}: {stage}: {error}")
                }
            }
        }
    }
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

#[test]
fn layers_are_chosen_in_three_ways() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/demo");
    for by in ["block_influence", "angular_distance", "perplexity"] {
        let (report, out) = run(&format!("[stage.prune_depth]\nlayers = 1\nsaliency = '{by}'"), &root.join("model")).unwrap();
        let pruning = report.stages[0].pruning.as_ref().unwrap();
        let scores = &pruning.layer_scores;
        let least = (0..scores.len()).min_by(|a, b| scores[*a].total_cmp(&scores[*b])).unwrap();
        assert_eq!(pruning.layers_out, [least], "{by}: {scores:?}");
        let before = runtime::open(&root.join("model"), None).unwrap().spec().blocks.len();
        assert_eq!(runtime::open(out.path(), None).unwrap().spec().blocks.len(), before - 1);
    }
}

/// Stops a run after so many steps.
struct Stop(AtomicU64);

impl Progress for Stop {
    fn begin(&self, _what: &str, _steps: u64) {}
    fn advance(&self, steps: u64) {
        let left = self.0.load(Ordering::Relaxed);
        self.0.store(left.saturating_sub(steps), Ordering::Relaxed);
    }
    fn end(&self) {}
    fn is_interrupted(&self) -> bool {
        self.0.load(Ordering::Relaxed) == 0
    }
}

#[test]
fn a_run_that_was_stopped_ends_with_the_same_file() {
    let stage = "[stage.prune_width]\nratio = 0.3\nmultiple = 4\n[[stage]]\n[stage.prune_depth]\nlayers = 1";
    let (dir, parsed) = (data::fixture(GROUPED), RawRecipe::parse(&recipe(stage), Path::new("r.toml"), &[]).unwrap());
    let (_, whole) = run(stage, &dir).unwrap();
    let out = tempfile::tempdir().unwrap();
    let options = Options { out: out.path(), compute: Compute::CPU, threads: 0, unfinished: Unfinished::Resume };
    let mut stops = 0;
    while let Err(error) = compress(&parsed, runtime::open(&dir, None).unwrap(), &options, &Stop(AtomicU64::new(2 + 7 * stops))) {
        assert!(matches!(error, Error::Interrupted), "{error}");
        stops += 1;
    }
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
