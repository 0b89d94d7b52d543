//! The canonical quantised tensor: unpacked codes, scales and zero points or offsets.
//! What methods return and every format is packed from.

use super::exponents::power;
use super::quant_params::QuantParams;
use super::{Codebook, Outliers, Scheme};
use half::f16;
use ndarray::Array2;
use rayon::prelude::*;
use std::sync::Arc;

/// Order of columns in storage: stored column j is column `order[j]` of the model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Permutation {
    /// Canonical name of the tensor that stores it, shared by all that read the
    /// same input.
    pub name: String,
    /// Stored place -> place in the model.
    pub order: Vec<u32>,
}

/// Codes, scales and zero points or offsets of a weight `[out, in]`.
#[derive(Clone, Debug, PartialEq)]
pub struct QuantizedTensor {
    /// What it is quantised to.
    pub scheme: Scheme,
    /// `[out, in]`, columns in stored order; codebook indices are bytes without a sign.
    pub codes: Array2<i8>,
    /// `[out, groups]`
    pub scales: Array2<f16>,
    /// `[out, groups]`; all [`super::Code::middle`] where the scheme is symmetric.
    pub zero_points: Array2<i8>,
    /// `[out, groups]`; where codes are indices into a codebook and the scheme is not
    /// symmetric.
    pub offsets: Option<Array2<f16>>,
    /// The codebook of codes that are indices into one.
    pub codebook: Option<Arc<Codebook>>,
    /// Stored order of the columns, where it is not the model's.
    pub permutation: Option<Arc<Permutation>>,
    /// Columns that are kept in 16 bits, where there are any. Their codes are those of
    /// zeros and stand for nothing.
    pub outliers: Option<Outliers>,
    /// `[out]`: rows are multiplied by 2^exponent, scales, offsets and outliers alike; `None` where
    /// all exponents are 0 (see [`super::exponents`]).
    pub exponents: Option<Vec<i8>>,
}

impl QuantizedTensor {
    /// All zero; one with a codebook is to be given it.
    pub fn blank(scheme: Scheme, rows: usize, columns: usize) -> Self {
        let groups = scheme.groups(columns);
        let middle = scheme.code.middle() as i8;
        Self {
            scheme,
            codes: Array2::from_elem((rows, columns), middle),
            scales: Array2::from_elem((rows, groups), f16::ONE),
            zero_points: Array2::from_elem((rows, groups), middle),
            offsets: (scheme.code.has_codebook() && !scheme.symmetric).then(|| Array2::from_elem((rows, groups), f16::ZERO)),
            codebook: None,
            permutation: None,
            outliers: None,
            exponents: None,
        }
    }

    /// Sets scale, and zero point or offset, of a group.
    pub fn set_quant_params(&mut self, row: usize, group: usize, params: QuantParams) {
        self.scales[[row, group]] = params.scale;
        self.zero_points[[row, group]] = params.zero_point;
        if let Some(offsets) = &mut self.offsets {
            offsets[[row, group]] = params.offset;
        }
    }

    /// Factor of a row, 2^exponent.
    pub fn power(&self, row: usize) -> f32 {
        self.exponents.as_ref().map_or(1.0, |exponents| power(exponents[row]))
    }

    /// Scale, and zero point or offset, of a group, before the row's [`power`](Self::power).
    pub fn quant_params(&self, row: usize, group: usize) -> QuantParams {
        let offset = self.offsets.as_ref().map_or(f16::ZERO, |offsets| offsets[[row, group]]);
        QuantParams { scale: self.scales[[row, group]], zero_point: self.zero_points[[row, group]], offset }
    }

    /// The weight `[out, in]` that the codes stand for, in the model's order of
    /// columns.
    pub fn dequantize(&self) -> Array2<f32> {
        let (rows, columns) = self.codes.dim();
        let width = self.scheme.group_columns(columns);
        let mut weight = Array2::zeros((rows, columns));
        let (numbers, codes) = (weight.as_slice_mut().expect("standard layout"), self.codes.as_slice().expect("standard layout"));
        let rows = numbers.par_chunks_mut(columns.max(1)).zip(codes.par_chunks(columns.max(1))).enumerate();
        rows.for_each(|(row, (numbers, codes))| {
            for (group, codes) in codes.chunks(width).enumerate() {
                let (params, first) = (self.quant_params(row, group), group * width);
                match &self.permutation {
                    None => params.decode_all(self.codebook.as_deref(), codes, &mut numbers[first..first + codes.len()]),
                    Some(permutation) => {
                        let places = &permutation.order[first..first + codes.len()];
                        places.iter().zip(codes).for_each(|(&place, &code)| {
                            numbers[place as usize] = params.decode_by(self.codebook.as_deref(), code);
                        });
                    }
                }
            }
        });
        if let Some(outliers) = &self.outliers {
            outliers.put(&mut weight);
        }
        if self.exponents.is_some() {
            for (row, mut values) in weight.rows_mut().into_iter().enumerate() {
                values *= self.power(row);
            }
        }
        weight
    }

    /// Whether every column is kept in 16 bits, so that no code stands for anything.
    pub fn is_kept(&self) -> bool {
        self.outliers.as_ref().is_some_and(|outliers| outliers.values.dim() == self.codes.dim())
    }

    /// Bits of one weight with its share of everything but padding and what it shares
    /// with others that read the same input.
    pub fn bits_per_weight(&self) -> f64 {
        let (rows, columns) = self.codes.dim();
        let kept = self.outliers.as_ref().map_or(0, |outliers| outliers.columns.places.len());
        let exponents = if self.exponents.is_some() { 8.0 / columns as f64 } else { 0.0 };
        match self.is_kept() {
            // What f16 cannot hold without exponents is kept in f32.
            true => {
                if self.exponents.is_some() {
                    32.0
                } else {
                    16.0
                }
            }
            false => self.scheme.bits_per_weight([rows, columns]) + 16.0 * kept as f64 / columns as f64 + exponents,
        }
    }
}
