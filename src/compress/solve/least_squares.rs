//! The weights of a layer that sees other inputs than before, nearest to what it made of
//! those.

use super::cholesky::inverse_factor;
use crate::error::Result;
use tch::{Kind, Tensor};

/// Sums over tokens of a layer's inputs as they were, `x` `[in]`, and as they are, `y`
/// `[left]`, in double precision.
pub struct Paired {
    /// How many tokens.
    pub tokens: f64,
    /// Σ x yᵀ `[in, left]`
    pub across: Tensor,
    /// Σ y yᵀ `[left, left]`
    pub products: Tensor,
    /// Σ x xᵀ `[in, in]`
    pub squares: Tensor,
    /// Σ x `[in]`
    pub before: Tensor,
    /// Σ y `[left]`
    pub after: Tensor,
}

impl Paired {
    /// ‖W x − W′ y‖ / ‖W x‖, biases aside.
    pub fn relative_error(&self, weight: &Tensor, solved: &Tensor) -> f64 {
        let [weight, solved] = [weight, solved].map(|w| w.to_kind(Kind::Double));
        let sum = |left: &Tensor, middle: &Tensor, right: &Tensor| (left.matmul(middle) * right).sum(Kind::Double).double_value(&[]);
        let whole = sum(&weight, &self.squares, &weight);
        let lost = whole - 2.0 * sum(&weight, &self.across, &solved) + sum(&solved, &self.products, &solved);
        if whole > 0.0 { (lost.max(0.0) / whole).sqrt() } else { 0.0 }
    }
}

/// Weight and bias, which is given where the layer has one, of what minimises
/// ‖W x + b − W′ y − b′‖² + λ ‖W′ − W₀‖², where W₀ `[out, left]` are the columns of
/// `weight` `[out, in]` that stay and λ is `damp_percent` of the mean of the diagonal of
/// Σ y yᵀ: ridge regression towards what the weights were. The bias is not damped.
pub fn solve(weight: &Tensor, bias: Option<&Tensor>, stay: &Tensor, paired: &Paired, damp_percent: f64) -> Result<(Tensor, Option<Tensor>)> {
    let Paired { tokens, across, products, squares: _, before, after } = paired;
    let weight = weight.to_kind(Kind::Double);
    let start = weight.index_select(1, stay);
    // With a bias the inputs' means are its business.
    let (across, products) = match bias {
        Some(_) => (across - before.outer(after) / *tokens, products - after.outer(after) / *tokens),
        None => (across.shallow_clone(), products.shallow_clone()),
    };
    // Inputs that are always zero, or the same, keep their weights.
    let dead = products.diagonal(0, 0, 1).le(0.0).to_kind(Kind::Double);
    let mean = products.diagonal(0, 0, 1).mean(Kind::Double).double_value(&[]).max(f64::MIN_POSITIVE);
    let upper = inverse_factor(&products + (dead * mean).diag(0), damp_percent)?.upper;
    let inverse = upper.tr().matmul(&upper);
    // W₀ and what it leaves.
    let left = weight.matmul(&across) - start.matmul(&products);
    let solved = start + left.matmul(&inverse);
    let bias = bias.map(|bias| bias.to_kind(Kind::Double) + (weight.matmul(before) - solved.matmul(after)) / *tokens);
    Ok((solved, bias))
}
