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
use super::tensors::from_array;
use crate::error::Result;
use crate::quant::{QuantizedTensor, Scheme};
use crate::recipe::Method;
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

impl Site {
    /// The same once more.
    fn again(&self) -> Self {
        Self { name: self.name.clone(), scheme: self.scheme, weight: self.weight.shallow_clone() }
    }
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
