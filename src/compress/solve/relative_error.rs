//! What a layer's outputs lose.

use tch::{Kind, Tensor};

/// ‖(W − Ŵ)X‖ / ‖WX‖ from the Hessian of X, both weights `[out, in]`.
pub fn relative_error(weight: &Tensor, compressed: &Tensor, hessian: &Tensor) -> f64 {
    let energy = |w: &Tensor| (w.matmul(hessian) * w).sum(Kind::Double).double_value(&[]).max(0.0);
    let whole = energy(weight);
    if whole == 0.0 { 0.0 } else { (energy(&(weight - compressed)) / whole).sqrt() }
}
