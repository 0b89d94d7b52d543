//! Quantisation methods. A new one = one file here, one variant of
//! [`crate::recipe::Method`], one arm of [`layer_method`].

mod awq;
mod gptq;
mod llm_int8;
mod rtn;
mod ternary;

pub use awq::Awq;
pub use gptq::{Gptq, gptq};
pub use llm_int8::LlmInt8;
pub use rtn::Rtn;
pub use ternary::{Ternary, in_turn};

use super::calibrate::InputStatistics;
use super::solve::relative_error::quadratic_form;
use super::tensors::{from_array, to_vec};
use crate::error::Result;
use crate::quant::rounding::round_by;
use crate::quant::ternary::Share;
use crate::quant::{QuantizedTensor, Scheme, exponents};
use crate::recipe::{GptqOptions, Method, TernarySolver};
use crate::report::UnseenInputs;
use ndarray::ArrayView2;
use std::collections::BTreeMap;
use tch::Tensor;

/// A linear layer to be quantised.
pub struct TargetLayer {
    /// Canonical name.
    pub name: String,
    /// Target scheme.
    pub scheme: Scheme,
    /// `[out, in]`, f32.
    pub weight: Tensor,
}

/// A quantised layer.
pub struct LayerResult {
    /// Codes and scales.
    pub tensor: QuantizedTensor,
    /// tr((W − Ŵ) H (W − Ŵ)ᵀ): what the layer's outputs lose.
    pub squared_error: f64,
    /// What the user should know, such as damping that had to be raised.
    pub remarks: Vec<String>,
}

impl LayerResult {
    /// A result whose error is measured by the Hessian `[in, in]` of its input.
    pub fn measured(layer: &TargetLayer, tensor: QuantizedTensor, hessian: &Tensor, remarks: Vec<String>) -> Self {
        Self { squared_error: quadratic_form(&lost(&layer.weight, &tensor), hessian), tensor, remarks }
    }
}

/// W − Ŵ `[out, in]`
fn lost(weight: &Tensor, tensor: &QuantizedTensor) -> Tensor {
    weight - from_array(&tensor.dequantize()).to_device(weight.device())
}

/// A method that works on linear layers which share an input. Pure: no I/O.
pub trait LayerMethod {
    /// Quantises all layers of one input by what is known of it, which is used up: a Hessian is
    /// the largest thing there is.
    fn compress(&self, layers: &[TargetLayer], input: InputStatistics) -> Result<Vec<LayerResult>>;
}

/// Quantises all layers of one input, whatever its statistics miss and whatever range the weights
/// have: inputs that calibration did not meet are [filled in](InputStatistics::fill_unseen), rows
/// that f16 scales cannot hold get [`exponents`]. Says which inputs were not met.
pub fn compress(method: Method, layers: &[TargetLayer], mut input: InputStatistics) -> Result<(Vec<LayerResult>, Option<UnseenInputs>)> {
    let share = matches!(method, Method::Ternary(options) if options.scale == Share::Tensor);
    let divided: Vec<(TargetLayer, Option<Vec<i8>>)> = layers.iter().map(|layer| divided(layer, share)).collect();
    let has_exponents = divided.iter().any(|(_, exponents)| exponents.is_some());
    let unseen = input.fill_unseen();
    // Errors are those of the weight as it is, on what was met.
    let exact = match &unseen {
        Some(unseen) => Some(unseen.hessian.shallow_clone()),
        None => has_exponents.then(|| input.hessian.copy()),
    };
    let (divided, exponents): (Vec<TargetLayer>, Vec<Option<Vec<i8>>>) = divided.into_iter().unzip();
    let mut outcomes = solve(method, &divided, input)?;
    for ((outcome, exponents), layer) in outcomes.iter_mut().zip(exponents).zip(layers) {
        if exponents.is_some() {
            outcome.tensor.exponents = exponents;
        }
        if let Some(hessian) = &exact {
            outcome.squared_error = quadratic_form(&lost(&layer.weight, &outcome.tensor), hessian);
        }
    }
    Ok((outcomes, unseen.map(|unseen| unseen.inputs)))
}

/// A layer whose rows are divided by powers of two, where f16 scales cannot hold them; all rows by
/// one where they `share` a scale.
fn divided(layer: &TargetLayer, share: bool) -> (TargetLayer, Option<Vec<i8>>) {
    let greatest = to_vec(&layer.weight.abs().amax(1, false));
    let exponents = exponents::of_rows(&greatest, layer.scheme, share);
    let weight = match &exponents {
        None => layer.weight.shallow_clone(),
        Some(exponents) => {
            let powers: Vec<f32> = exponents.iter().map(|&exponent| exponents::power(exponent)).collect();
            &layer.weight / Tensor::from_slice(&powers).to_device(layer.weight.device()).unsqueeze(1)
        }
    };
    (TargetLayer { name: layer.name.clone(), scheme: layer.scheme, weight }, exponents)
}

/// Quantises all layers of one input. Where a method of ternary weights has layers of other schemes,
/// these are GPTQ's, without an order of columns that the file would have to hold.
fn solve(method: Method, layers: &[TargetLayer], input: InputStatistics) -> Result<Vec<LayerResult>> {
    let is_own = |layer: &TargetLayer| !matches!(method, Method::Ternary(_)) || layer.scheme.code.is_ternary();
    if layers.iter().all(is_own) {
        return layer_method(method).compress(layers, input);
    }
    let again = |layer: &TargetLayer| TargetLayer { name: layer.name.clone(), scheme: layer.scheme, weight: layer.weight.shallow_clone() };
    let (own, others): (Vec<TargetLayer>, Vec<TargetLayer>) = layers.iter().map(again).partition(is_own);
    let mut outcomes = Vec::new();
    if !own.is_empty() {
        outcomes.extend(layer_method(method).compress(&own, input.copy())?);
    }
    let options = GptqOptions { static_groups: true, ..GptqOptions::default() };
    outcomes.extend(Gptq { options }.compress(&others, input)?);
    let mut by_name: BTreeMap<String, LayerResult> = own.into_iter().chain(others).map(|layer| layer.name).zip(outcomes).collect();
    Ok(layers.iter().map(|layer| by_name.remove(&layer.name).expect("one a layer")).collect())
}

/// Rounds a weight `[out, in]` by a method that reads no statistics of its input. The tensor is
/// that of [`compress`].
pub fn round(method: Method, weight: ArrayView2<f32>, scheme: Scheme) -> QuantizedTensor {
    match method {
        Method::Rtn(options) if !options.importance => round_by(weight, scheme, options.grid, None),
        Method::Ternary(options) if options.solver == TernarySolver::Absmean => ternary::absmean(weight, scheme, options.scale),
        _ => unreachable!("{} reads statistics", method.name()),
    }
}

/// What carries a method out.
pub fn layer_method(method: Method) -> Box<dyn LayerMethod> {
    match method {
        Method::Awq(options) => Box::new(Awq { options }),
        Method::Rtn(options) => Box::new(Rtn { options }),
        Method::Gptq(options) => Box::new(Gptq { options }),
        Method::LlmInt8(options) => Box::new(LlmInt8 { options }),
        Method::Ternary(options) => Box::new(Ternary { options }),
    }
}
