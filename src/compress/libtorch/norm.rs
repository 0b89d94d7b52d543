//! Norms.

use crate::compress::tensors::Parameters;
use crate::forward::NormLayer;
use crate::spec::{NormKind, NormWeight};
use tch::Tensor;

/// x `[…, width]` normed span by span, blended with x while training blends norms in.
pub(super) fn forward(layer: &NormLayer, weights: &Parameters, x: &Tensor) -> Tensor {
    let width = *x.size().last().expect("[…, width]");
    let span = layer.span as i64;
    let normed = if width == span {
        normed(layer, weights, x)
    } else {
        let mut spans = x.size();
        spans.pop();
        spans.extend([width / span, span]);
        normed(layer, weights, &x.view(&spans[..])).view_as(x)
    };
    let blend = weights.blend();
    if blend.lambda < 1.0 && blend.norms.contains(&layer.name.to_string()) { x.lerp(&normed, blend.lambda) } else { normed }
}

/// Normalisation over the last dimension; weights may have more (one row a head).
fn normed(layer: &NormLayer, weights: &Parameters, x: &Tensor) -> Tensor {
    let (spec, name) = (&layer.norm, layer.name.to_string());
    let span = &x.size()[x.dim() - 1..];
    let plus_one = (spec.weight == NormWeight::OnePlus).then(|| &*weights.get(&name) + 1.0);
    let plain = (spec.weight == NormWeight::Plain).then(|| weights.get(&name));
    let weight = plus_one.as_ref().or(plain.as_deref());
    let bias = spec.bias.then(|| weights.get(&format!("{name}.bias")));
    let bias = bias.as_deref();
    // libtorch's own norms take weights of one dimension.
    let fused = weight.filter(|w| w.dim() == 1);
    let one_go = fused.is_some() || weight.is_none();
    let normed = match spec.kind {
        NormKind::Rms => x.rms_norm(span, fused, spec.epsilon),
        NormKind::Layer => x.layer_norm(span, fused, bias.filter(|_| one_go), spec.epsilon, false),
    };
    let weighted = if one_go { normed } else { normed * weight.expect("there is one where it is not fused") };
    match bias {
        Some(bias) if !(one_go && spec.kind == NormKind::Layer) => weighted + bias,
        _ => weighted,
    }
}
