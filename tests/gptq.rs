//! GPTQ against a naive optimal-brain quantiser in float64.
#![cfg(feature = "torch")]

#[path = "common/normal.rs"]
mod normal;
#[path = "naive/obq.rs"]
mod obq;

use ndarray::{Array2, Axis};
use normal::normal;
use obq::Problem;
use rayon::prelude::*;
use tch::{Kind, Tensor};
use thimble::compress::quantize::{TargetLayer, gptq};
use thimble::compress::solve::relative_error::{quadratic_form, relative_error};
use thimble::quant::quant_params::{GridChoice, GridSearch, QuantParams};
use thimble::quant::rounding::Rounding;
use thimble::quant::{Code, DataType, Scheme};
use thimble::random::Random;
use thimble::recipe::{ActOrder, GptqOptions};

const DAMP: f64 = 0.01;

/// Activations with correlated columns of very different size, as real ones are.
fn hessian(seed: u64, columns: usize) -> Array2<f64> {
    let mixing = normal(Random::new(seed, 2), (columns, columns));
    let mut x = normal(Random::new(seed, 3), (3 * columns + 5, columns)).dot(&mixing);
    for (i, mut column) in x.axis_iter_mut(Axis(1)).enumerate() {
        column.mapv_inplace(|v| v * (0.2 + (i % 7) as f64));
    }
    x.t().dot(&x) * (2.0 / x.nrows() as f64)
}

fn tensor(array: &Array2<f64>) -> Tensor {
    Tensor::from_slice(&array.iter().copied().collect::<Vec<_>>()).view([array.nrows() as i64, array.ncols() as i64])
}

fn layer(weight: &Array2<f64>, scheme: Scheme) -> TargetLayer {
    TargetLayer { name: "w".into(), scheme, weight: tensor(weight) }
}

/// A layer, and how it is to be solved.
struct Case {
    rows: usize,
    columns: usize,
    group_size: usize,
    bits: usize,
    symmetric: bool,
    data_type: DataType,
    options: GptqOptions,
}

fn cases() -> Vec<Case> {
    use ActOrder::{GroupAware, Off, On};
    let shapes = [
        (7, 64, 32, 4, false, Off),
        (5, 100, 32, 4, false, On),
        (3, 172, 64, 3, true, Off),
        (4, 172, 64, 2, false, On),
        (6, 160, 128, 4, true, On),
        (2, 140, 0, 3, false, On),
        (3, 96, 0, 4, false, Off),
        (2, 210, 160, 4, false, On),
        (1, 45, 32, 2, true, Off),
        (4, 172, 64, 3, false, GroupAware),
        (3, 130, 32, 4, true, GroupAware),
        (2, 210, 160, 4, false, GroupAware),
    ];
    let codebooks = [
        (5, 100, 32, 4, true, On, DataType::Normal),
        (4, 172, 64, 4, false, GroupAware, DataType::Normal),
        (3, 96, 0, 3, true, Off, DataType::float(3)),
        (2, 210, 160, 5, false, On, DataType::float(5)),
        (4, 100, 64, 4, true, On, DataType::Quantile),
        (2, 130, 32, 8, false, Off, DataType::Dynamic),
    ];
    let shapes = shapes.map(|(rows, columns, group, bits, symmetric, order)| (rows, columns, group, bits, symmetric, order, DataType::Int));
    let published = GridChoice::LeastError(PUBLISHED);
    let kinds = [(false, GridChoice::MinMax), (true, GridChoice::MinMax), (false, search()), (true, search()), (false, published)];
    let case = |(rows, columns, group_size, bits, symmetric, act_order, data_type)| {
        kinds.map(|(static_groups, grid)| Case {
            rows,
            columns,
            group_size,
            bits,
            symmetric,
            data_type,
            options: GptqOptions { act_order, static_groups, grid, ..GptqOptions::default() },
        })
    };
    shapes.into_iter().chain(codebooks).flat_map(case).collect()
}

fn search() -> GridChoice {
    GridChoice::LeastError(GridSearch::default())
}

/// The search of GPTQ's `quant.py`.
const PUBLISHED: GridSearch = GridSearch { steps: 100, norm: 2.4, ..GridSearch::DEFAULT };

/// In every order, with quantisation parameters fixed at first or as their group is reached, of all
/// values or searched.
#[test]
fn equals_optimal_brain_quantisation_with_explicit_inverses() {
    let difference = |(seed, Case { rows, columns, group_size, bits, symmetric, data_type, options }): (usize, Case)| {
        let mut greatest = 0.0f64;
        let code = if data_type.is_int() { Code::from_bits(bits) } else { Code::of_codebook(bits) }.unwrap();
        let scheme = Scheme { data_type, ..Scheme::integers(code, group_size, symmetric) };
        let weight = normal(Random::new(seed as u64, 1), (rows, columns));
        let hessian = hessian(seed as u64, columns);
        let outcome = gptq::<f64>(&[layer(&weight, scheme)], tensor(&hessian), options, "p").unwrap().remove(0);
        assert!(outcome.remarks.is_empty());

        let group = if group_size == 0 { columns } else { group_size };
        let order = expected_order(&hessian, options.act_order, group);
        let stored = outcome.tensor.permutation.as_ref().map(|p| p.order.iter().map(|&i| i as usize).collect::<Vec<_>>());
        // Groups of the order that is stored: only then must it be, and not where there is but one.
        let by_order = options.act_order == ActOrder::On && !options.static_groups && group < columns;
        assert_eq!(stored, by_order.then(|| order.clone()));
        let group: Vec<usize> = order.iter().enumerate().map(|(i, &column)| if by_order { i } else { column } / group).collect();

        let mut damped = hessian.select(Axis(0), &order).select(Axis(1), &order);
        let damp = DAMP * hessian.diag().mean().unwrap();
        damped.diag_mut().mapv_inplace(|v| v + damp);
        let (low, high) = code.range();
        let naive = obq::solve(&Problem {
            weight: weight.select(Axis(1), &order),
            hessian: damped,
            levels: high - low,
            codebook: outcome.tensor.codebook.iter().flat_map(|codebook| codebook.values()).map(|v| f64::from(*v)).collect(),
            group,
            symmetric,
            fixed: options.static_groups,
            searched: match options.grid {
                GridChoice::MinMax => None,
                GridChoice::LeastError(search) => Some((search.steps, search.norm)),
            },
        });

        // Decoded in f64, where every value is exact, or next to it where a codebook has
        // fractions.
        let tensor = &outcome.tensor;
        let width = scheme.group_columns(columns);
        for (solved, &column) in order.iter().enumerate() {
            let place = if by_order { solved } else { column };
            for row in 0..rows {
                let fast: f64 = tensor.quant_params(row, place / width).decode_by(tensor.codebook.as_deref(), tensor.codes[[row, place]]);
                greatest = greatest.max((fast - naive[[row, solved]]).abs());
            }
        }
        greatest
    };
    let greatest = cases().into_par_iter().enumerate().map(difference).reduce(|| 0.0, f64::max);
    println!("greatest difference {greatest:.1e}");
    assert!(greatest <= 1e-9, "{greatest}");
}

/// Columns by what the options say, written out.
fn expected_order(hessian: &Array2<f64>, by: ActOrder, group: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..hessian.nrows()).collect();
    let moment = |i: usize| hessian[[i, i]];
    let mean = |i: usize| {
        let members: Vec<f64> = (0..hessian.nrows()).filter(|j| j / group == i / group).map(moment).collect();
        members.iter().sum::<f64>() / members.len() as f64
    };
    match by {
        ActOrder::Off => (),
        ActOrder::On => order.sort_by(|&a, &b| moment(b).total_cmp(&moment(a))),
        ActOrder::GroupAware => order.sort_by(|&a, &b| {
            let groups = mean(b).total_cmp(&mean(a)).then((a / group).cmp(&(b / group)));
            groups.then(moment(b).total_cmp(&moment(a)))
        }),
    }
    order
}

/// The result of a grid search is never worse than the range of all values, by its own measure, and
/// importance moves it towards what counts.
#[test]
fn searched_grids_lower_the_error_they_are_judged_by() {
    let scheme = Scheme::integers(Code::Int3, 0, false);
    let found =
        |choice, values: &[f64], importance: Option<&[f64]>| Rounding { scheme, codebook: None, choice }.quant_params(values, importance);
    let norm = GridSearch::DEFAULT.norm;
    let mut better = 0;
    for seed in 0..20 {
        let values = normal(Random::new(seed, 1), (1, 64)).mapv(|v| v * v * v).into_raw_vec_and_offset().0;
        let importance: Vec<f64> = normal(Random::new(seed, 2), (1, 64)).iter().map(|v| v * v).collect();
        let error = |params: QuantParams, importance: &[f64], norm: f64| -> f64 {
            let rounded = |v: f64| params.decode::<f64>(params.encode(scheme, v));
            values.iter().zip(importance).map(|(&v, i)| i * (rounded(v) - v).abs().powf(norm)).sum()
        };
        let even = vec![1.0; 64];
        let plain = found(GridChoice::MinMax, &values, None);
        let wide = GridSearch { zero_points: 2, ..GridSearch::default() };
        let [narrow, wide] = [GridSearch::default(), wide].map(|s| found(GridChoice::LeastError(s), &values, None));
        assert!(error(narrow, &even, norm) <= error(plain, &even, norm), "seed {seed}");
        better += i32::from(error(narrow, &even, norm) < error(plain, &even, norm));
        assert!(error(wide, &even, norm) <= error(narrow, &even, norm), "seed {seed}");
        let weighted = found(search(), &values, Some(&importance));
        assert!(error(weighted, &importance, norm) <= error(narrow, &importance, norm), "seed {seed}");
    }
    assert!(better >= 15, "a search finds better parameters nearly always: {better} of 20");
    // Nothing to search.
    for values in [vec![0.0; 5], vec![-2.5; 5], vec![3.0]] {
        let params = found(search(), &values, None);
        assert!(params.scale > half::f16::ZERO && params.scale.is_finite());
        let rounded: f64 = params.decode(params.encode(scheme, values[0]));
        assert!((rounded - values[0]).abs() < 2e-3, "{rounded} for {}", values[0]);
    }
}

/// In f32 a code may fall to the other side of a tie; the error must not.
#[test]
fn single_precision_loses_nothing_that_matters() {
    for seed in 0..4 {
        let (weight, hessian) = (normal(Random::new(seed, 1), (16, 256)), hessian(seed, 256));
        let scheme = Scheme::integers(Code::Int3, 64, false);
        let options = GptqOptions::default();
        let (weight, hessian_tensor) = (layer(&weight, scheme).weight, tensor(&hessian));
        let error = |dequantized: Array2<f32>| {
            let q = tensor(&dequantized.mapv(f64::from));
            relative_error(&weight, &q, &hessian_tensor)
        };
        let solve = |kind| TargetLayer { name: "w".into(), scheme, weight: weight.to_kind(kind) };
        let single = error(gptq::<f32>(&[solve(Kind::Float)], hessian_tensor.copy(), options, "p").unwrap()[0].tensor.dequantize());
        let double = error(gptq::<f64>(&[solve(Kind::Double)], hessian_tensor.copy(), options, "p").unwrap()[0].tensor.dequantize());
        println!("relative error {single:.5} in f32, {double:.5} in f64");
        assert!((single / double - 1.0).abs() < 0.02, "{single} against {double}");
    }
}

/// Columns of inputs that calibration never met are rounded to nearest by the quantisation parameters of their groups,
/// and all others are what optimal-brain quantisation makes of them alone: no error is made good by
/// a column that meets nothing, nor by its leave.
#[test]
fn columns_of_inputs_that_were_never_met_are_rounded_plainly() {
    let dead = [0, 17, 40, 79];
    let (weight, mut hessian) = (normal(Random::new(9, 1), (4, 80)), hessian(9, 80));
    for &column in &dead {
        hessian.row_mut(column).fill(0.0);
        hessian.column_mut(column).fill(0.0);
    }
    let scheme = Scheme::integers(Code::Int4, 32, false);
    let live: Vec<usize> = (0..80).filter(|column| !dead.contains(column)).collect();
    for act_order in [ActOrder::Off, ActOrder::On, ActOrder::GroupAware] {
        let options = GptqOptions { act_order, static_groups: true, grid: GridChoice::MinMax, ..GptqOptions::default() };
        let outcome = gptq::<f64>(&[layer(&weight, scheme)], tensor(&hessian), options, "p").unwrap().remove(0);
        // Parameters are those of the weight as it was, those of plain rounding.
        let plain = thimble::quant::rounding::round_to_nearest(weight.mapv(|v| v as f32).view(), scheme);
        let solved = outcome.tensor.dequantize();
        for &column in &dead {
            assert_eq!(solved.column(column), plain.dequantize().column(column), "{act_order:?}, column {column}");
        }
        // The live ones alone, by the quantisation parameters of their groups, in float64.
        let damp = DAMP * live.iter().map(|&i| hessian[[i, i]]).sum::<f64>() / live.len() as f64;
        let mut order = live.clone();
        let moment = |i: &usize| hessian[[*i, *i]];
        let group_mean = |i: &usize| {
            // A column that meets nothing counts as the mean of the others.
            let mean = damp / DAMP;
            let members: Vec<f64> =
                (0..80).filter(|j| j / 32 == i / 32).map(|j| if dead.contains(&j) { mean } else { moment(&j) }).collect();
            members.iter().sum::<f64>() / members.len() as f64
        };
        match act_order {
            ActOrder::Off => (),
            ActOrder::On => order.sort_by(|a, b| moment(b).total_cmp(&moment(a))),
            ActOrder::GroupAware => {
                order.sort_by(|a, b| {
                    group_mean(b).total_cmp(&group_mean(a)).then((a / 32).cmp(&(b / 32))).then(moment(b).total_cmp(&moment(a)))
                });
            }
        }
        let mut values = weight.select(Axis(1), &order);
        let mut damped = hessian.select(Axis(0), &order).select(Axis(1), &order);
        damped.diag_mut().mapv_inplace(|v| v + damp);
        for i in 0..order.len() {
            let inverse = obq::inverse(&damped.slice(ndarray::s![i.., i..]).to_owned());
            for row in 0..4 {
                let params = plain.quant_params(row, order[i] / 32);
                let rounded: f64 = params.decode(params.encode(scheme, values[[row, i]]));
                let error = (values[[row, i]] - rounded) / inverse[[0, 0]];
                let update = inverse.row(0).mapv(|v| error * v);
                values.slice_mut(ndarray::s![row, i..]).zip_mut_with(&update, |value, u| *value -= u);
                let ours = f64::from(solved[[row, order[i]]]);
                assert!((ours - rounded).abs() < 1e-6, "{act_order:?}, column {}: {ours}, not {rounded}", order[i]);
            }
        }
        let lost = quadratic_form(&(tensor(&weight) - tensor(&solved.mapv(f64::from))), &tensor(&hessian));
        assert!((outcome.squared_error / lost - 1.0).abs() < 1e-5, "{act_order:?}: {} is lost, {} said", lost, outcome.squared_error);
        let error = |q: &Array2<f32>| relative_error(&tensor(&weight), &tensor(&q.mapv(f64::from)), &tensor(&hessian));
        let (error, rtn) = (error(&solved), error(&plain.dequantize()));
        assert!(error < rtn, "{act_order:?}: {error} against {rtn} by rounding");
    }
}

/// q, k and v share one permutation.
#[test]
fn layers_of_one_input_share_the_permutation() {
    let hessian = hessian(3, 64);
    let scheme = Scheme::integers(Code::Int4, 32, false);
    let layers = [1, 2].map(|seed| layer(&normal(Random::new(seed, 1), (8, 64)), scheme));
    let options = GptqOptions::default();
    let outcomes = gptq::<f32>(&layers, tensor(&hessian), options, "blocks.0.attn.q.perm").unwrap();
    let [a, b] = [&outcomes[0], &outcomes[1]].map(|o| o.tensor.permutation.as_ref().unwrap());
    assert!(std::sync::Arc::ptr_eq(a, b));
    assert_eq!(a.name, "blocks.0.attn.q.perm");
}
