//! Columns of a weight that stay in 16 bits beside the codes of all others: the
//! mixed-precision decomposition of LLM.int8() (Dettmers, Lewis, Belkada and
//! Zettlemoyer 2022, section 3.2), for any scheme.
//!
//! A product then is that of the kept columns in f16 and that of the codes, whose
//! activations in the kept columns are zero:
//!
//! ```text
//! y[o] = Σ_{i ∈ O} W[o,i] · x[i]  +  Σ_{i ∉ O} scale[o,g] · (code[o,i] − zero_point[o,g]) · x[i]
//! ```

use crate::checkpoint::Bytes;
use half::f16;
use ndarray::Array2;
use std::ops::Range;
use std::sync::Arc;

/// Which columns of an input are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Columns {
    /// Canonical name of the tensor that stores them, shared by all that read the
    /// same input.
    pub name: String,
    /// Places in the model's order of columns, ascending; one at least.
    pub places: Vec<u32>,
}

/// Places that are not ascending columns of a weight; messages continue "expected …, found".
#[derive(Debug, thiserror::Error)]
pub enum ColumnsError {
    /// No column.
    #[error("none")]
    None,
    /// Out of order, or one of them twice.
    #[error("columns that do not ascend")]
    Unsorted,
    /// Beyond the weight.
    #[error("column {0}")]
    Outside(u32),
}

impl Columns {
    /// Fails where they are not columns of rows of `width` numbers.
    pub fn check(&self, width: usize) -> Result<(), ColumnsError> {
        match self.places.last() {
            None => Err(ColumnsError::None),
            _ if !self.places.is_sorted_by(|a, b| a < b) => Err(ColumnsError::Unsorted),
            Some(&last) if last as usize >= width => Err(ColumnsError::Outside(last)),
            Some(_) => Ok(()),
        }
    }

    /// Takes these columns out of rows of `width` numbers and leaves zeros there:
    /// `[rows, width]` → `[rows, columns]`.
    pub fn take(&self, rows: &mut [f32], width: usize) -> Vec<f32> {
        let mut taken = Vec::with_capacity(rows.len() / width * self.places.len());
        for row in rows.chunks_exact_mut(width) {
            taken.extend(self.places.iter().map(|&place| std::mem::take(&mut row[place as usize])));
        }
        taken
    }
}

/// Kept columns of a weight `[out, in]`, in its canonical form.
#[derive(Clone, Debug, PartialEq)]
pub struct Outliers {
    /// Which.
    pub columns: Arc<Columns>,
    /// `[out, columns]`, finite.
    pub values: Array2<f16>,
}

impl Outliers {
    /// Takes columns out of a weight `[out, in]` and leaves zeros there, so that
    /// neither the scales nor the codes of what is left know of them. What f16 cannot
    /// hold becomes the nearest number that it can.
    pub fn take(weight: &mut Array2<f32>, columns: &Arc<Columns>) -> Self {
        let (rows, width) = weight.dim();
        let taken = columns.take(weight.as_slice_mut().expect("standard layout"), width);
        let values = Array2::from_shape_vec((rows, columns.places.len()), taken).expect("a number each");
        Self { columns: columns.clone(), values: values.mapv(|v| f16::from_f32(v).clamp(f16::MIN, f16::MAX)) }
    }

    /// Puts them into a weight `[out, in]` in the model's order of columns.
    pub fn put(&self, weight: &mut Array2<f32>) {
        for (mut row, values) in weight.outer_iter_mut().zip(self.values.outer_iter()) {
            self.columns.places.iter().zip(values).for_each(|(&place, value)| row[place as usize] = value.to_f32());
        }
    }

    /// Packs; the result owns its bytes.
    pub fn pack(&self) -> PackedOutliers {
        let values = self.values.iter().flat_map(|v| v.to_le_bytes()).collect();
        PackedOutliers { columns: self.columns.clone(), values: Bytes::from_vec(values) }
    }
}

/// Kept columns as bytes, usually views of a mapped file: a dense matrix that the
/// kernels of dense weights read as it lies, rows of any number and width.
#[derive(Clone, PartialEq)]
pub struct PackedOutliers {
    /// Which.
    pub columns: Arc<Columns>,
    /// f16 `[out, columns]`, little-endian, row after row.
    pub values: Bytes,
}

impl PackedOutliers {
    /// Columns of a row.
    pub fn width(&self) -> usize {
        self.columns.places.len()
    }

    /// The bytes of some rows.
    pub fn rows(&self, rows: Range<usize>) -> &[u8] {
        let row_bytes = self.width() * size_of::<f16>();
        &self.values[rows.start * row_bytes..rows.end * row_bytes]
    }

    /// Puts one row's values into that row, in the model's order of columns.
    pub fn put(&self, row: usize, out: &mut [f32]) {
        let values = self.rows(row..row + 1).as_chunks().0;
        self.columns.places.iter().zip(values).for_each(|(&place, value)| out[place as usize] = f16::from_le_bytes(*value).to_f32());
    }

    /// Back to the canonical form, exactly what was packed.
    pub fn unpack(&self) -> Outliers {
        let values: Vec<f16> = self.values.as_chunks().0.iter().map(|value| f16::from_le_bytes(*value)).collect();
        let values = Array2::from_shape_vec((values.len() / self.width(), self.width()), values).expect("whole rows");
        Outliers { columns: self.columns.clone(), values }
    }
}
