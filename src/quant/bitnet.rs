//! BitNet checkpoints: linear layers in −1, 0 and 1, packed as they are opened.

use super::exponents;
use super::quant_params::storable;
use super::{Code, Layout, QuantizedTensor, Scheme, Weight, WeightStore};
use crate::checkpoint::DenseTensor;
use crate::error::{Error, Result};
use crate::model::{DenseModel, Held, ModelSpec};
use half::f16;
use ndarray::{Array2, ArrayView2};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

/// A model some of whose weights are not [`Held::Plainly`].
pub struct BitNetModel {
    model: DenseModel,
    /// What has been packed.
    packed: Mutex<BTreeMap<String, Weight>>,
}

impl BitNetModel {
    /// Of a checkpoint seen through canonical names.
    pub fn new(model: DenseModel) -> Self {
        Self { model, packed: Mutex::default() }
    }
}

impl WeightStore for BitNetModel {
    fn spec(&self) -> &ModelSpec {
        self.model.spec()
    }

    fn weight(&self, name: &str) -> Result<Weight> {
        let held = self.model.held(name);
        if held == Held::Plainly {
            return self.model.tensor(name).map(Weight::Dense);
        }
        if let Some(weight) = self.packed.lock().expect("no panic while it is held").get(name) {
            return Ok(weight.clone());
        }
        let weight = Weight::pack(name, &ternary(&self.model.tensor(name)?, held)?, Layout::Tiles);
        self.packed.lock().expect("no panic while it is held").insert(name.to_owned(), weight.clone());
        Ok(weight)
    }

    fn files(&self) -> Vec<Arc<PathBuf>> {
        self.model.files()
    }
}

/// The codes of a weight.
fn ternary(tensor: &DenseTensor, held: Held) -> Result<QuantizedTensor> {
    let values = tensor.to_f32();
    let matrix = ArrayView2::from_shape((tensor.shape[0], tensor.shape[1]), &values).expect("shapes are checked");
    let scales: Vec<f32> = match held {
        // In the precision of training, for the codes depend on it.
        Held::AsTrained => {
            let sum: f64 = values.iter().map(|v| f64::from(v.abs())).sum();
            vec![(sum / values.len() as f64).max(1e-5) as f32; matrix.nrows()]
        }
        // A row without weights has any scale. Rows that lay in one matrix have one.
        _ => {
            let greatest = |row: ndarray::ArrayView1<f32>| row.iter().fold(0f32, |m, v| m.max(v.abs()));
            let all = values.iter().fold(0f32, |m, v| m.max(v.abs()));
            matrix
                .rows()
                .into_iter()
                .map(|row| Some(greatest(row)).filter(|s| *s > 0.0).unwrap_or(if all > 0.0 { all } else { 1.0 }))
                .collect()
        }
    };
    let scheme = Scheme::integers(Code::Ternary, 0, true);
    let mut codes = Array2::zeros(matrix.raw_dim());
    for ((mut codes, row), scale) in codes.rows_mut().into_iter().zip(matrix.rows()).zip(&scales) {
        for (code, value) in codes.iter_mut().zip(row) {
            let steps = value / scale;
            let nearest = steps.round_ties_even().clamp(-1.0, 1.0);
            if held == Held::Ternary && (steps - nearest).abs() > 1e-6 {
                let reason = format!("tensor {}: {value} is none of −1, 0 and 1 times its scale {scale}", tensor.name);
                return Err(Error::format(&tensor.path, reason));
            }
            *code = nearest as i8 + scheme.code.middle() as i8;
        }
    }
    let exponents = exponents::of_rows(&scales, exponents::OF_SCALES, false);
    let power = |row: usize| exponents.as_ref().map_or(1.0, |exponents| exponents::power(exponents[row]));
    let scales: Vec<f16> = scales.into_iter().enumerate().map(|(row, scale)| storable((scale / power(row)).into())).collect();
    let scales = Array2::from_shape_vec((matrix.nrows(), 1), scales).expect("a scale a row");
    Ok(QuantizedTensor { codes, scales, exponents, ..QuantizedTensor::blank(scheme, matrix.nrows(), matrix.ncols()) })
}
