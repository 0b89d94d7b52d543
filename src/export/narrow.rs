//! What is not quantised ships in 16 bits, where these hold it.

use super::in_type::InType;
use crate::checkpoint::{DenseTensor, FloatType};
use crate::error::Result;
use crate::model::ParameterKind;
use crate::quant::{Weight, WeightStore};
use half::{bf16, f16};
use rayon::prelude::*;
use std::collections::BTreeMap;
use std::sync::Arc;

/// A model as it ships. Matrices are narrowed when they are touched, and not kept.
pub fn model(store: Arc<dyn WeightStore>) -> Result<InType> {
    let mut types = BTreeMap::new();
    for parameter in store.spec().parameters() {
        if let Weight::Dense(tensor) = store.weight(&parameter.name)?
            && let Some(float_type) = narrower(&tensor, parameter.kind)
        {
            types.insert(parameter.name, float_type);
        }
    }
    Ok(InType::with(store, types))
}

/// What is not quantised: vectors as they are, matrices in 16 bits where these hold them.
pub fn kept(weight: Weight, kind: ParameterKind) -> Weight {
    match &weight {
        Weight::Dense(tensor) => match narrower(tensor, kind) {
            Some(float_type) => Weight::Dense(tensor.to_type(float_type)),
            None => weight,
        },
        Weight::Packed(_) => weight,
    }
}

/// Number format of a matrix in f32 that ships in 16 bits: f16 where no row loses more than f16's
/// own precision, relative to the row's greatest magnitude; otherwise bf16 where that loses
/// nothing. `None` where it ships as it is.
fn narrower(tensor: &DenseTensor, kind: ParameterKind) -> Option<FloatType> {
    if kind == ParameterKind::Vector || tensor.float_type != FloatType::F32 {
        return None;
    }
    let values = tensor.to_f32();
    let columns = tensor.shape.last().map_or(1, |&columns| columns.max(1));
    match () {
        () if values.par_chunks(columns).all(suits_f16) => Some(FloatType::F16),
        () if values.par_iter().all(|&value| bf16::from_f32(value).to_f32() == value) => Some(FloatType::Bf16),
        () => None,
    }
}

/// True if f16 holds every row of a tensor.
pub fn fits_f16(tensor: &DenseTensor) -> bool {
    let values = tensor.to_f32();
    let columns = tensor.shape.last().copied().unwrap_or(1).max(1);
    values.par_chunks(columns).all(suits_f16)
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
