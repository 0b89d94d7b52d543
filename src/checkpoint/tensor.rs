//! A named dense tensor as a checkpoint holds it: a view, not yet numbers.

use super::Bytes;
use crate::error::{Error, Result};
use half::{bf16, f16};
use rayon::prelude::*;
use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Number formats that weights come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FloatType {
    /// IEEE single precision.
    F32,
    /// IEEE half precision.
    F16,
    /// The upper half of an f32.
    Bf16,
}

impl FloatType {
    /// Bytes of one number.
    pub fn size_bytes(self) -> usize {
        match self {
            FloatType::F32 => 4,
            FloatType::F16 | FloatType::Bf16 => 2,
        }
    }

    /// The name in a safetensors header.
    pub fn safetensors(self) -> safetensors::Dtype {
        match self {
            FloatType::F32 => safetensors::Dtype::F32,
            FloatType::F16 => safetensors::Dtype::F16,
            FloatType::Bf16 => safetensors::Dtype::BF16,
        }
    }

    /// The reverse of [`FloatType::safetensors`]; `None` for what is not a weight.
    pub fn from_safetensors(dtype: safetensors::Dtype) -> Option<Self> {
        match dtype {
            safetensors::Dtype::F32 => Some(FloatType::F32),
            safetensors::Dtype::F16 => Some(FloatType::F16),
            safetensors::Dtype::BF16 => Some(FloatType::Bf16),
            _ => None,
        }
    }
}

/// A dense tensor, row-major, little-endian.
#[derive(Clone)]
pub struct DenseTensor {
    /// Name in the file it comes from.
    pub name: String,
    /// The file it comes from, for messages.
    pub path: Arc<PathBuf>,
    /// Number format.
    pub float_type: FloatType,
    /// Sizes, outermost first; weights are `[out, in]`.
    pub shape: Vec<usize>,
    /// The numbers.
    pub bytes: Bytes,
}

impl DenseTensor {
    /// A tensor of our own making, in f32.
    pub fn from_f32(name: &str, path: &Path, shape: Vec<usize>, values: &[f32]) -> Self {
        assert_eq!(shape.iter().product::<usize>(), values.len());
        Self {
            name: name.to_owned(),
            path: Arc::new(path.to_owned()),
            float_type: FloatType::F32,
            shape,
            bytes: Bytes::from_vec(bytemuck::cast_slice(values).to_vec()),
        }
    }

    /// How many numbers there are.
    pub fn len(&self) -> usize {
        self.bytes.len() / self.float_type.size_bytes()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The numbers in f32; borrowed where they already lie so.
    pub fn to_f32(&self) -> Cow<'_, [f32]> {
        match self.float_type {
            FloatType::F32 => match bytemuck::try_cast_slice(&self.bytes) {
                Ok(values) => Cow::Borrowed(values),
                // A file may place its data at any byte.
                Err(_) => Cow::Owned(self.widen(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))),
            },
            FloatType::F16 => Cow::Owned(self.widen(|b| f16::from_le_bytes([b[0], b[1]]).to_f32())),
            FloatType::Bf16 => Cow::Owned(self.widen(|b| bf16::from_le_bytes([b[0], b[1]]).to_f32())),
        }
    }

    fn row_bytes(&self) -> usize {
        self.shape[1..].iter().product::<usize>() * self.float_type.size_bytes()
    }

    /// A view of some rows that follow each other.
    pub fn rows(&self, rows: std::ops::Range<usize>) -> Self {
        let size = self.row_bytes();
        let shape = [&[rows.len()], &self.shape[1..]].concat();
        Self { shape, bytes: self.bytes.slice(rows.start * size..rows.end * size), ..self.clone() }
    }

    /// A copy of `count` rows, the i-th from `row(i)`; made when it is first touched.
    pub fn gather(&self, count: usize, row: impl Fn(usize) -> usize + Send + 'static) -> Self {
        let size = self.row_bytes();
        let from = self.bytes.clone();
        let gathered = move || (0..count).map(row).flat_map(|row| from[row * size..(row + 1) * size].iter().copied()).collect();
        Self { shape: [&[count], &self.shape[1..]].concat(), bytes: Bytes::made_late(count * size, gathered), ..self.clone() }
    }

    /// A matrix the other way round, made when it is first touched; a vector as it is.
    pub fn transposed(&self) -> Self {
        let &[rows, columns] = &self.shape[..] else { return self.clone() };
        let size = self.float_type.size_bytes();
        let from = self.bytes.clone();
        // Some columns at a time, so that the lines of a row that are read serve them all.
        const COLUMNS: usize = 64;
        let turn = move || {
            let mut turned = vec![0u8; from.len()];
            turned.par_chunks_mut(COLUMNS * rows * size).enumerate().for_each(|(block, turned)| {
                for row in 0..rows {
                    for (i, column) in (block * COLUMNS..columns.min((block + 1) * COLUMNS)).enumerate() {
                        let at = (row * columns + column) * size;
                        turned[(i * rows + row) * size..][..size].copy_from_slice(&from[at..at + size]);
                    }
                }
            });
            turned
        };
        Self { shape: vec![columns, rows], bytes: Bytes::made_late(self.bytes.len(), turn), ..self.clone() }
    }

    /// The numbers in another format, rounded to nearest when they are first touched; as
    /// they are where it is theirs.
    pub fn to_type(&self, float_type: FloatType) -> Self {
        if float_type == self.float_type {
            return self.clone();
        }
        let from = self.clone();
        let round = move || {
            let values = from.to_f32();
            match float_type {
                FloatType::F32 => bytemuck::cast_slice(&values).to_vec(),
                FloatType::F16 => values.iter().flat_map(|v| f16::from_f32(*v).to_le_bytes()).collect(),
                FloatType::Bf16 => values.iter().flat_map(|v| bf16::from_f32(*v).to_le_bytes()).collect(),
            }
        };
        Self { float_type, bytes: Bytes::made_late(self.len() * float_type.size_bytes(), round), ..self.clone() }
    }

    fn widen(&self, read: impl Fn(&[u8]) -> f32 + Sync + Send) -> Vec<f32> {
        self.bytes.par_chunks_exact(self.float_type.size_bytes()).with_min_len(1 << 16).map(read).collect()
    }

    /// Fails where the shape is not the one the model's configuration asks for.
    pub fn expect_shape(self, shape: &[usize]) -> Result<Self> {
        if self.shape == shape {
            return Ok(self);
        }
        Err(Error::TensorMismatch {
            expected: format!("shape {shape:?}"),
            found: format!("shape {:?}", self.shape),
            name: self.name,
            path: self.path.to_path_buf(),
        })
    }

    /// Fails where a number is NaN or infinite.
    pub fn expect_finite(self) -> Result<Self> {
        // All bits of the exponent, which every format has in its last two bytes.
        let exponent = match self.float_type {
            FloatType::F32 | FloatType::Bf16 => 0x7f80,
            FloatType::F16 => 0x7c00,
        };
        let size = self.float_type.size_bytes();
        let bad = |number: &[u8]| u16::from_le_bytes([number[size - 2], number[size - 1]]) & exponent == exponent;
        let places = || self.bytes.par_chunks_exact(size).with_min_len(1 << 16).enumerate().filter(|(_, number)| bad(number));
        match places().map(|(place, _)| place).min() {
            None => Ok(self),
            Some(first) => {
                let count = places().count();
                Err(Error::NonFinite { name: self.name, path: self.path.to_path_buf(), count, first })
            }
        }
    }
}
