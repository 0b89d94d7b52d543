//! Matrices in float64, as textbooks have them.

use ndarray::Array2;

/// Gauss and Jordan, with pivots from the whole column.
pub fn inverse(matrix: &Array2<f64>) -> Array2<f64> {
    let n = matrix.nrows();
    let mut left = matrix.clone();
    let mut right = Array2::<f64>::eye(n);
    for i in 0..n {
        let pivot = (i..n).max_by(|&a, &b| left[[a, i]].abs().total_cmp(&left[[b, i]].abs())).unwrap();
        for matrix in [&mut left, &mut right] {
            for column in 0..n {
                matrix.swap([i, column], [pivot, column]);
            }
        }
        let scale = left[[i, i]];
        left.row_mut(i).mapv_inplace(|v| v / scale);
        right.row_mut(i).mapv_inplace(|v| v / scale);
        for row in (0..n).filter(|&row| row != i) {
            let factor = left[[row, i]];
            for matrix in [&mut left, &mut right] {
                let pivot_row = matrix.row(i).to_owned();
                matrix.row_mut(row).zip_mut_with(&pivot_row, |v, p| *v -= factor * p);
            }
        }
    }
    right
}
