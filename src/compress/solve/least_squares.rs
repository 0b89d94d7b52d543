//! The weights of a layer that sees other inputs than before, nearest to what it made of
//! those.

use super::cholesky::{Factor, inverse_factor};
use crate::compress::Marks;
use crate::compress::tensors::to_vec64;
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
    /// Σ |y| `[left]`
    pub magnitudes: Tensor,
}

/// What λ may be, of the mean of the diagonal, where the text decides.
const DAMPINGS: [f64; 4] = [0.001, 0.01, 0.1, 1.0];

impl Paired {
    /// Adds other tokens.
    pub fn add(&mut self, more: &Self) {
        let Self { tokens, across, products, squares, before, after, magnitudes } = self;
        *tokens += more.tokens;
        let sums = [across, products, squares, before, after, magnitudes];
        let others = [&more.across, &more.products, &more.squares, &more.before, &more.after, &more.magnitudes];
        for (sum, more) in sums.into_iter().zip(others) {
            let _ = sum.g_add_(more);
        }
    }

    /// Of no tokens.
    pub fn zero(&self) -> Self {
        let [across, products, squares, before, after, magnitudes] =
            [&self.across, &self.products, &self.squares, &self.before, &self.after, &self.magnitudes].map(Tensor::zeros_like);
        Self { tokens: 0.0, across, products, squares, before, after, magnitudes }
    }

    /// The inputs that calibration did not meet.
    pub fn unseen(&self) -> Marks {
        Marks::new(self.tokens, &to_vec64(&self.magnitudes), &to_vec64(&self.products.diag(0)))
    }

    /// Of inputs less their means, which a bias makes up for.
    fn centred(&self) -> Self {
        let Self { tokens, across, products, squares, before, after, magnitudes } = self;
        Self {
            tokens: *tokens,
            magnitudes: magnitudes.copy(),
            across: across - before.outer(after) / *tokens,
            products: products - after.outer(after) / *tokens,
            squares: squares - before.outer(before) / *tokens,
            before: before.zeros_like(),
            after: after.zeros_like(),
        }
    }

    /// ‖W x + b − W′ y − b′‖ / ‖W x‖ of what [`solve`] finds, where a bias makes the means
    /// of both the same.
    pub fn relative_error_of(&self, weight: &Tensor, has_bias: bool, solved: &Tensor) -> f64 {
        if has_bias { self.centred().relative_error(weight, solved) } else { self.relative_error(weight, solved) }
    }

    /// ‖W x − W′ y‖ / ‖W x‖.
    fn relative_error(&self, weight: &Tensor, solved: &Tensor) -> f64 {
        let [weight, solved] = [weight, solved].map(|w| w.to_kind(Kind::Double));
        let sum = |left: &Tensor, middle: &Tensor, right: &Tensor| (left.matmul(middle) * right).sum(Kind::Double).double_value(&[]);
        let whole = sum(&weight, &self.squares, &weight);
        let lost = whole - 2.0 * sum(&weight, &self.across, &solved) + sum(&solved, &self.products, &solved);
        if whole > 0.0 { (lost.max(0.0) / whole).sqrt() } else { 0.0 }
    }
}

/// What was solved.
pub struct Solved {
    /// `[out, left]`
    pub weight: Tensor,
    /// `[out]`, where there is one.
    pub bias: Option<Tensor>,
    /// The damping that it took.
    pub damp_percent: f64,
}

/// Weight and bias, which is given where the layer has one, of what minimises
/// ‖W x + b − W′ y − b′‖² + λ ‖W′ − W₀‖², where W₀ `[out, left]` are the columns of
/// `weight` `[out, in]` that stay and λ is `damp_percent` of the mean of the diagonal of
/// Σ y yᵀ: ridge regression towards what the weights were. The bias is not damped.
pub fn solve(weight: &Tensor, bias: Option<&Tensor>, stay: &Tensor, paired: &Paired, damp_percent: f64) -> Result<Solved> {
    let weight = weight.to_kind(Kind::Double);
    let start = weight.index_select(1, stay);
    let centred = bias.is_some().then(|| paired.centred());
    let Paired { across, products, .. } = centred.as_ref().unwrap_or(paired);
    // Inputs that are always zero, or the same, keep their weights; those that a handful of tokens
    // met are held there.
    let unseen = Tensor::from_slice(&paired.unseen().mask()).to_device(products.device());
    let dead = products.diagonal(0, 0, 1).le(0.0).logical_or(&unseen).to_kind(Kind::Double);
    let mean = products.diagonal(0, 0, 1).mean(Kind::Double).double_value(&[]).max(f64::MIN_POSITIVE);
    let Factor { upper, damping } = inverse_factor(products + (dead * mean).diag(0), damp_percent)?;
    // W₀ and what it leaves, through the inverse.
    let left = weight.matmul(across) - start.matmul(products);
    let solved = start + left.matmul(&upper.tr()).matmul(&upper);
    let bias = bias.map(|bias| bias.to_kind(Kind::Double) + (weight.matmul(&paired.before) - solved.matmul(&paired.after)) / paired.tokens);
    Ok(Solved { weight: solved, bias, damp_percent: damping.percent })
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
            error += halves[unseen].relative_error(weight, &solve(weight, None, stay, halves[seen], damping)?.weight);
        }
        if error < best.0 {
            best = (error, damping);
        }
    }
    Ok(best.1)
}
