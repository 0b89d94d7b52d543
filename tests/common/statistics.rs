//! Second moments of inputs, as calibration sums them.
#![allow(dead_code)] // each test file uses some of it

use ndarray::Array2;
use tch::{Kind, Tensor};
use thimble::compress::calibrate::InputStatistics;

/// An array as a tensor.
pub fn tensor(array: &Array2<f32>) -> Tensor {
    Tensor::from_slice(array.as_slice().unwrap()).view([array.nrows() as i64, array.ncols() as i64])
}

/// Statistics of inputs `[tokens, in]`.
pub fn statistics(x: &Array2<f32>) -> InputStatistics {
    let x = tensor(x);
    InputStatistics {
        tokens: x.size()[0] as f64,
        power: 1.0,
        hessian: x.tr().matmul(&x) * (2.0 / x.size()[0] as f64),
        mean_magnitude: x.abs().mean_dim(0, false, Kind::Float),
        greatest_magnitude: x.abs().amax(0, false),
    }
}
