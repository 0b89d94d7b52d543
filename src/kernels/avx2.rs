//! AVX2, FMA and F16C.

use super::{Kernels, scalar};

/// The table.
pub static KERNELS: Kernels = Kernels { isa: "avx2", ..scalar::KERNELS };

/// Whether this machine has them.
pub fn detect() -> bool {
    std::is_x86_feature_detected!("avx2") && std::is_x86_feature_detected!("fma") && std::is_x86_feature_detected!("f16c")
}
