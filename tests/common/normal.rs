//! Normal numbers.

use ndarray::Array2;
use thimble::random::Random;

/// A stream's, from the second on.
pub fn normal(random: Random, shape: (usize, usize)) -> Array2<f64> {
    let mut counter = 0;
    Array2::from_shape_simple_fn(shape, || {
        counter += 1;
        random.normal(counter)
    })
}
