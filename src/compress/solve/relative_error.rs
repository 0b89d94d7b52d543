//! What a layer's outputs lose.

use super::panels;
use crate::compress::tensors::lent_f32;
use crate::kernels::gram::{self, Pairs};
use half::bf16;
use rayon::prelude::*;
use tch::{Kind, Tensor};

/// ‖(W − Ŵ)X‖ / ‖WX‖ from the Hessian of X, both weights `[out, in]`.
pub fn relative_error(weight: &Tensor, compressed: &Tensor, hessian: &Tensor) -> f64 {
    relative(quadratic_form(&(weight - compressed), hessian), quadratic_form(weight, hessian))
}

/// The same from ‖(W − Ŵ)X‖² and ‖WX‖².
pub fn relative(lost: f64, whole: f64) -> f64 {
    if whole == 0.0 { 0.0 } else { (lost / whole).sqrt() }
}

/// ‖(W − Ŵ)X‖ / ‖WX‖ from inputs `[tokens, in]` themselves, which few tokens make cheaper than a
/// Hessian; weights `[out, in]`, all in f32.
pub fn relative_error_on(x: &Tensor, weight: &Tensor, compressed: &Tensor) -> f64 {
    let energy = |x: &Tensor, weight: &Tensor| x.matmul(&weight.tr()).to_kind(Kind::Double).square().sum(Kind::Double).double_value(&[]);
    let whole = energy(x, weight);
    if whole.is_finite() && whole > 0.0 {
        return relative(energy(x, &(weight - compressed)), whole);
    }
    // Outputs beyond f32, or below it. The ratio is that of numbers divided by powers of two.
    let (of_x, of_weight) = (far_power(&x.abs()), far_power(&weight.abs()));
    let (x, weight, compressed) = (x / of_x, weight / of_weight, compressed / of_weight);
    relative(energy(&x, &(&weight - compressed)), energy(&x, &weight))
}

/// tr(W H Wᵀ) of a weight `[out, in]`: half of H is the other half's. In f32, but for a power of two
/// that is taken off numbers whose squares f32 cannot hold.
pub fn quadratic_form(weight: &Tensor, hessian: &Tensor) -> f64 {
    let (power, square) = (far_power(&weight.abs()), far_power(&hessian.diag(0)));
    if power != 1.0 || square != 1.0 {
        return in_range(&(weight / power), &(hessian / square)) * power * power * square;
    }
    in_range(weight, hessian)
}

/// The power of two next to the greatest of some numbers, none below zero, where that is far from 1;
/// otherwise 1.
pub(crate) fn far_power(numbers: &Tensor) -> f64 {
    let greatest = if numbers.numel() == 0 { 0.0 } else { numbers.max().double_value(&[]) };
    let exponent = greatest.log2().floor();
    // Squares of numbers, and their sums, are far from the ends of f32's range up to here.
    if exponent.is_finite() && exponent.abs() > 24.0 { exponent.exp2() } else { 1.0 }
}

fn in_range(weight: &Tensor, hessian: &Tensor) -> f64 {
    let by_moments = gram::kernel().and_then(|kernel| by_moments(weight, hessian, kernel));
    // Unlike `max`, this leaves NaN as it is.
    by_moments.unwrap_or_else(|| by_panels(weight, hessian)).clamp(0.0, f64::INFINITY)
}

/// The same as Σ (WᵀW) ∘ H, where W is one whose numbers bf16 holds, as those of most
/// checkpoints are: nothing is rounded for it, and it takes half of the time.
fn by_moments(weight: &Tensor, hessian: &Tensor, kernel: gram::Kernel) -> Option<f64> {
    // SAFETY: both tensors are only read in here, and callers hold the only handles by which
    // they could be written.
    let (numbers, hessian) = unsafe { (lent_f32(weight)?, lent_f32(hessian)?) };
    if !numbers.par_iter().all(|&number| bf16::from_f32(number).to_f32() == number) {
        return None;
    }
    let width = weight.size()[1] as usize;
    let narrow: Vec<bf16> = numbers.par_iter().map(|&number| bf16::from_f32(number)).collect();
    let of_row = |i: usize, products: &[f32]| {
        let product = |j: usize| f64::from(products[j]) * f64::from(hessian[i * width + j]);
        product(i) + 2.0 * (i + 1..width).map(product).sum::<f64>()
    };
    let of_panel = |first: usize, rows: &[f32]| rows.chunks_exact(width).zip(first..).map(|(row, i)| of_row(i, row)).sum();
    // In one order, whatever the threads.
    Some(kernel.map(&Pairs::new(&narrow, width), of_panel).into_iter().sum())
}

fn by_panels(weight: &Tensor, hessian: &Tensor) -> f64 {
    let width = hessian.size()[0];
    let of_panel = |(start, count)| {
        let behind = start + count;
        let rows = hessian.narrow(0, start, count);
        let panel = weight.narrow(1, start, count);
        let right = weight.narrow(1, behind, width - behind).matmul(&rows.narrow(1, behind, width - behind).tr());
        let product = panel.matmul(&rows.narrow(1, start, count)) + right * 2.0;
        (product * panel).sum(Kind::Double).double_value(&[])
    };
    panels(width).map(of_panel).sum::<f64>()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Device;

    /// On inputs themselves the error is that of their Hessian, whatever range they have.
    #[test]
    fn errors_on_inputs_are_those_of_their_hessian() {
        tch::manual_seed(3);
        let random = |shape: [i64; 2]| Tensor::randn(shape, (Kind::Float, Device::Cpu));
        let (x, weight) = (random([50, 24]), random([17, 24]));
        let compressed = &weight + random([17, 24]) * 0.05;
        let wide = |t: &Tensor| t.to_kind(Kind::Double);
        let norm = |weight: &Tensor| wide(&x).matmul(&wide(weight).tr()).norm().double_value(&[]);
        let expected = norm(&(&weight - &compressed)) / norm(&weight);
        for (of_x, of_weight) in
            [(1.0, 1.0), (30f64.exp2(), 110f64.exp2()), ((-60f64).exp2(), (-60f64).exp2()), (1.0, (-149f64 + 40.0).exp2())]
        {
            let found = relative_error_on(&(&x * of_x), &(&weight * of_weight), &(&compressed * of_weight));
            assert!((found / expected - 1.0).abs() < 1e-4, "{of_x}, {of_weight}: {found}, not {expected}");
        }
        assert_eq!(relative_error_on(&x.zeros_like(), &weight, &compressed), 0.0);
    }

    #[test]
    fn it_is_that_of_the_outputs() {
        tch::manual_seed(1);
        for width in [1, 7, 512, 1100] {
            let [weight, compressed] = [0, 1].map(|_| Tensor::randn([9, width], (Kind::Double, Device::Cpu)));
            let x = Tensor::randn([width, 40], (Kind::Double, Device::Cpu));
            let norm = |w: &Tensor| w.matmul(&x).norm().double_value(&[]);
            let expected = norm(&(&weight - &compressed)) / norm(&weight);
            let found = relative_error(&weight, &compressed, &x.matmul(&x.tr()));
            assert!((found / expected - 1.0).abs() < 1e-10, "width {width}: {found}, {expected}");
            // Of numbers that bf16 holds, perhaps in another way.
            let weight = weight.to_kind(Kind::BFloat16).to_kind(Kind::Float);
            let (found, expected) =
                (quadratic_form(&weight, &x.matmul(&x.tr()).to_kind(Kind::Float)), norm(&weight.to_kind(Kind::Double)).powi(2));
            assert!((found / expected - 1.0).abs() < 1e-5, "width {width}: {found}, {expected}");
        }
    }
}
