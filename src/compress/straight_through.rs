//! Rounding that forwards see and gradients do not: weights in −1, 0 and 1 with a scale,
//! activations in int8, as BitNet b1.58 is trained.
//!
//! Ma et al., "The Era of 1-bit LLMs" (2024), section 2; the straight-through estimator is
//! Bengio et al. 2013's. What is rounded can be blended in: λ of it, from 0 to 1.

use super::tensors::wide;
use crate::quant::ternary::Share;
use std::collections::BTreeSet;
use tch::{Kind, Tensor};

/// What is done to inputs besides what the spec says, while weights are trained to be
/// rounded. Nothing, where nothing is.
#[derive(Default)]
pub struct Blend {
    /// Roles of linear layers whose inputs are rounded to int8.
    pub inputs: BTreeSet<String>,
    /// Roles of norms that are not all there yet.
    pub norms: BTreeSet<String>,
    /// How much of it is done, 0 to 1.
    pub lambda: f64,
}

/// x, of which λ is what it is `rounded` to, which is used up; gradients pass as if it were x.
pub fn straight(x: &Tensor, rounded: Tensor, lambda: f64) -> Tensor {
    let difference = tch::no_grad(|| {
        let mut difference = rounded;
        difference -= x;
        if lambda < 1.0 {
            difference *= lambda;
        }
        difference
    });
    x + difference
}

/// A weight `[out, in]` in −1, 0 and 1 times its mean magnitude, which is rounded to f16 as
/// it will be stored: the numbers of [`crate::quant::ternary`].
pub fn ternary(weight: &Tensor, share: Share) -> Tensor {
    let _no_grad = tch::no_grad_guard();
    let (rows, columns) = weight.size2().expect("[out, in]");
    let magnitudes = wide(weight).abs();
    let mean = |x: &Tensor| x.mean_dim(-1, true, Kind::Double);
    let scale = match share {
        Share::Tensor => mean(&magnitudes.view(-1)).expand([rows, 1], false),
        Share::Row => mean(&magnitudes),
        Share::Group(width) => {
            let groups = (0..columns).step_by(width).map(|start| {
                let width = (width as i64).min(columns - start);
                mean(&magnitudes.narrow(1, start, width)).expand([rows, width], false)
            });
            Tensor::cat(&groups.collect::<Vec<_>>(), 1)
        }
    };
    let least = f64::from(half::f16::from_bits(1));
    let scale = scale.to_kind(Kind::Half).clamp(least, f64::from(half::f16::MAX)).to_kind(weight.kind());
    (weight / &scale).clamp(-1.0, 1.0).round() * scale
}

/// Activations `[…, in]` in int8 with a scale a token: what the device does with
/// `int8-token`.
pub fn int8(x: &Tensor) -> Tensor {
    let _no_grad = tch::no_grad_guard();
    let wide = wide(x);
    let greatest = wide.abs().amax(-1, true);
    // Of tokens of zeros, or so small that 127 over them overflows, nothing is left.
    let inverse = (greatest.reciprocal() * 127.0).nan_to_num(0.0, 0.0, 0.0);
    let mut codes = &wide * inverse;
    let _ = codes.round_();
    codes *= greatest / 127.0;
    codes.to_kind(x.kind())
}
