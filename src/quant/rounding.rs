//! Rounding to nearest: from the values of a weight to codes, of integers or of a
//! book alike.

use super::exponents;
use super::grid::{Grid, GridChoice, GridSearch, Real};
use super::{Book, DataType, QuantizedTensor, Scheme};
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
    /// The numbers that codes stand for, where they are places in a book.
    pub book: Option<Arc<Book>>,
    /// How the grid of a group is found.
    pub choice: GridChoice,
}

impl Rounding {
    /// For a weight `[out, in]`, which is asked for where the book is to be made from it.
    pub fn new(scheme: Scheme, choice: GridChoice, weight: impl FnOnce() -> Array2<f32>) -> Self {
        let bits = scheme.code.bits();
        let book = match scheme.data_type {
            DataType::Quantile => Some(Book::of_quantiles(bits, normalised(scheme, weight().view()))),
            other => Book::shared(other, bits),
        };
        assert_eq!(book.is_some(), scheme.code.has_book(), "codes of a book have one: {scheme:?}");
        Self { scheme, book: book.map(Arc::new), choice }
    }

    /// The grid of a group. `importance`, one number a value, weighs the errors of a
    /// search.
    pub fn grid<T: Real>(&self, values: &[T], importance: Option<&[f64]>) -> Grid {
        match self.choice {
            GridChoice::MinMax => self.widest(values),
            GridChoice::LeastError(search) => {
                let grids = self.candidates(&search, values).into_iter();
                // A loop of its own for integers, which is vectorised.
                let least = match &self.book {
                    None => search.least(grids, values, importance, |grid| grid.rounds(self.scheme)),
                    Some(book) => search.least(grids, values, importance, |grid| move |value| on(book, grid, value)),
                };
                least.unwrap_or_else(|| self.widest(values))
            }
        }
    }

    /// The grid that all values are on.
    fn widest<T: Real>(&self, values: &[T]) -> Grid {
        match &self.book {
            None => Grid::min_max(self.scheme, values.iter().copied()),
            Some(book) => {
                let offset = offset(self.scheme, values);
                Grid::filling(book, distance(values, offset), offset)
            }
        }
    }

    /// Grids that a search tries for a group, the widest first.
    pub fn candidates<T: Real>(&self, search: &GridSearch, values: &[T]) -> Vec<Grid> {
        let Some(book) = &self.book else { return search.candidates(self.scheme, values).collect() };
        let offset = offset(self.scheme, values);
        let greatest = distance(values, offset);
        search.shares().map(|share| Grid::filling(book, share * greatest, offset)).collect()
    }

    /// The nearest code.
    pub fn encode<T: Real>(&self, grid: Grid, value: T) -> i8 {
        match &self.book {
            None => grid.encode(self.scheme, value),
            Some(book) => grid.encode_by(book, value),
        }
    }

    /// The nearest codes of a group.
    fn encode_all<T: Real>(&self, grid: Grid, values: &[T], codes: &mut [i8]) {
        let each = codes.iter_mut().zip(values);
        match &self.book {
            None => {
                let encode = grid.encodes(self.scheme);
                each.for_each(|(code, &value)| *code = encode(value));
            }
            Some(book) => each.for_each(|(code, &value)| *code = grid.encode_by(book, value)),
        }
    }

    /// The value of a code.
    pub fn decode<T: Real>(&self, grid: Grid, code: i8) -> T {
        grid.decode_by(self.book.as_deref(), code)
    }

    /// The nearest value.
    #[inline]
    pub fn round<T: Real>(&self, grid: Grid, value: T) -> T {
        match &self.book {
            None => grid.rounds(self.scheme)(value),
            Some(book) => on(book, grid, value),
        }
    }

    /// A tensor to be filled with codes.
    pub fn blank(&self, rows: usize, columns: usize) -> QuantizedTensor {
        QuantizedTensor { book: self.book.clone(), ..QuantizedTensor::blank(self.scheme, rows, columns) }
    }
}

/// The nearest number of a book on a grid.
fn on<T: Real>(book: &Book, grid: Grid, value: T) -> T {
    grid.decode_by(Some(book), grid.encode_by(book, value))
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

/// Round to nearest, each group on its own min-max grid. `weight` is `[out, in]`.
pub fn round_to_nearest(weight: ArrayView2<f32>, scheme: Scheme) -> QuantizedTensor {
    round_by(weight, scheme, GridChoice::MinMax, None)
}

/// Rounds to nearest on grids of any choice; `importance` is one number a column. Rows that f16 scales cannot
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
        let grids = groups.map(|(group, (values, codes))| {
            let grid = rounding.grid(values, importance.map(|all| &all[group * width..group * width + values.len()]));
            rounding.encode_all(grid, values, codes);
            grid
        });
        grids.collect()
    };
    let grids: Vec<Vec<Grid>> = codes.par_chunks_mut(columns.max(1)).enumerate().map(round).collect();
    for (row, grids) in grids.into_iter().enumerate() {
        grids.into_iter().enumerate().for_each(|(group, grid)| quantized.set_grid(row, group, grid));
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
            let grid = rounding.grid(group, None);
            group.iter_mut().for_each(|value| *value = rounding.round(grid, *value) * power);
        }
    });
    rounded
}
