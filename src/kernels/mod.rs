//! The arithmetic of the device: one table of functions an instruction set,
//! chosen once at run time.
//!
//! `scalar` is the reference, short and plain. Another set = one file or folder
//! with a `pub const KERNELS` and one row in `AVAILABLE`; what a set leaves out
//! is filled from the table of another that every machine with it has.
//!
//! `THIMBLE_ISA=scalar` (or the name of another row) forces a set.

/// A kernel for each code, by its index in [`Code::ALL`].
#[cfg_attr(not(target_arch = "x86_64"), allow(unused_macros))]
macro_rules! by_code {
    ($kernel:ident: $($code:literal)+) => { [$($kernel::<$code>),+] };
}

mod activations;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512vnni;
pub mod gram;
mod pool;
mod scalar;
mod tile;

pub use activations::{BLOCK, Int8Rows};
pub use pool::Pool;
pub use tile::Tile;

use crate::checkpoint::FloatType;
use crate::error::{Error, Result};
use crate::quant::Code;

/// Products of a tile with rows of int8 activations: adds to `out`
/// (`[tokens, 16]`, row-major). Sums within a block of activations are exact
/// integers.
pub type Int8Tile = fn(tile: &Tile, x: &Int8Rows, out: &mut [f32]);

/// Products of a tile with f32 activations `[tokens, x_stride]`, of which the
/// first `tile.columns` count: adds to `out` (`[tokens, 16]`).
pub type F32Tile = fn(tile: &Tile, x: &[f32], x_stride: usize, out: &mut [f32]);

/// Products of up to 16 dense rows (as they lie in the file, `columns` each) with
/// f32 activations `[tokens, columns]`: adds to `out` (`[tokens, 16]`).
pub type DenseTile = fn(rows: &[u8], columns: usize, x: &[f32], out: &mut [f32]);

/// The functions of one instruction set.
#[derive(Clone, Copy)]
pub struct Kernels {
    /// Name of the set, as in `THIMBLE_ISA`.
    pub isa: &'static str,
    /// Packed weights × int8 activations, by [`Code`], of those that stand for whole
    /// numbers.
    pub int8_tile: [Int8Tile; Code::WHOLE.len()],
    /// Packed weights × f32 activations, by [`Code`].
    pub f32_tile: [F32Tile; Code::ALL.len()],
    /// Dense f32 weights × f32 activations.
    pub dense_f32: DenseTile,
    /// Dense f16 weights × f32 activations.
    pub dense_f16: DenseTile,
    /// Dense bf16 weights × f32 activations.
    pub dense_bf16: DenseTile,
    /// Codes, scale and sum of one block of activations (see [`Int8Rows`]).
    pub quantize_block: fn(x: &[f32], codes: &mut [i8]) -> (f32, i32),
    /// Σ a·b
    pub dot: fn(a: &[f32], b: &[f32]) -> f32,
    /// One head's scores: `out[p] = scale · Σ query · rows[p]`, row p of
    /// `query.len()` numbers at `p · stride` of `rows`.
    pub scores: fn(query: &[f32], rows: &[f32], stride: usize, scale: f32, out: &mut [f32]),
    /// Scores to weights that sum to 1, in place.
    pub softmax: fn(scores: &mut [f32]),
    /// `out += Σ_p weights[p] · rows[p]`, row p of `out.len()` numbers at
    /// `p · stride` of `rows`.
    pub weighted_sum: fn(weights: &[f32], rows: &[f32], stride: usize, out: &mut [f32]),
}

impl Kernels {
    /// The dense kernel of a number format.
    pub fn dense_tile(&self, float_type: FloatType) -> DenseTile {
        match float_type {
            FloatType::F32 => self.dense_f32,
            FloatType::F16 => self.dense_f16,
            FloatType::Bf16 => self.dense_bf16,
        }
    }
}

/// An instruction set that this build knows.
struct Available {
    kernels: &'static Kernels,
    /// Whether this machine has it: no kernel may be called where it does not.
    detect: fn() -> bool,
}

/// Every set of this architecture, the best last. Private: [`supported`] and
/// [`select`] are what makes calling a kernel safe.
static AVAILABLE: &[Available] = &[
    Available { kernels: &scalar::KERNELS, detect: || true },
    #[cfg(target_arch = "x86_64")]
    Available { kernels: &avx2::KERNELS, detect: avx2::detect },
    #[cfg(target_arch = "x86_64")]
    Available { kernels: &avx512vnni::KERNELS, detect: avx512vnni::detect },
];

/// The sets that this machine can run, the best last.
pub fn supported() -> impl DoubleEndedIterator<Item = &'static Kernels> {
    AVAILABLE.iter().filter(|a| (a.detect)()).map(|a| a.kernels)
}

/// The best set of this machine, or the one that `THIMBLE_ISA` names.
pub fn select() -> Result<&'static Kernels> {
    let Some(wanted) = std::env::var_os("THIMBLE_ISA") else {
        return Ok(supported().next_back().expect("scalar is always there"));
    };
    let wanted = wanted.to_string_lossy();
    let shown = if wanted.is_empty() { "\"\"" } else { &*wanted };
    supported().find(|k| k.isa == wanted).ok_or_else(|| {
        let names: Vec<_> = supported().map(|k| k.isa).collect();
        Error::Environment(format!(
            "THIMBLE_ISA={shown}: no instruction set of that name; this machine and build have {}: set one of them, or unset it for the best",
            names.join(", ")
        ))
    })
}
