//! The inverse Hessian's upper Cholesky factor, damped as far as it must be.

use crate::error::{Error, Result};
use tch::{Kind, Tensor};

/// The factor of the inverse of a Hessian.
pub struct Factor {
    /// Upper triangular U with UᵀU = H⁻¹, `[n, n]`.
    pub upper: Tensor,
    /// What the Hessian was damped by.
    pub damping: Damping,
}

/// What the diagonal of a Hessian was raised by.
#[derive(Clone, Copy)]
pub struct Damping {
    /// Relative to its mean.
    pub percent: f64,
    /// As a number.
    pub added: f64,
}

impl Damping {
    /// What to say where more was needed than was asked for.
    pub fn raised_from(&self, damp_percent: f64) -> Option<String> {
        let raised = || format!("damping raised from {damp_percent} to {}: its Hessian is not positive definite", self.percent);
        (self.percent > damp_percent).then(raised)
    }
}

/// Factors the inverse of a Hessian `[n, n]` with `damp_percent` of its mean
/// diagonal added; where that is not positive definite, with ten times as much,
/// and so on. Dead columns must have been taken care of.
///
/// One factorisation is enough: with rows and columns in reverse, H = LLᵀ gives
/// H⁻¹ = L⁻ᵀL⁻¹, and the inverse of L turned back is the upper factor.
///
/// Source: GPTQ (Frantar et al. 2022), section 3.3, step 3, which inverts and factors
/// again.
pub fn inverse_factor(hessian: Tensor, damp_percent: f64) -> Result<Factor> {
    let reversed = hessian.flip([0, 1]);
    // Each of these is as large as the Hessian, and one is let go before the next.
    drop(hessian);
    inverse_factor_of_reversed(reversed, damp_percent)
}

/// The same of a Hessian whose rows and columns are in reverse.
pub fn inverse_factor_of_reversed(reversed: Tensor, damp_percent: f64) -> Result<Factor> {
    let mean = reversed.diag(0).mean(Kind::Double).double_value(&[]);
    if !mean.is_finite() {
        return Err(Error::Overflow("the activations that were calibrated on are not finite: the model overflows on this text".into()));
    }
    let (mut percent, mut added) = (damp_percent, 0.0);
    while percent <= 100.0 {
        let _ = reversed.diagonal(0, 0, 1).g_add_scalar_((percent - added) * mean);
        if let Some(lower) = cholesky(&reversed) {
            drop(reversed);
            // Turned before it is inverted: the inverse is as it is wanted.
            let upper = lower.flip([0, 1]);
            drop(lower);
            invert(&upper);
            return Ok(Factor { upper, damping: Damping { percent, added: percent * mean } });
        }
        (added, percent) = (percent, 10.0 * percent);
    }
    Err(Error::Environment(format!(
        "the Hessian is not positive definite even with a hundred times its mean diagonal added (from {damp_percent})"
    )))
}

/// The lower factor of a matrix that is positive definite.
fn cholesky(matrix: &Tensor) -> Option<Tensor> {
    let (factor, info) = matrix.f_linalg_cholesky_ex(false, false).ok()?;
    // The diagonal tells of all: each number of a row is taken off it, squared.
    (info.int64_value(&[]) == 0 && factor.diag(0).isfinite().all().int64_value(&[]) == 1).then_some(factor)
}

/// Turns an upper triangular matrix into its inverse, in place: a third of the work of
/// solving for the columns of the identity, and at most three quarters of its size beside it.
///
/// `[A B; 0 C]⁻¹ = [A⁻¹ −A⁻¹BC⁻¹; 0 C⁻¹]`, and A and C in the same way.
fn invert(upper: &Tensor) {
    const SMALL: i64 = 128;
    let n = upper.size()[0];
    if n <= SMALL {
        let one = Tensor::eye(n, (upper.kind(), upper.device()));
        let mut upper = upper.shallow_clone();
        return upper.copy_(&upper.linalg_solve_triangular(&one, true, true, false));
    }
    let (half, rest) = (n / 2, n - n / 2);
    let [a, c] = [(0, half), (half, rest)].map(|(start, count)| upper.narrow(0, start, count).narrow(1, start, count));
    let mut b = upper.narrow(0, 0, half).narrow(1, half, rest);
    let right = c.linalg_solve_triangular(&b.neg(), true, false, false);
    b.copy_(&a.linalg_solve_triangular(&right, true, true, false));
    invert(&a);
    invert(&c);
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Device;

    #[test]
    fn its_product_with_its_transpose_is_the_inverse() {
        tch::manual_seed(1);
        for width in [1, 2, 127, 129, 700] {
            let x = Tensor::randn([2 * width, width], (Kind::Double, Device::Cpu));
            let hessian = x.tr().matmul(&x);
            let upper = inverse_factor(hessian.copy(), 0.0).unwrap().upper;
            let one = Tensor::eye(width, (Kind::Double, Device::Cpu));
            let off = |matrix: Tensor| matrix.abs().max().double_value(&[]);
            assert!(off(upper.tr().matmul(&upper).matmul(&hessian) - one) < 1e-9, "width {width}");
            assert_eq!(off(upper.tril(-1)), 0.0, "width {width}");
        }
    }
}
