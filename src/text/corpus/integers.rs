//! Token ids in the number formats that files keep them in.

use safetensors::Dtype;

/// The formats that are read, for messages.
pub const READABLE: &str = "I32, I64, U16 or U32";

/// Little-endian integers; `None` where ids do not come in that format.
pub fn decode(dtype: Dtype, bytes: &[u8]) -> Option<Vec<i64>> {
    match dtype {
        Dtype::U16 => Some(numbers(bytes, u16::from_le_bytes)),
        Dtype::U32 => Some(numbers(bytes, u32::from_le_bytes)),
        Dtype::I32 => Some(numbers(bytes, i32::from_le_bytes)),
        Dtype::I64 => Some(numbers(bytes, i64::from_le_bytes)),
        _ => None,
    }
}

fn numbers<const N: usize, T: Into<i64>>(bytes: &[u8], read: fn([u8; N]) -> T) -> Vec<i64> {
    bytes.as_chunks().0.iter().map(|bytes| read(*bytes).into()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_format() {
        assert_eq!(decode(Dtype::U16, &[1, 2, 255, 255]), Some(vec![513, 65535]));
        assert_eq!(decode(Dtype::U32, &[1, 2, 0, 0, 255, 255, 255, 255]), Some(vec![513, 4_294_967_295]));
        assert_eq!(decode(Dtype::I32, &[1, 2, 0, 0, 255, 255, 255, 255]), Some(vec![513, -1]));
        assert_eq!(decode(Dtype::I64, &[1, 2, 0, 0, 1, 0, 0, 0]), Some(vec![513 + (1 << 32)]));
        assert_eq!(decode(Dtype::F32, &[0; 4]), None);
    }
}
