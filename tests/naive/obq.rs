//! Optimal Brain Quantization in a fixed order of columns, with an explicit
//! inverse for every column, in float64: GPTQ as its paper derives it (equation
//! 2), before any of the reformulations that make it fast.

#[path = "matrix.rs"]
mod matrix;

pub use matrix::inverse;
use ndarray::{Array1, Array2, s};

/// What the layer's squared error is made of, and what it is rounded to. Columns are
/// in the order they are solved in.
pub struct Problem {
    /// `[out, in]`
    pub weight: Array2<f64>,
    /// `[in, in]`, positive definite
    pub hessian: Array2<f64>,
    /// Codes 0 … levels
    pub levels: i32,
    /// The numbers that codes stand for where they are none themselves; otherwise empty
    pub codebook: Vec<f64>,
    /// Group of each column
    pub group: Vec<usize>,
    /// Zero points in the middle, no offsets
    pub symmetric: bool,
    /// Whether grids are those of the weight as it was given
    pub fixed: bool,
    /// In how many steps, and by what norm, grids are searched, if they are (see [`least_error`])
    pub searched: Option<(u32, f64)>,
}

/// The quantised weight in the order of columns it was given.
pub fn solve(problem: &Problem) -> Array2<f64> {
    let (rows, columns) = problem.weight.dim();
    let mut weight = problem.weight.clone();
    let mut solved = Array2::zeros((rows, columns));
    let mut grids = vec![(1.0, 0.0); rows];
    for i in 0..columns {
        let group = problem.group[i];
        if problem.fixed || i == 0 || problem.group[i - 1] != group {
            let members: Vec<usize> = (0..columns).filter(|&j| problem.group[j] == group).collect();
            let source = if problem.fixed { &problem.weight } else { &weight };
            for (row, grid) in grids.iter_mut().enumerate() {
                let values = members.iter().map(|&j| source[[row, j]]).collect();
                *grid = match problem.searched {
                    Some(search) => least_error(problem, values, search),
                    None => spanning(problem, &values, 1.0),
                };
            }
        }
        // The inverse of the Hessian of the columns that are still free.
        let inverse = inverse(&problem.hessian.slice(s![i.., i..]).to_owned());
        for row in 0..rows {
            let (scale, zero) = grids[row];
            solved[[row, i]] = rounded(problem, weight[[row, i]], scale, zero);
            let error = (weight[[row, i]] - solved[[row, i]]) / inverse[[0, 0]];
            let update: Array1<f64> = inverse.row(0).mapv(|v| error * v);
            weight.slice_mut(s![row, i..]).zip_mut_with(&update, |w, u| *w -= u);
        }
    }
    solved
}

/// `zero`: the zero point, or the offset where there is a codebook.
fn rounded(problem: &Problem, value: f64, scale: f64, zero: f64) -> f64 {
    if !problem.codebook.is_empty() {
        let distance = |entry: &f64| (scale * entry + zero - value).abs();
        return scale * problem.codebook.iter().copied().min_by(|a, b| distance(a).total_cmp(&distance(b))).unwrap() + zero;
    }
    let code = ((value / scale).round_ties_even() + zero).clamp(0.0, f64::from(problem.levels));
    scale * (code - zero)
}

/// Scale rounded to f16, and zero point or offset, over a share of the span of values
/// with zero, or the offset, among them.
fn spanning(problem: &Problem, values: &[f64], share: f64) -> (f64, f64) {
    let f16 = |v: f64| half::f16::from_f64(v).to_f64();
    if let (Some(first), Some(last)) = (problem.codebook.first(), problem.codebook.last()) {
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        let offset = if problem.symmetric { 0.0 } else { f16(mean) };
        let farthest = values.iter().map(|v| (v - offset).abs()).fold(0.0, f64::max);
        return (f16(share * farthest / first.abs().max(*last)), offset);
    }
    let low = share * values.iter().copied().fold(0.0, f64::min);
    let high = share * values.iter().copied().fold(0.0, f64::max);
    let levels = f64::from(problem.levels);
    let span = if problem.symmetric { 2.0 * high.max(-low) } else { high - low };
    let scale = f16(span / levels);
    let zero = if problem.symmetric { (levels + 1.0) / 2.0 } else { (-low / scale).round_ties_even().min(levels) };
    (scale, zero)
}

/// The best of spans from the whole to a fifth, by the sum of powers of |error|: the
/// search of GPTQ's published `quant.py`, whose steps are 100, and whose norm is 2.4.
pub fn least_error(problem: &Problem, values: Vec<f64>, (steps, norm): (u32, f64)) -> (f64, f64) {
    let mut best = (f64::INFINITY, (1.0, 0.0));
    for i in 0..=4 * steps / 5 {
        let (scale, zero) = spanning(problem, &values, 1.0 - f64::from(i) / f64::from(steps));
        let error: f64 = values.iter().map(|&v| (rounded(problem, v, scale, zero) - v).abs().powf(norm)).sum();
        if error < best.0 {
            best = (error, (scale, zero));
        }
    }
    best.1
}
