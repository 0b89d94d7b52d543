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

/// What λ may be, of the mean of the diagonal, where the text decides.
const DAMPINGS: [f64; 4] = [0.001, 0.01, 0.1, 1.0];

impl Paired {
    /// Of the tokens of both.
    pub fn plus(&self, more: &Self) -> Self {
        Self {
            tokens: self.tokens + more.tokens,
            across: &self.across + &more.across,
            products: &self.products + &more.products,
            squares: &self.squares + &more.squares,
            before: &self.before + &more.before,
            after: &self.after + &more.after,
        }
    }

    /// Of no tokens.
    pub fn zero(&self) -> Self {
        let [across, products, squares, before, after] =
            [&self.across, &self.products, &self.squares, &self.before, &self.after].map(Tensor::zeros_like);
        Self { tokens: 0.0, across, products, squares, before, after }
    }

    /// Of inputs less their means, which a bias makes up for.
    fn centred(&self) -> Self {
        let Self { tokens, across, products, squares, before, after } = self;
        Self {
            tokens: *tokens,
            across: across - before.outer(after) / *tokens,
            products: products - after.outer(after) / *tokens,
            squares: squares - before.outer(before) / *tokens,
            before: before.zeros_like(),
            after: after.zeros_like(),
        }
    }

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
pub fn solve(
    weight: &Tensor,
    bias: Option<&Tensor>,
    stay: &Tensor,
    paired: &Paired,
    damp_percent: f64,
) -> Result<(Tensor, Option<Tensor>)> {
    let weight = weight.to_kind(Kind::Double);
    let start = weight.index_select(1, stay);
    let centred = bias.is_some().then(|| paired.centred());
    let Paired { across, products, .. } = centred.as_ref().unwrap_or(paired);
    // Inputs that are always zero, or the same, keep their weights.
    let dead = products.diagonal(0, 0, 1).le(0.0).to_kind(Kind::Double);
    let mean = products.diagonal(0, 0, 1).mean(Kind::Double).double_value(&[]).max(f64::MIN_POSITIVE);
    let upper = inverse_factor(products + (dead * mean).diag(0), damp_percent)?.upper;
    // W₀ and what it leaves, through the inverse.
    let left = weight.matmul(across) - start.matmul(products);
    let solved = start + left.matmul(&upper.tr()).matmul(&upper);
    let bias = bias.map(|bias| bias.to_kind(Kind::Double) + (weight.matmul(&paired.before) - solved.matmul(&paired.after)) / paired.tokens);
    Ok((solved, bias))
}

/// The damping with which what is solved on one half of the text does best on the other;
/// the most there is where a half is empty.
pub fn damping(weight: &Tensor, has_bias: bool, stay: &Tensor, halves: &[Paired; 2]) -> Result<f64> {
    if halves.iter().any(|half| half.tokens == 0.0) {
        return Ok(DAMPINGS[DAMPINGS.len() - 1]);
    }
    let centred = halves.each_ref().map(|half| has_bias.then(|| half.centred()));
    let halves = [0, 1].map(|i| centred[i].as_ref().unwrap_or(&halves[i]));
    let mut best = (f64::INFINITY, 0.0);
    for damping in DAMPINGS {
        let mut error = 0.0;
        for (seen, unseen) in [(0, 1), (1, 0)] {
            error += halves[unseen].relative_error(weight, &solve(weight, None, stay, halves[seen], damping)?.0);
        }
        if error < best.0 {
            best = (error, damping);
        }
    }
    Ok(best.1)
}
