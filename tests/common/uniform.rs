//! Numbers that Python makes likewise.

use ndarray::Array2;

/// In -1 to 1, multiples of 2⁻²³: `uniform` of python-compat/write_sparse.py.
pub fn uniform(seed: u64, shape: (usize, usize)) -> Array2<f64> {
    Array2::from_shape_fn(shape, |(row, column)| {
        let mut x = ((row * shape.1 + column) as u64 + (seed << 32) + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        x ^= x >> 31;
        (x >> 40) as f64 * 2f64.powi(-23) - 1.0
    })
}
