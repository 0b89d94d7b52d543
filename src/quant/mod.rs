//! Quantised weights: the [`scheme`] (what to), its [`codebook`] where codes are indices into
//! one, [`rounding`] by the [`quant_params`] of each group, the canonical [`QuantizedTensor`],
//! its packed bytes ([`formats`]), and the native file that carries them ([`native`]).

mod bitnet;
pub mod codebook;
mod data_type;
pub mod exponents;
pub mod formats;
pub mod native;
mod outliers;
pub mod quant_params;
pub mod rounding;
pub mod scheme;
mod store;
mod tensor;
pub mod ternary;

pub use bitnet::BitNetModel;
pub use codebook::Codebook;
pub use data_type::DataType;
pub use formats::tiled::{Layout, PackedTensor, Tiling};
pub use outliers::{Columns, Outliers, PackedOutliers};
pub use scheme::{Code, Scheme};
pub use store::{Assembled, Weight, WeightStore};
pub use tensor::{Permutation, QuantizedTensor};
