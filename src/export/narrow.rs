//! What is not quantised ships in 16 bits, where these hold it.

use crate::checkpoint::{Bytes, DenseTensor, FloatType};
use crate::error::Result;
use crate::model::ParameterKind;
use crate::quant::{Assembled, Weight, WeightStore};
use half::{bf16, f16};

/// A model as it ships.
pub fn model(store: &dyn WeightStore) -> Result<Assembled> {
    let spec = store.spec();
    let weight = |p: crate::model::Parameter| Ok((p.name.clone(), kept(store.weight(&p.name)?, p.kind)));
    Ok(Assembled::new(spec.clone(), spec.parameters().into_iter().map(weight).collect::<Result<Vec<_>>>()?))
}

/// What is not quantised: vectors as they are, matrices in 16 bits where these hold them.
pub fn kept(weight: Weight, kind: ParameterKind) -> Weight {
    match weight {
        Weight::Dense(tensor) if kind != ParameterKind::Vector && tensor.float_type == FloatType::F32 => Weight::Dense(narrowed(&tensor)),
        other => other,
    }
}

/// In f16 where no row loses more than f16's own precision, relative to the row's greatest
/// magnitude; otherwise in bf16 where that loses nothing, and in f32 where it would.
fn narrowed(tensor: &DenseTensor) -> DenseTensor {
    let values = tensor.to_f32();
    let columns = tensor.shape.last().map_or(1, |&columns| columns.max(1));
    let float_type = match () {
        () if values.chunks(columns).all(suits_f16) => FloatType::F16,
        () if values.iter().all(|&value| bf16::from_f32(value).to_f32() == value) => FloatType::Bf16,
        () => return tensor.clone(),
    };
    let bits = |v: &f32| if float_type == FloatType::F16 { f16::from_f32(*v).to_bits() } else { bf16::from_f32(*v).to_bits() };
    let bytes: Vec<u8> = values.iter().flat_map(|v| bits(v).to_le_bytes()).collect();
    DenseTensor { float_type, bytes: Bytes::from_vec(bytes), ..tensor.clone() }
}

/// True if f16 holds every row of a tensor.
pub fn fits_f16(tensor: &DenseTensor) -> bool {
    let values = tensor.to_f32();
    let columns = tensor.shape.last().copied().unwrap_or(1).max(1);
    values.chunks(columns).all(suits_f16)
}

/// True if f16 holds a row: its greatest magnitude is a normal f16 number, so that the absolute
/// error of subnormal ones, 2^-25, is within f16's relative precision of it; or all are zero.
fn suits_f16(row: &[f32]) -> bool {
    let greatest = row.iter().fold(0f32, |greatest, value| value.abs().max(greatest));
    greatest == 0.0 || (greatest >= f16::MIN_POSITIVE.to_f32() && f16::from_f32(greatest).is_finite())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Number formats by what a matrix holds, and errors within f16's precision of each row's greatest.
    #[test]
    fn matrices_lose_no_more_than_the_precision_of_f16() {
        let ordinary = [0.02f32, -0.5, 1e-6, 0.0123];
        let cases: [(&[f32], FloatType); 6] = [
            (&[0.0; 4], FloatType::F16),
            (&[65504.0, 1.0, -3.5, 1e-9], FloatType::F16),
            // Too small and too large: as bf16 has them, and as it has not.
            (&[1.5e-10, -2e-12, 0.0, 0.0].map(|v| bf16::from_f32(v).to_f32()), FloatType::Bf16),
            (&[1.5e-10, -2e-12, 0.0, 0.0], FloatType::F32),
            (&[1e20, 1.0, 2.0, 3.0].map(|v| bf16::from_f32(v).to_f32()), FloatType::Bf16),
            (&[1e20, 1.0, 2.0, 3.0], FloatType::F32),
        ];
        for (odd, float_type) in cases {
            let values = [&ordinary[..], odd].concat();
            let values: Vec<f32> = match float_type {
                FloatType::Bf16 => values.iter().map(|v| bf16::from_f32(*v).to_f32()).collect(),
                _ => values,
            };
            let Weight::Dense(tensor) = kept(Weight::from_f32("w", vec![2, 4], &values), ParameterKind::Linear) else { panic!("dense") };
            assert_eq!(tensor.float_type, float_type, "{odd:?}");
            for (row, stored) in values.chunks(4).zip(tensor.to_f32().chunks(4)) {
                let greatest = row.iter().fold(0f32, |m, v| m.max(v.abs()));
                assert!(row.iter().zip(stored).all(|(a, b)| (a - b).abs() <= greatest / 2048.0), "{row:?} became {stored:?}");
            }
        }
    }
}
