//! Weights in −1, 0 and 1 as BitNet checkpoints hold them: `X.weight` with four rows to a
//! byte, or plainly, beside `X.weight_scale` of one number.
//!
//! Source: transformers, `integrations/bitnet.py` (`pack_weights`, `BitLinear`,
//! `AutoBitLinear`).

use super::{Bytes, Checkpoint, DenseTensor, FloatType};
use crate::error::{Error, Result};
use std::collections::BTreeSet;

/// Rows of a byte, the first in its lowest bits.
const ROWS: usize = 4;

/// Takes scales out of a checkpoint, and puts in the place of each weight that has one what
/// it stands for, in f32, made when it is first touched: codes times the scale, or, with
/// `divides`, through it. Gives the names of these weights.
pub fn unpack(checkpoint: &mut Checkpoint, divides: bool) -> Result<BTreeSet<String>> {
    let scales: Vec<String> = checkpoint.tensors.keys().filter(|name| name.ends_with(".weight_scale")).cloned().collect();
    let mut weights = BTreeSet::new();
    for name in scales {
        let scale = checkpoint.tensors.remove(&name).expect("it was just found");
        let factor = factor(&scale, divides)?;
        let weight = name.strip_suffix("_scale").expect("it ends so").to_owned();
        let tensor = match checkpoint.unread.remove(&weight) {
            None => scaled(checkpoint.tensor(&weight)?, factor),
            Some(super::Unread { dtype, shape, bytes: Some(bytes) }) if dtype == "U8" && shape.len() == 2 => DenseTensor {
                name: weight.clone(),
                shape: vec![ROWS * shape[0], shape[1]],
                ..made(&scale, bytes.len() * ROWS, values(bytes, factor))
            },
            Some(super::Unread { dtype, shape, .. }) => {
                let expected = "U8 of two dimensions, four rows to a byte".to_owned();
                return Err(Error::TensorMismatch {
                    name: weight,
                    path: scale.path.to_path_buf(),
                    expected,
                    found: format!("{dtype} {shape:?}"),
                });
            }
        };
        checkpoint.tensors.insert(weight.clone(), tensor);
        weights.insert(weight);
    }
    Ok(weights)
}

/// What codes are multiplied by.
fn factor(scale: &DenseTensor, divides: bool) -> Result<f32> {
    let values = scale.to_f32();
    let factor = if divides { values.first().map(|s| s.recip()) } else { values.first().copied() };
    match factor.filter(|factor| values.len() == 1 && factor.is_normal() && *factor > 0.0) {
        Some(factor) => Ok(factor),
        None => Err(Error::TensorMismatch {
            name: scale.name.clone(),
            path: scale.path.to_path_buf(),
            expected: "one number, positive and finite".into(),
            found: format!("{:?}", &values[..values.len().min(4)]),
        }),
    }
}

fn scaled(tensor: DenseTensor, factor: f32) -> DenseTensor {
    let from = tensor.clone();
    let values = move || from.to_f32().iter().map(|code| code * factor).collect();
    let (name, shape) = (tensor.name.clone(), tensor.shape.clone());
    DenseTensor { name, shape, ..made(&tensor, tensor.len(), values) }
}

/// The values of packed codes.
fn values(packed: Bytes, factor: f32) -> impl FnOnce() -> Vec<f32> {
    // Two bits could be 3, which is none of them: NaN, which is found when it is read.
    let of = move |code: u8| [-factor, 0.0, factor, f32::NAN][usize::from(code & 3)];
    move || (0..ROWS).flat_map(|row| packed.iter().map(move |byte| of(byte >> (2 * row)))).collect()
}

fn made(like: &DenseTensor, len: usize, values: impl FnOnce() -> Vec<f32> + Send + 'static) -> DenseTensor {
    let fill = move || bytemuck::cast_slice(&values()).to_vec();
    let float_type = FloatType::F32;
    DenseTensor { float_type, bytes: Bytes::made_late(len * float_type.size_bytes(), fill), ..like.clone() }
}
