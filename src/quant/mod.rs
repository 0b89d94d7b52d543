//! Quantised weights: the [`scheme`] (what to), the [`grid`] (rounding), the
//! canonical [`QuantizedTensor`], its packed bytes ([`formats`]), and the native
//! file that carries them ([`native`]).

pub mod formats;
pub mod grid;
pub mod native;
pub mod scheme;
mod store;
mod tensor;

pub use formats::tiled::{Layout, PackedTensor, Tiling};
pub use scheme::{Code, Scheme};
pub use store::{Assembled, Weight, WeightStore};
pub use tensor::{Permutation, QuantizedTensor};
