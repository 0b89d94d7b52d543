//! GPTQ against a naive optimal-brain quantiser in float64.
#![cfg(feature = "torch")]

#[path = "naive/obq.rs"]
mod obq;

use ndarray::{Array2, Axis};
use obq::Problem;
use tch::{Kind, Tensor};
use thimble::compress::quantize::{Site, gptq, relative_error};
use thimble::quant::{Code, Scheme};
use thimble::random::Random;
use thimble::recipe::GptqOptions;

const DAMP: f64 = 0.01;

/// Normal numbers (Box and Muller).
fn normal(random: Random, shape: (usize, usize)) -> Array2<f64> {
    let mut counter = 0;
    Array2::from_shape_simple_fn(shape, || {
        counter += 2;
        let (u, v) = (1.0 - random.uniform(counter), random.uniform(counter + 1));
        (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
    })
}

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

fn site(weight: &Array2<f64>, scheme: Scheme) -> Site {
    Site { name: "w".into(), scheme, weight: tensor(weight) }
}

#[test]
fn equals_optimal_brain_quantisation_with_explicit_inverses() {
    let mut greatest = 0.0f64;
    for (seed, (rows, columns, group_size, bits, symmetric, act_order)) in [
        (7, 64, 32, 4, false, false),
        (5, 100, 32, 4, false, true),
        (3, 172, 64, 3, true, false),
        (4, 172, 64, 2, false, true),
        (6, 160, 128, 4, true, true),
        (2, 200, 0, 3, false, true),
        (3, 96, 0, 4, false, false),
        (2, 330, 160, 4, false, true),
        (1, 45, 32, 2, true, false),
    ]
    .into_iter()
    .enumerate()
    {
        let code = Code::from_bits(bits).unwrap();
        let scheme = Scheme { code, group_size, symmetric };
        let weight = normal(Random::new(seed as u64, 1), (rows, columns));
        let hessian = hessian(seed as u64, columns);
        let options = GptqOptions { act_order, damp_percent: DAMP };
        let outcome = gptq::<f64>(&[site(&weight, scheme)], &tensor(&hessian), options, "p").unwrap().remove(0);
        assert!(outcome.remarks.is_empty());

        let order: Vec<usize> = match &outcome.tensor.permutation {
            Some(p) => p.order.iter().map(|&i| i as usize).collect(),
            None => (0..columns).collect(),
        };
        if act_order {
            let energy: Vec<f64> = order.iter().map(|&i| hessian[[i, i]]).collect();
            assert!(energy.windows(2).all(|pair| pair[0] >= pair[1]), "columns fall in energy");
        }
        let mut damped = hessian.select(Axis(0), &order).select(Axis(1), &order);
        let damp = DAMP * hessian.diag().mean().unwrap();
        damped.diag_mut().mapv_inplace(|v| v + damp);
        let group = if group_size == 0 { columns } else { group_size };
        let (low, high) = code.range();
        let naive = obq::solve(&Problem { weight: weight.select(Axis(1), &order), hessian: damped, levels: high - low, group, symmetric });

        // The model's order of columns, in f32: scales are f16 and codes small, so
        // that every value is exact.
        let fast = outcome.tensor.dequantize();
        for (stored, &column) in order.iter().enumerate() {
            for row in 0..rows {
                greatest = greatest.max((f64::from(fast[[row, column]]) - naive[[row, stored]]).abs());
            }
        }
    }
    println!("greatest difference {greatest:.1e}");
    assert!(greatest <= 1e-9, "{greatest}");
}

/// In f32 a code may fall to the other side of a tie; the error must not.
#[test]
fn single_precision_loses_nothing_that_matters() {
    for seed in 0..4 {
        let (weight, hessian) = (normal(Random::new(seed, 1), (16, 256)), hessian(seed, 256));
        let scheme = Scheme { code: Code::Int3, group_size: 64, symmetric: false };
        let options = GptqOptions { act_order: true, damp_percent: DAMP };
        let (weight, hessian_tensor) = (site(&weight, scheme).weight, tensor(&hessian));
        let error = |dequantized: Array2<f32>| {
            let q = tensor(&dequantized.mapv(f64::from));
            relative_error(&weight, &q, &hessian_tensor)
        };
        let solve = |kind| Site { name: "w".into(), scheme, weight: weight.to_kind(kind) };
        let single = error(gptq::<f32>(&[solve(Kind::Float)], &hessian_tensor, options, "p").unwrap()[0].tensor.dequantize());
        let double = error(gptq::<f64>(&[solve(Kind::Double)], &hessian_tensor, options, "p").unwrap()[0].tensor.dequantize());
        println!("relative error {single:.5} in f32, {double:.5} in f64");
        assert!((single / double - 1.0).abs() < 0.02, "{single} against {double}");
    }
}

/// Columns that calibration never moved are rounded to anything finite, and do
/// not spoil the others.
#[test]
fn dead_columns_cost_nothing() {
    let (weight, mut hessian) = (normal(Random::new(9, 1), (4, 80)), hessian(9, 80));
    for dead in [0, 17, 79] {
        hessian.row_mut(dead).fill(0.0);
        hessian.column_mut(dead).fill(0.0);
    }
    let scheme = Scheme { code: Code::Int4, group_size: 32, symmetric: false };
    for act_order in [false, true] {
        let options = GptqOptions { act_order, damp_percent: DAMP };
        let outcome = gptq::<f64>(&[site(&weight, scheme)], &tensor(&hessian), options, "p").unwrap().remove(0);
        let solved = outcome.tensor.dequantize();
        assert!(solved.iter().all(|v| v.is_finite()));
        assert!(solved.column(17).iter().all(|&v| v == 0.0), "a dead column is set to zero");
        let error = relative_error(&tensor(&weight), &tensor(&solved.mapv(f64::from)), &tensor(&hessian));
        let rounded = thimble::quant::grid::round_to_nearest(weight.mapv(|v| v as f32).view(), scheme).dequantize();
        let rtn = relative_error(&tensor(&weight), &tensor(&rounded.mapv(f64::from)), &tensor(&hessian));
        assert!(error < rtn, "act_order {act_order}: {error} against {rtn} by rounding");
    }
}

/// q, k and v share one permutation.
#[test]
fn sites_of_one_input_share_the_permutation() {
    let hessian = hessian(3, 64);
    let scheme = Scheme { code: Code::Int4, group_size: 32, symmetric: false };
    let sites = [1, 2].map(|seed| site(&normal(Random::new(seed, 1), (8, 64)), scheme));
    let options = GptqOptions { act_order: true, damp_percent: DAMP };
    let outcomes = gptq::<f32>(&sites, &tensor(&hessian), options, "blocks.0.attn.q.perm").unwrap();
    let [a, b] = [&outcomes[0], &outcomes[1]].map(|o| o.tensor.permutation.as_ref().unwrap());
    assert!(std::sync::Arc::ptr_eq(a, b));
    assert_eq!(a.name, "blocks.0.attn.q.perm");
}
