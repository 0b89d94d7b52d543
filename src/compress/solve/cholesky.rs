//! The inverse Hessian's upper Cholesky factor, damped as far as it must be.

use crate::error::{Error, Result};
use tch::{Kind, Tensor};

/// What [`inverse_factor`] found.
pub struct InverseFactor {
    /// Upper triangular U with UᵀU = H⁻¹, `[n, n]`.
    pub upper: Tensor,
    /// The damping that was used, relative to the mean of the diagonal.
    pub damp_percent: f64,
}

/// Factors the inverse of a Hessian `[n, n]` with `damp_percent` of its mean
/// diagonal added; where that is not positive definite, with ten times as much,
/// and so on. Dead columns must have been taken care of.
///
/// Source: GPTQ (Frantar et al. 2022), section 3.3, step 3.
pub fn inverse_factor(hessian: &Tensor, damp_percent: f64) -> Result<InverseFactor> {
    let mean = hessian.diag(0).mean(Kind::Double).double_value(&[]);
    if !mean.is_finite() {
        return Err(Error::Overflow("the activations that were calibrated on are not finite: the model overflows on this text".into()));
    }
    let mut damp = damp_percent;
    while damp <= 100.0 {
        if let Some(upper) = try_factor(hessian, damp * mean) {
            return Ok(InverseFactor { upper, damp_percent: damp });
        }
        damp *= 10.0;
    }
    Err(Error::Environment(format!(
        "the Hessian is not positive definite even with a hundred times its mean diagonal added (from {damp_percent})"
    )))
}

fn try_factor(hessian: &Tensor, damp: f64) -> Option<Tensor> {
    let damped = hessian + Tensor::eye(hessian.size()[0], (hessian.kind(), hessian.device())) * damp;
    let factor = |matrix: &Tensor, upper: bool| {
        let (factor, info) = matrix.f_linalg_cholesky_ex(upper, false).ok()?;
        (info.int64_value(&[]) == 0 && factor.isfinite().all().int64_value(&[]) == 1).then_some(factor)
    };
    let lower = factor(&damped, false)?;
    factor(&lower.cholesky_inverse(false), true)
}
