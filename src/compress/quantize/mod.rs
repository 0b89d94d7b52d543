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

/// What became of a site.
pub struct Outcome {
    /// Codes and scales.
    pub tensor: QuantizedTensor,
    /// What the user should know, such as damping that had to be raised.
    pub remarks: Vec<String>,
}

/// A method that works on linear layers which share an input. Pure: no I/O.
pub trait LayerMethod {
    /// Quantises all sites of one input by what is known of it.
    fn compress(&self, sites: &[Site], input: &InputStatistics) -> Result<Vec<Outcome>>;
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
