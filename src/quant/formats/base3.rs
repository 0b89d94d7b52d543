//! Base-3 packing: five digits in a byte, which kernels unpack without division.
//!
//! A byte holds ⌈v · 256 / 243⌉ for digits v = 81 d₀ + 27 d₁ + 9 d₂ + 3 d₃ + d₄. Three
//! times that has d₀ above its low eight bits, which hold the other digits in the same
//! way (so does ggml's TQ1_0).

use crate::quant::scheme::DIGITS_PER_BYTE;

/// What the first digit is worth.
const FIRST: u8 = 3u8.pow(DIGITS_PER_BYTE as u32 - 1);

/// What a digit at a place is worth in a byte that is not yet sealed.
pub const fn worth(place: usize) -> u8 {
    FIRST / 3u8.pow(place as u32)
}

/// The byte of digits that are added up by their worth.
pub const fn sealed(digits: u8) -> u8 {
    (digits as u16 * 256).div_ceil(3 * FIRST as u16) as u8
}

/// The digit at a place of a sealed byte.
pub const fn digit(byte: u8, place: usize) -> u8 {
    let behind = byte.wrapping_mul(3u8.pow(place as u32));
    ((behind as u16 * 3) >> 8) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All 243 of them: what division says.
    #[test]
    fn digits_come_out_as_they_went_in() {
        for digits in 0..3 * FIRST {
            for place in 0..DIGITS_PER_BYTE {
                assert_eq!(digit(sealed(digits), place), digits / worth(place) % 3, "{digits}, place {place}");
            }
        }
    }
}
