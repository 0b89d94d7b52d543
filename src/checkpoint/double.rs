//! Weights in double precision: read as the nearest numbers in f32. Numbers beyond f32 become
//! infinite, and are refused by name where weights are checked.

use super::Bytes;
use rayon::prelude::*;

/// Bytes of a number in double precision.
pub(super) const SIZE_BYTES: usize = 8;

/// Little-endian f64 as little-endian f32, made when they are first touched.
pub(super) fn narrowed(doubles: Bytes) -> Bytes {
    let len = doubles.len() / SIZE_BYTES * size_of::<f32>();
    Bytes::made_late(len, move || {
        let nearest = |double: &[u8]| f64::from_le_bytes(double.try_into().expect("eight bytes")) as f32;
        let singles: Vec<f32> = doubles.par_chunks_exact(SIZE_BYTES).with_min_len(1 << 16).map(nearest).collect();
        bytemuck::cast_slice(&singles).to_vec()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_become_the_nearest_singles() {
        // The last lies beyond f32, the one before it just above half of its least number.
        let doubles = [0.1, -1.0 / 3.0, 16_777_217.0, 7.1e-46, 1e300];
        let bytes = narrowed(Bytes::from_vec(doubles.iter().flat_map(|x: &f64| x.to_le_bytes()).collect()));
        assert_eq!(bytes.len(), 20);
        let singles: Vec<f32> = bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
        assert_eq!(singles, [0.1f32, -1.0 / 3.0, 16_777_216.0, f32::from_bits(1), f32::INFINITY]);
    }
}
