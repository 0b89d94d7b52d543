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
use super::solve::relative_error::energy;
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

/// A matrix to be quantised.
pub struct Site {
    /// Canonical name.
    pub name: String,
    /// What to.
    pub scheme: Scheme,
    /// `[out, in]`, f32.
    pub weight: Tensor,
}

/// What became of a site.
pub struct Outcome {
    /// Codes and scales.
    pub tensor: QuantizedTensor,
    /// tr((W − Ŵ) H (W − Ŵ)ᵀ): what the layer's outputs lose.
    pub squared_error: f64,
    /// What the user should know, such as damping that had to be raised.
    pub remarks: Vec<String>,
}

impl Outcome {
    /// Of a tensor that is measured by the Hessian `[in, in]` of its input.
    pub fn measured(site: &Site, tensor: QuantizedTensor, hessian: &Tensor, remarks: Vec<String>) -> Self {
        Self { squared_error: energy(&lost(&site.weight, &tensor), hessian), tensor, remarks }
    }
}

/// W − Ŵ `[out, in]`
fn lost(weight: &Tensor, tensor: &QuantizedTensor) -> Tensor {
    weight - from_array(&tensor.dequantize()).to_device(weight.device())
}

/// A method that works on linear layers which share an input. Pure: no I/O.
pub trait LayerMethod {
    /// Quantises all sites of one input by what is known of it, which is used up: a Hessian is
    /// the largest thing there is.
    fn compress(&self, sites: &[Site], input: InputStatistics) -> Result<Vec<Outcome>>;
}

/// Quantises all sites of one input, whatever its statistics miss and whatever range the weights
/// have: inputs that calibration did not meet are [filled in](InputStatistics::fill_unseen), rows
/// that f16 scales cannot hold get [`exponents`]. Says which inputs were not met.
pub fn compress(method: Method, sites: &[Site], mut input: InputStatistics) -> Result<(Vec<Outcome>, Option<UnseenInputs>)> {
    let share = matches!(method, Method::Ternary(options) if options.scale == Share::Tensor);
    let divided: Vec<(Site, Option<Vec<i8>>)> = sites.iter().map(|site| divided(site, share)).collect();
    let has_exponents = divided.iter().any(|(_, exponents)| exponents.is_some());
    let unseen = input.fill_unseen();
    // Errors are those of the weight as it is, on what was met.
    let exact = match &unseen {
        Some(unseen) => Some(unseen.hessian.shallow_clone()),
        None => has_exponents.then(|| input.hessian.copy()),
    };
    let (divided, exponents): (Vec<Site>, Vec<Option<Vec<i8>>>) = divided.into_iter().unzip();
    let mut outcomes = solve(method, &divided, input)?;
    for ((outcome, exponents), site) in outcomes.iter_mut().zip(exponents).zip(sites) {
        if exponents.is_some() {
            outcome.tensor.exponents = exponents;
        }
        if let Some(hessian) = &exact {
            outcome.squared_error = energy(&lost(&site.weight, &outcome.tensor), hessian);
        }
    }
    Ok((outcomes, unseen.map(|unseen| unseen.inputs)))
}

/// A site whose rows are divided by powers of two, where f16 scales cannot hold them; all rows by
/// one where they `share` a scale.
fn divided(site: &Site, share: bool) -> (Site, Option<Vec<i8>>) {
    let greatest = to_vec(&site.weight.abs().amax(1, false));
    let exponents = exponents::of_rows(&greatest, site.scheme, share);
    let weight = match &exponents {
        None => site.weight.shallow_clone(),
        Some(exponents) => {
            let powers: Vec<f32> = exponents.iter().map(|&exponent| exponents::power(exponent)).collect();
            &site.weight / Tensor::from_slice(&powers).to_device(site.weight.device()).unsqueeze(1)
        }
    };
    (Site { name: site.name.clone(), scheme: site.scheme, weight }, exponents)
}

/// Quantises all sites of one input. Where a method of ternary weights has sites of other schemes,
/// these are GPTQ's, without an order of columns that the file would have to hold.
fn solve(method: Method, sites: &[Site], input: InputStatistics) -> Result<Vec<Outcome>> {
    let is_own = |site: &Site| !matches!(method, Method::Ternary(_)) || site.scheme.code.is_ternary();
    if sites.iter().all(is_own) {
        return layer_method(method).compress(sites, input);
    }
    let again = |site: &Site| Site { name: site.name.clone(), scheme: site.scheme, weight: site.weight.shallow_clone() };
    let (own, others): (Vec<Site>, Vec<Site>) = sites.iter().map(again).partition(is_own);
    let mut outcomes = Vec::new();
    if !own.is_empty() {
        outcomes.extend(layer_method(method).compress(&own, input.copy())?);
    }
    let options = GptqOptions { static_groups: true, ..GptqOptions::default() };
    outcomes.extend(Gptq { options }.compress(&others, input)?);
    let mut by_name: BTreeMap<String, Outcome> = own.into_iter().chain(others).map(|site| site.name).zip(outcomes).collect();
    Ok(sites.iter().map(|site| by_name.remove(&site.name).expect("one a site")).collect())
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
