//! AWQ's scales: columns that meet large activations are made larger, and so are
//! rounded more finely; how much, is searched for.
//!
//! Lin, Tang, Tang, Yang, Chen, Wang, Xiao, Dang, Gan and Han, "AWQ:
//! Activation-aware Weight Quantization for LLM Compression and Acceleration"
//! (2024), section 3.2, equations 4 and 5; with both magnitudes ("duo scaling") as
//! in `AutoAWQ`, `quantizer.py`, `_compute_best_scale`. The loss is the squared
//! error of the layers' outputs over all calibration tokens, by their Hessian, each
//! relative to its layer's outputs: those of q and k are large, and would have v, which
//! reads the same, pay for them.

use super::{Channels, Reader, Rescaling};
use crate::compress::solve::relative_error::{far_power, quadratic_form};
use crate::compress::tensors::{from_array, to_array};
use crate::forward::trace::Producer;
use crate::quant::Scheme;
use crate::quant::rounding::rounded;
use crate::recipe::AwqScales;
use tch::{Kind, Tensor};

/// Rows of a layer that take part in the search: its scales are those of columns,
/// which so many rows tell as well as all.
const ROWS: i64 = 1024;

/// The method.
pub struct Awq {
    /// How it searches.
    pub options: AwqScales,
}

impl Rescaling for Awq {
    fn takes(&self, _: &Producer) -> bool {
        true
    }

    fn scales(&self, readers: &[Reader], channels: &Channels) -> Option<Tensor> {
        let readers: Vec<(Tensor, Scheme, &Reader)> =
            readers.iter().filter_map(|reader| Some((some_rows(&reader.weight), reader.scheme?, reader))).collect();
        let mean = |all: Vec<Tensor>| Tensor::stack(&all, 0).mean_dim(0, false, Kind::Float);
        let activations = mean(readers.iter().map(|(.., reader)| channels.mean(&reader.input.mean_magnitude)).collect());
        let activations = &activations / far_power(&activations);
        let weights =
            mean(readers.iter().map(|(.., scheme, reader)| channels.mean(&relative_magnitude(&reader.weight, *scheme))).collect());
        let outputs: Vec<f64> = readers.iter().map(|(weight, _, reader)| quadratic_form(weight, &reader.input.hessian)).collect();
        let loss = |scales: &Tensor| {
            let spread = channels.spread(scales);
            let error = |((weight, scheme, reader), outputs): (&(Tensor, Scheme, &Reader), &f64)| {
                output_error(weight, *scheme, &spread, &reader.input.hessian) / outputs.max(f64::MIN_POSITIVE)
            };
            readers.iter().zip(&outputs).map(error).sum::<f64>()
        };
        let unscaled = loss(&activations.ones_like());
        let mut best: (Option<Tensor>, f64) = (None, unscaled);
        for point in 0..self.options.points {
            let alpha = point as f64 / self.options.points as f64;
            let scales = self.candidate(&activations, &weights, alpha);
            let loss = loss(&scales);
            if loss < best.1 {
                best = (Some(scales), loss);
            }
        }
        best.0
    }
}

impl Awq {
    /// s_X^α, or s_X^α / s_W^(1 − α), around 1.
    fn candidate(&self, activations: &Tensor, weights: &Tensor, alpha: f64) -> Tensor {
        let by_activations = activations.pow_tensor_scalar(alpha);
        let scales =
            if self.options.duo_scaling { by_activations / (weights.pow_tensor_scalar(1.0 - alpha) + 1e-4) } else { by_activations };
        let scales = scales.clamp_min(1e-4);
        let idle = activations.eq(0.0);
        let greatest = scales.max();
        let middle = (&greatest * scales.where_self(&idle.logical_not(), &greatest).min()).sqrt();
        (scales / middle).masked_fill(&idle, 1.0)
    }
}

/// Rows at even distances, all of them where they are few.
fn some_rows(weight: &Tensor) -> Tensor {
    let rows = weight.size()[0];
    let every = (rows + ROWS - 1) / ROWS;
    weight.slice(0, 0, rows, every).contiguous()
}

/// Mean over rows of |w| relative to the greatest of its group, `[in]`.
fn relative_magnitude(weight: &Tensor, scheme: Scheme) -> Tensor {
    let weight = &(weight / far_power(&weight.abs()));
    let columns = weight.size()[1];
    let width = scheme.group_columns(columns as usize) as i64;
    let groups = (0..columns).step_by(width as usize).map(|start| {
        let group = weight.narrow(1, start, width.min(columns - start)).abs();
        &group / (group.amax(1, true) + 1e-6)
    });
    Tensor::cat(&groups.collect::<Vec<_>>(), 1).mean_dim(0, false, Kind::Float)
}

/// ‖(Q(W·s)/s − W) X‖², up to a factor.
fn output_error(weight: &Tensor, scheme: Scheme, scales: &Tensor, hessian: &Tensor) -> f64 {
    let difference = from_array(&rounded(to_array(&(weight * scales)).view(), scheme)).to_device(weight.device()) / scales - weight;
    quadratic_form(&difference, hessian)
}
