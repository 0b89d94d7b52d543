//! Where decoders get weights from, dense or packed.

use super::{Layout, PackedTensor, QuantizedTensor};
use crate::checkpoint::{DenseTensor, FloatType};
use crate::error::Result;
use crate::model::{DenseModel, ModelSpec};
use rayon::prelude::*;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// One parameter as it is stored.
#[derive(Clone)]
pub enum Weight {
    /// Full precision.
    Dense(DenseTensor),
    /// Quantised.
    Packed(PackedTensor),
}

impl Weight {
    /// Numbers of our own making, row-major, as they are; the name is for messages.
    pub fn from_f32(name: &str, shape: Vec<usize>, values: &[f32]) -> Self {
        Weight::Dense(DenseTensor::from_f32(name, Path::new(""), shape, values))
    }

    /// Packs; where every column is kept in 16 bits, and nothing is quantised, the
    /// numbers alone.
    pub fn pack(name: &str, tensor: &QuantizedTensor, layout: Layout) -> Self {
        match &tensor.outliers {
            Some(_) if tensor.is_kept() && tensor.exponents.is_some() => {
                let weight = tensor.dequantize();
                Self::from_f32(name, weight.shape().to_vec(), weight.as_slice().expect("standard layout"))
            }
            Some(outliers) if tensor.is_kept() => Weight::Dense(DenseTensor {
                name: name.to_owned(),
                path: Arc::default(),
                float_type: FloatType::F16,
                shape: tensor.codes.shape().to_vec(),
                bytes: outliers.pack().values,
            }),
            _ => Weight::Packed(PackedTensor::pack(tensor, layout)),
        }
    }

    /// The numbers it stands for, row-major.
    pub fn to_f32(&self) -> Cow<'_, [f32]> {
        match self {
            Weight::Dense(tensor) => tensor.to_f32(),
            Weight::Packed(tensor) => {
                let columns = tensor.tiling.columns;
                let mut all = vec![0.0; tensor.tiling.rows * columns];
                all.par_chunks_exact_mut(columns).enumerate().for_each(|(row, out)| tensor.row(row, out));
                Cow::Owned(all)
            }
        }
    }

    /// Decodes one row of a matrix, the look-up of an embedding.
    pub fn row(&self, row: usize, out: &mut [f32]) {
        match self {
            Weight::Packed(packed) => packed.row(row, out),
            Weight::Dense(dense) => {
                let bytes = out.len() * dense.float_type.size_bytes();
                let bytes = dense.bytes.slice(row * bytes..(row + 1) * bytes);
                let row = DenseTensor { shape: vec![out.len()], bytes, ..dense.clone() };
                out.copy_from_slice(&row.to_f32());
            }
        }
    }

    /// Bytes it takes, what it [shares](PackedTensor::shared) with others aside.
    pub fn len_bytes(&self) -> usize {
        match self {
            Weight::Dense(tensor) => tensor.bytes.len(),
            Weight::Packed(tensor) => tensor.len_bytes(),
        }
    }

    /// Its sizes.
    pub fn shape(&self) -> Vec<usize> {
        match self {
            Weight::Dense(tensor) => tensor.shape.clone(),
            Weight::Packed(tensor) => vec![tensor.tiling.rows, tensor.tiling.columns],
        }
    }
}

/// A model's weights by canonical name.
pub trait WeightStore: Send + Sync {
    /// What the model is.
    fn spec(&self) -> &ModelSpec;
    /// A parameter; panics on a name that the spec does not have.
    fn weight(&self, name: &str) -> Result<Weight>;
    /// The same without reading its numbers, for what counts bytes.
    fn stored(&self, name: &str) -> Result<Weight> {
        self.weight(name)
    }
    /// The files it lies in.
    fn files(&self) -> Vec<Arc<PathBuf>>;
}

impl WeightStore for DenseModel {
    fn spec(&self) -> &ModelSpec {
        DenseModel::spec(self)
    }
    fn weight(&self, name: &str) -> Result<Weight> {
        self.tensor(name).map(Weight::Dense)
    }
    fn stored(&self, name: &str) -> Result<Weight> {
        DenseModel::stored(self, name).map(Weight::Dense)
    }
    fn files(&self) -> Vec<Arc<PathBuf>> {
        DenseModel::files(self)
    }
}

/// A model put together from parts.
pub struct Assembled {
    spec: ModelSpec,
    weights: BTreeMap<String, Weight>,
}

impl Assembled {
    /// `weights` are all parameters of `spec` by canonical name.
    pub fn new(spec: ModelSpec, weights: impl IntoIterator<Item = (String, Weight)>) -> Self {
        Self { spec, weights: weights.into_iter().collect() }
    }
}

impl WeightStore for Assembled {
    fn spec(&self) -> &ModelSpec {
        &self.spec
    }
    fn weight(&self, name: &str) -> Result<Weight> {
        Ok(self.weights[name].clone())
    }
    fn files(&self) -> Vec<Arc<PathBuf>> {
        Vec::new()
    }
}
