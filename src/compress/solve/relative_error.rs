//! What a layer's outputs lose.

use super::panels;
use tch::{Kind, Tensor};

/// ‖(W − Ŵ)X‖ / ‖WX‖ from the Hessian of X, both weights `[out, in]`.
pub fn relative_error(weight: &Tensor, compressed: &Tensor, hessian: &Tensor) -> f64 {
    let whole = energy(weight, hessian);
    if whole == 0.0 { 0.0 } else { (energy(&(weight - compressed), hessian) / whole).sqrt() }
}

/// tr(W H Wᵀ) of a weight `[out, in]`: half of H is the other half's.
pub fn energy(weight: &Tensor, hessian: &Tensor) -> f64 {
    let width = hessian.size()[0];
    let of_panel = |(start, count)| {
        let behind = start + count;
        let rows = hessian.narrow(0, start, count);
        let panel = weight.narrow(1, start, count);
        let right = weight.narrow(1, behind, width - behind).matmul(&rows.narrow(1, behind, width - behind).tr());
        let product = panel.matmul(&rows.narrow(1, start, count)) + right * 2.0;
        (product * panel).sum(Kind::Double).double_value(&[])
    };
    panels(width).map(of_panel).sum::<f64>().max(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Device;

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
        }
    }
}
