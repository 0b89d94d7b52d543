//! Weights in −1, 0 and 1 as BitNet checkpoints hold them: `X.weight` with four rows to a
//! byte, or plainly, beside `X.weight_scale` of one number.
//!
//! Source: transformers, `integrations/bitnet.py` (`pack_weights`, `BitLinear`,
//! `AutoBitLinear`).

use super::{Bytes, Checkpoint, DenseTensor, FloatType, Unread};
use crate::error::{Error, Result};
use rayon::prelude::*;
use std::collections::BTreeSet;

/// Rows of a byte, the first in its lowest bits.
const ROWS: usize = 4;

/// A tensor that stands for others numbers than it holds.
pub(super) struct Scaled {
    /// With the shape of what it stands for.
    like: DenseTensor,
    codes: Codes,
    factor: f32,
}

enum Codes {
    /// Four rows to a byte.
    Packed(Bytes),
    /// As they are.
    Plain(DenseTensor),
}

/// Takes scales out of a checkpoint, and has each weight that has one read as what it stands
/// for, in f32: codes times the scale, or, with `divides`, through it. Without, a bias is
/// scaled too, as `AutoBitLinear` does it. Gives the names of these weights.
pub fn unpack(checkpoint: &mut Checkpoint, divides: bool) -> Result<BTreeSet<String>> {
    let scales: Vec<String> = checkpoint.tensors.keys().filter(|name| name.ends_with(".weight_scale")).cloned().collect();
    let mut weights = BTreeSet::new();
    for name in scales {
        let scale = checkpoint.tensors.remove(&name).expect("it was just found");
        let factor = factor(&scale, divides)?;
        let layer = name.strip_suffix("weight_scale").expect("it ends so");
        let (weight, bias) = (format!("{layer}weight"), format!("{layer}bias"));
        let scaled = match checkpoint.unread.remove(&weight) {
            None => Scaled::plain(checkpoint.tensor(&weight)?, factor),
            Some(unread) => Scaled::packed(&weight, unread, &scale, factor)?,
        };
        checkpoint.stand_for(scaled);
        if let Some(bias) = checkpoint.tensors.get(&bias).filter(|_| !divides) {
            let scaled = Scaled::plain(bias.clone(), factor);
            checkpoint.stand_for(scaled);
        }
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

impl Scaled {
    fn plain(tensor: DenseTensor, factor: f32) -> Self {
        Self { like: tensor.clone(), codes: Codes::Plain(tensor), factor }
    }

    /// In the file of its scale.
    fn packed(name: &str, unread: Unread, scale: &DenseTensor, factor: f32) -> Result<Self> {
        let Unread { dtype, shape, bytes } = unread;
        match (bytes, &shape[..]) {
            (Some(bytes), &[rows, columns]) if dtype == "U8" => {
                let like = DenseTensor { name: name.to_owned(), shape: vec![ROWS * rows, columns], ..scale.clone() };
                Ok(Self { like, codes: Codes::Packed(bytes), factor })
            }
            (bytes, _) => Err(Error::TensorMismatch {
                name: name.to_owned(),
                path: scale.path.to_path_buf(),
                expected: "a matrix of U8 in a safetensors file, four rows to a byte".into(),
                found: format!("{dtype} {shape:?}{}", if bytes.is_none() { " in a PyTorch file" } else { "" }),
            }),
        }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.like.name
    }

    /// What it stands for, made when it is first touched. Each is let go by itself: all of a
    /// model would take sixteen times the memory of its codes.
    pub fn tensor(&self) -> DenseTensor {
        let (float_type, factor) = (FloatType::F32, self.factor);
        let len = self.like.shape.iter().product::<usize>() * float_type.size_bytes();
        let bytes = match &self.codes {
            Codes::Packed(packed) => {
                let packed = packed.clone();
                // Two bits could be 3, which is none of them: NaN, which is found when it is read.
                let of = move |code: u8| [-factor, 0.0, factor, f32::NAN][usize::from(code & 3)];
                Bytes::made_late(len, move || {
                    let mut made = vec![0u8; len];
                    made.par_chunks_exact_mut((len / ROWS).max(1)).enumerate().for_each(|(row, made)| {
                        let numbers = made.chunks_exact_mut(4).zip(packed.iter());
                        numbers.for_each(|(number, byte)| number.copy_from_slice(&of(byte >> (2 * row)).to_le_bytes()));
                    });
                    made
                })
            }
            Codes::Plain(codes) => {
                let codes = codes.clone();
                Bytes::made_late(len, move || codes.to_f32().iter().flat_map(|code| (code * factor).to_le_bytes()).collect())
            }
        };
        DenseTensor { float_type, bytes, ..self.like.clone() }
    }
}
