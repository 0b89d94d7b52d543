//! Rounding to nearest: from the values of a weight to codes, of integers or of a
//! codebook alike.

use super::exponents;
use super::quant_params::{GridChoice, GridSearch, QuantParams, Real};
use super::{Codebook, DataType, QuantizedTensor, Scheme};
use half::f16;
use ndarray::{Array2, ArrayView2};
use rayon::prelude::*;
use std::sync::Arc;

/// Values that quantiles are taken of, about: more tell nothing new.
const QUANTILE_SAMPLE: usize = 1 << 20;

/// What a weight is rounded to, and how.
#[derive(Clone, Debug)]
pub struct Rounding {
    /// Codes and groups.
    pub scheme: Scheme,
    /// The numbers that codes stand for, where they are indices into a codebook.
    pub codebook: Option<Arc<Codebook>>,
    /// How the quantisation parameters of a group are found.
    pub choice: GridChoice,
}

impl Rounding {
    /// For a weight `[out, in]`, which is asked for where the codebook is to be made from it.
    pub fn new(scheme: Scheme, choice: GridChoice, weight: impl FnOnce() -> Array2<f32>) -> Self {
        let bits = scheme.code.bits();
        let codebook = match scheme.data_type {
            DataType::Quantile => Some(Codebook::of_quantiles(bits, normalised(scheme, weight().view()))),
            other => Codebook::shared(other, bits),
        };
        assert_eq!(codebook.is_some(), scheme.code.has_codebook(), "codebook indices have a codebook: {scheme:?}");
        Self { scheme, codebook: codebook.map(Arc::new), choice }
    }

    /// Quantisation parameters of a group. `importance`, one number a value, weighs the errors of a
    /// search.
    pub fn quant_params<T: Real>(&self, values: &[T], importance: Option<&[f64]>) -> QuantParams {
        match self.choice {
            GridChoice::MinMax => self.widest(values),
            GridChoice::LeastError(search) => {
                let candidates = self.candidates(&search, values).into_iter();
                // A loop of its own for integers, which is vectorised.
                let least = match &self.codebook {
                    None => search.least(candidates, values, importance, |params| params.rounds(self.scheme)),
                    Some(codebook) => search.least(candidates, values, importance, |params| move |value| on(codebook, params, value)),
                };
                least.unwrap_or_else(|| self.widest(values))
            }
        }
    }

    /// Parameters whose range holds all values.
    fn widest<T: Real>(&self, values: &[T]) -> QuantParams {
        match &self.codebook {
            None => QuantParams::min_max(self.scheme, values.iter().copied()),
            Some(codebook) => {
                let offset = offset(self.scheme, values);
                QuantParams::filling(codebook, distance(values, offset), offset)
            }
        }
    }

    /// Quantisation parameters that a search tries for a group, the widest first.
    pub fn candidates<T: Real>(&self, search: &GridSearch, values: &[T]) -> Vec<QuantParams> {
        let Some(codebook) = &self.codebook else { return search.candidates(self.scheme, values).collect() };
        let offset = offset(self.scheme, values);
        let greatest = distance(values, offset);
        search.shares().map(|share| QuantParams::filling(codebook, share * greatest, offset)).collect()
    }

    /// The nearest code.
    pub fn encode<T: Real>(&self, params: QuantParams, value: T) -> i8 {
        match &self.codebook {
            None => params.encode(self.scheme, value),
            Some(codebook) => params.encode_by(codebook, value),
        }
    }

    /// The nearest codes of a group.
    fn encode_all<T: Real>(&self, params: QuantParams, values: &[T], codes: &mut [i8]) {
        let each = codes.iter_mut().zip(values);
        match &self.codebook {
            None => {
                let encode = params.encodes(self.scheme);
                each.for_each(|(code, &value)| *code = encode(value));
            }
            Some(codebook) => each.for_each(|(code, &value)| *code = params.encode_by(codebook, value)),
        }
    }

    /// The value of a code.
    pub fn decode<T: Real>(&self, params: QuantParams, code: i8) -> T {
        params.decode_by(self.codebook.as_deref(), code)
    }

    /// The nearest value.
    #[inline]
    pub fn round<T: Real>(&self, params: QuantParams, value: T) -> T {
        match &self.codebook {
            None => params.rounds(self.scheme)(value),
            Some(codebook) => on(codebook, params, value),
        }
    }

    /// A tensor to be filled with codes.
    pub fn blank(&self, rows: usize, columns: usize) -> QuantizedTensor {
        QuantizedTensor { codebook: self.codebook.clone(), ..QuantizedTensor::blank(self.scheme, rows, columns) }
    }
}

/// The nearest number of a codebook by quantisation parameters.
fn on<T: Real>(codebook: &Codebook, params: QuantParams, value: T) -> T {
    params.decode_by(Some(codebook), params.encode_by(codebook, value))
}

/// The mean of a group where the scheme is centred, otherwise zero.
///
/// Source: Dettmers and Zettlemoyer, "The case for 4-bit precision" (2022),
/// appendix B.
fn offset<T: Real>(scheme: Scheme, values: &[T]) -> f16 {
    if scheme.symmetric || values.is_empty() {
        return f16::ZERO;
    }
    let mean = values.iter().map(|v| Real::to_f64(*v)).sum::<f64>() / values.len() as f64;
    f16::from_f64(mean).clamp(f16::MIN, f16::MAX)
}

/// The greatest distance from an offset.
fn distance<T: Real>(values: &[T], offset: f16) -> f64 {
    values.iter().fold(0.0, |m, v| (Real::to_f64(*v) - f64::from(offset)).abs().max(m))
}

/// Values of each group about its offset, divided by the greatest magnitude; of a
/// large weight those of some rows, at even distances.
fn normalised(scheme: Scheme, weight: ArrayView2<f32>) -> Vec<f32> {
    let width = scheme.group_columns(weight.ncols());
    let mut all = Vec::new();
    for row in weight.rows().into_iter().step_by(weight.len().div_ceil(QUANTILE_SAMPLE).max(1)) {
        for values in row.to_vec().chunks(width) {
            let offset = offset(scheme, values);
            let factor = distance(values, offset).recip();
            let normal = |v: &f32| if factor.is_finite() { ((f64::from(*v) - f64::from(offset)) * factor) as f32 } else { 0.0 };
            all.extend(values.iter().map(normal));
        }
    }
    all
}

/// Round to nearest, each group on its own min-max range. `weight` is `[out, in]`.
pub fn round_to_nearest(weight: ArrayView2<f32>, scheme: Scheme) -> QuantizedTensor {
    round_by(weight, scheme, GridChoice::MinMax, None)
}

/// Rounds to nearest by quantisation parameters of any choice; `importance` is one number a column. Rows that f16 scales cannot
/// hold get [`exponents`].
pub fn round_by(weight: ArrayView2<f32>, scheme: Scheme, choice: GridChoice, importance: Option<&[f64]>) -> QuantizedTensor {
    let Some(exponents) = exponents::of_rows(&exponents::greatest_of_rows(weight), scheme, false) else {
        return round_rows(weight, scheme, choice, importance);
    };
    let mut divided = weight.as_standard_layout().into_owned();
    exponents::divide(&mut divided, &exponents);
    QuantizedTensor { exponents: Some(exponents), ..round_rows(divided.view(), scheme, choice, importance) }
}

/// Rounds rows that need no exponents.
fn round_rows(weight: ArrayView2<f32>, scheme: Scheme, choice: GridChoice, importance: Option<&[f64]>) -> QuantizedTensor {
    let (rows, columns) = weight.dim();
    let width = scheme.group_columns(columns);
    let rounding = Rounding::new(scheme, choice, || weight.to_owned());
    let mut quantized = rounding.blank(rows, columns);
    let codes = quantized.codes.as_slice_mut().expect("standard layout");
    let round = |(row, codes): (usize, &mut [i8])| {
        let values = weight.row(row).to_vec();
        let groups = values.chunks(width).zip(codes.chunks_mut(width)).enumerate();
        let params = groups.map(|(group, (values, codes))| {
            let params = rounding.quant_params(values, importance.map(|all| &all[group * width..group * width + values.len()]));
            rounding.encode_all(params, values, codes);
            params
        });
        params.collect()
    };
    let rows: Vec<Vec<QuantParams>> = codes.par_chunks_mut(columns.max(1)).enumerate().map(round).collect();
    for (row, params) in rows.into_iter().enumerate() {
        params.into_iter().enumerate().for_each(|(group, params)| quantized.set_quant_params(row, group, params));
    }
    quantized
}

/// What rounding to nearest makes of a weight `[out, in]`.
pub fn rounded(weight: ArrayView2<f32>, scheme: Scheme) -> Array2<f32> {
    let rounding = Rounding::new(scheme, GridChoice::MinMax, || weight.to_owned());
    let mut rounded = weight.as_standard_layout().into_owned();
    let columns = weight.ncols().max(1);
    let values = rounded.as_slice_mut().expect("standard layout");
    values.par_chunks_mut(columns).for_each(|row| {
        let power = exponents::power(exponents::of_row(exponents::greatest(row), scheme));
        for group in row.chunks_mut(scheme.group_columns(columns)) {
            group.iter_mut().for_each(|value| *value /= power);
            let params = rounding.quant_params(group, None);
            group.iter_mut().for_each(|value| *value = rounding.round(params, *value) * power);
        }
    });
    rounded
}
