//! Normal numbers.

use ndarray::Array2;
use thimble::random::Random;

/// By Box and Muller, from the stream's first numbers on.
pub fn normal(random: Random, shape: (usize, usize)) -> Array2<f64> {
    let mut counter = 0;
    Array2::from_shape_simple_fn(shape, || {
        counter += 2;
        let (u, v) = (1.0 - random.uniform(counter), random.uniform(counter + 1));
        (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
    })
}
