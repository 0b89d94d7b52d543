//! Ternary codes and scales in turn, with explicit inverses and systems, in float64.

#[path = "matrix.rs"]
mod matrix;

use half::f16;
use matrix::inverse;
use ndarray::{Array1, Array2, s};
use thimble::quant::ternary::Share;

/// The best of all turns, and of the mean magnitudes before them.
pub fn solve(weight: &Array2<f64>, hessian: &Array2<f64>, share: Share, damp_percent: f64, rounds: usize) -> Array2<f64> {
    let (rows, columns) = weight.dim();
    let width = match share {
        Share::Group(width) => width,
        Share::Tensor | Share::Row => columns,
    };
    let group = |column: usize| column / width;
    let mean = |values: Vec<f64>| stored(values.iter().map(|v| v.abs()).sum::<f64>() / values.len() as f64);
    let mut scales = Array2::from_shape_fn((rows, columns.div_ceil(width)), |(row, g)| match share {
        Share::Tensor => mean(weight.iter().copied().collect()),
        _ => mean((0..columns).filter(|&c| group(c) == g).map(|c| weight[[row, c]]).collect()),
    });
    let error = |q: &Array2<f64>| ((weight - q).dot(hessian) * (weight - q)).sum();
    let decoded =
        |codes: &Array2<f64>, scales: &Array2<f64>| Array2::from_shape_fn((rows, columns), |(r, c)| codes[[r, c]] * scales[[r, group(c)]]);
    let nearest = Array2::from_shape_fn((rows, columns), |(r, c)| code(weight[[r, c]], scales[[r, group(c)]]));
    let mut best = decoded(&nearest, &scales);
    for _ in 0..rounds {
        let codes = codes(weight, hessian, damp_percent, |row, column| scales[[row, group(column)]]);
        scales = match share {
            Share::Tensor => {
                let by = |a: &Array2<f64>, b: &Array2<f64>| (a.dot(hessian) * b).sum();
                scales.mapv(|_| stored(by(&codes, weight) / by(&codes, &codes)))
            }
            _ => of_rows(weight, hessian, &codes, group, scales.ncols()),
        };
        let turn = decoded(&codes, &scales);
        if error(&turn) < error(&best) {
            best = turn;
        }
    }
    best
}

fn stored(scale: f64) -> f64 {
    f16::from_f64(scale).to_f64()
}

fn code(value: f64, scale: f64) -> f64 {
    (value / scale).round_ties_even().clamp(-1.0, 1.0)
}

/// Column by column by falling second moment, the inverse of what is free anew for each.
fn codes(weight: &Array2<f64>, hessian: &Array2<f64>, damp_percent: f64, scale: impl Fn(usize, usize) -> f64) -> Array2<f64> {
    let columns = weight.ncols();
    let mut free: Vec<usize> = (0..columns).collect();
    free.sort_by(|&a, &b| hessian[[b, b]].total_cmp(&hessian[[a, a]]));
    let mut damped = hessian.clone();
    let damp = damp_percent * hessian.diag().mean().unwrap();
    damped.diag_mut().mapv_inplace(|v| v + damp);
    let (mut weight, mut codes) = (weight.clone(), Array2::zeros(weight.dim()));
    while let Some(&column) = free.first() {
        let part = Array2::from_shape_fn((free.len(), free.len()), |(i, j)| damped[[free[i], free[j]]]);
        let inverse = inverse(&part);
        for row in 0..weight.nrows() {
            let scale = scale(row, column);
            codes[[row, column]] = code(weight[[row, column]], scale);
            let error = (weight[[row, column]] - codes[[row, column]] * scale) / inverse[[0, 0]];
            free.iter().zip(inverse.row(0)).for_each(|(&other, v)| weight[[row, other]] -= error * v);
        }
        free.remove(0);
    }
    codes
}

/// The normal equations of each row, by an explicit inverse.
fn of_rows(weight: &Array2<f64>, hessian: &Array2<f64>, codes: &Array2<f64>, group: impl Fn(usize) -> usize, groups: usize) -> Array2<f64> {
    let mut scales = Array2::zeros((weight.nrows(), groups));
    for row in 0..weight.nrows() {
        let parts: Vec<Array1<f64>> =
            (0..groups).map(|g| Array1::from_shape_fn(weight.ncols(), |c| if group(c) == g { codes[[row, c]] } else { 0.0 })).collect();
        let left = Array2::from_shape_fn((groups, groups), |(g, h)| parts[g].dot(&hessian.dot(&parts[h])));
        let right = Array1::from_shape_fn(groups, |g| parts[g].dot(&hessian.dot(&weight.row(row))));
        scales.slice_mut(s![row, ..]).assign(&inverse(&left).dot(&right).mapv(stored));
    }
    scales
}
