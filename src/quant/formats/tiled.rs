//! The one packed layout: tiles of 16 output rows; inside a tile, input columns
//! outermost, in units of 4 columns × 16 rows; a line of 64 bytes holds one unit
//! of 8-bit codes (row r, column c at byte 4r + c), two of 4 bits (the first in
//! the low nibbles), four of 2 bits, eight of 1 bit, five of dense ternary codes (the
//! first in the first digit of [`super::base3`]). Widths that divide no byte
//! are bit planes, low bits first, one plane after the other per 32 columns: 3 = 2 + 1,
//! 5 = 4 + 1, 6 = 4 + 2, 7 = 4 + 2 + 1. Codebook indices lie as integers of their width
//! do; padding rows have scale and offset 0, padding columns meet no activation.
//!
//! [`Layout::Rows`] is the same with tiles of one row, for embeddings that are
//! only looked up.

use super::base3;
use crate::checkpoint::Bytes;
use crate::quant::exponents::power;
use crate::quant::quant_params::QuantParams;
use crate::quant::scheme::{DIGITS_PER_BYTE, Packing};
use crate::quant::{Code, Codebook, Outliers, PackedOutliers, Permutation, QuantizedTensor, Scheme};
use half::f16;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Rows of a tile, and what rows are padded to.
pub const TILE_ROWS: usize = 16;
/// Columns of a unit.
pub const UNIT_COLUMNS: usize = 4;

/// How rows are gathered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Layout {
    /// Tiles of 16 rows, for products.
    Tiles,
    /// Single rows, for look-ups.
    Rows,
}

/// Where everything of a packed tensor lies; follows from its shape and scheme.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tiling {
    /// What the weight is quantised to.
    pub scheme: Scheme,
    /// How rows are gathered.
    pub layout: Layout,
    /// Rows of the weight.
    pub rows: usize,
    /// Columns of the weight.
    pub columns: usize,
}

impl Tiling {
    /// Rows of one tile.
    pub const fn tile_rows(&self) -> usize {
        match self.layout {
            Layout::Tiles => TILE_ROWS,
            Layout::Rows => 1,
        }
    }

    /// Tiles, those of padding rows included.
    pub const fn tiles(&self) -> usize {
        self.rows.next_multiple_of(TILE_ROWS) / self.tile_rows()
    }

    /// Groups of a row.
    pub fn groups(&self) -> usize {
        self.scheme.groups(self.columns)
    }

    /// Columns that share lines: what the width is padded to.
    pub const fn span_columns(&self) -> usize {
        span_columns(self.scheme.code)
    }

    /// Bytes of one tile's codes.
    pub const fn tile_bytes(&self) -> usize {
        self.columns.div_ceil(self.span_columns()) * span_bytes(self.scheme.code) * self.tile_rows()
    }

    /// Bytes of all codes.
    pub const fn code_bytes(&self) -> usize {
        self.tiles() * self.tile_bytes()
    }

    /// Numbers in the scales' plane, and in the plane of zero points or offsets where
    /// the scheme has one: `[tiles, groups, tile_rows]`.
    pub fn scale_count(&self) -> usize {
        self.tiles() * self.groups() * self.tile_rows()
    }

    /// Calls `visit(column, byte, place)` for each unit of a row of a tile: its first column,
    /// the first of its bytes, one a column, and where in those bytes its codes are. Of codes
    /// in several bit planes, once for each plane.
    #[inline]
    fn units(&self, row: usize, mut visit: impl FnMut(usize, usize, CodePosition)) {
        let (span, line_bytes) = (self.span_columns(), UNIT_COLUMNS * self.tile_rows());
        for (i, first) in (0..self.columns).step_by(span).enumerate() {
            let units = first..(first + span).min(self.columns);
            let mut line = i * span_bytes(self.scheme.code) * self.tile_rows() + UNIT_COLUMNS * row;
            match self.scheme.code.packing() {
                Packing::Planes(planes) => {
                    let mut code_shift = 0;
                    for &bits in planes {
                        let units_per_line = 8 / bits;
                        for (unit, column) in units.clone().step_by(UNIT_COLUMNS).enumerate() {
                            let shift = unit % units_per_line * bits;
                            visit(
                                column,
                                line + unit / units_per_line * line_bytes,
                                CodePosition::Bits { shift, mask: mask(bits), code_shift },
                            );
                        }
                        line += span / UNIT_COLUMNS / units_per_line * line_bytes;
                        code_shift += bits;
                    }
                }
                Packing::Base3 => {
                    units.step_by(UNIT_COLUMNS).enumerate().for_each(|(unit, column)| visit(column, line, CodePosition::Digit(unit)));
                }
            }
        }
    }

    /// Writes codes of a row, padding included, into a tile of zero bytes, which is to be
    /// [sealed](Self::seal).
    fn put(&self, tile: &mut [u8], row: usize, codes: &[i8]) {
        let padded = Self { columns: codes.len(), ..*self };
        padded.units(row, |column, byte, place| {
            let bytes = tile[byte..byte + UNIT_COLUMNS].iter_mut().zip(&codes[column..column + UNIT_COLUMNS]);
            match place {
                CodePosition::Bits { shift, mask, code_shift } => {
                    bytes.for_each(|(to, &code)| *to |= ((code as u8 >> code_shift) & mask) << shift)
                }
                CodePosition::Digit(digit) => bytes.for_each(|(to, &code)| *to += code as u8 * base3::worth(digit)),
            }
        });
    }

    /// What is left to do once all codes are in.
    fn seal(&self, tile: &mut [u8]) {
        match self.scheme.code.packing() {
            Packing::Planes(_) => (),
            Packing::Base3 => tile.iter_mut().for_each(|byte| *byte = base3::sealed(*byte)),
        }
    }

    /// Reads the codes of a row from a tile.
    fn get(&self, tile: &[u8], row: usize, codes: &mut [i8]) {
        codes.fill(0);
        self.units(row, |column, byte, place| {
            let end = (column + UNIT_COLUMNS).min(self.columns);
            let bytes = codes[column..end].iter_mut().zip(&tile[byte..byte + UNIT_COLUMNS]);
            match place {
                CodePosition::Bits { shift, mask, code_shift } => {
                    bytes.for_each(|(code, from)| *code |= (((from >> shift) & mask) << code_shift) as i8)
                }
                CodePosition::Digit(digit) => bytes.for_each(|(code, &from)| *code = base3::digit(from, digit) as i8),
            }
        });
    }
}

/// Position of a code, or of one of its bit planes, in a byte.
enum CodePosition {
    /// Bits from `shift` on, which are those of the code from `code_shift` on.
    Bits { shift: usize, mask: u8, code_shift: usize },
    /// A digit of [`base3`].
    Digit(usize),
}

const fn mask(bits: usize) -> u8 {
    (0xff >> (8 - bits)) as u8
}

/// Columns that share lines at a code: the least width that fills whole lines in
/// every plane.
pub const fn span_columns(code: Code) -> usize {
    match (code.packing(), code.bits()) {
        (Packing::Base3, _) => DIGITS_PER_BYTE * UNIT_COLUMNS,
        (_, 8) => 4,
        (_, 4) => 8,
        (_, 2) => 16,
        (_, 3 | 5 | 6 | 7) => 32,
        _ => panic!("a width without planes"),
    }
}

/// Bytes of a row in the lines of [`span_columns`].
pub const fn span_bytes(code: Code) -> usize {
    match code.packing() {
        Packing::Base3 => UNIT_COLUMNS,
        Packing::Planes(_) => span_columns(code) * code.bits() / 8,
    }
}

/// A packed weight: planes of bytes, usually views of a mapped file.
#[derive(Clone, PartialEq)]
pub struct PackedTensor {
    /// Shape, scheme and layout.
    pub tiling: Tiling,
    /// [`Tiling::code_bytes`] bytes.
    pub codes: Bytes,
    /// f16 `[tiles, groups, tile_rows]`
    pub scales: Bytes,
    /// `[tiles, groups, tile_rows]`, zero points (i8) or, where there is a codebook,
    /// offsets (f16); absent where the scheme is symmetric.
    pub zeros: Option<Bytes>,
    /// The numbers that codes stand for, where they are indices into a codebook.
    pub codebook: Option<Arc<Codebook>>,
    /// Stored order of the columns, where it is not the model's.
    pub permutation: Option<Arc<Permutation>>,
    /// Columns that are kept in 16 bits, where there are any.
    pub outliers: Option<PackedOutliers>,
    /// i8 `[rows]`: rows are multiplied by 2^exponent; absent where all exponents are 0.
    pub exponents: Option<Bytes>,
}

impl PackedTensor {
    /// Packs; the result owns its bytes.
    pub fn pack(tensor: &QuantizedTensor, layout: Layout) -> Self {
        let (rows, columns) = tensor.codes.dim();
        let tiling = Tiling { scheme: tensor.scheme, layout, rows, columns };
        let tile_rows = tiling.tile_rows();
        let width = tensor.scheme.group_columns(columns);
        let padded = columns.next_multiple_of(tiling.span_columns());
        let mut codes = vec![0u8; tiling.code_bytes()];
        codes.par_chunks_exact_mut(tiling.tile_bytes()).enumerate().for_each(|(t, tile)| {
            let mut line = vec![0i8; padded];
            for r in 0..tile_rows {
                let row = t * tile_rows + r;
                if row < rows {
                    line[..columns].copy_from_slice(tensor.codes.row(row).as_slice().expect("standard layout"));
                    line[columns..].fill(tensor.zero_points[[row, (columns - 1) / width]]);
                } else {
                    line.fill(tensor.scheme.code.middle() as i8);
                }
                tiling.put(tile, r, &line);
            }
            tiling.seal(tile);
        });
        let groups = tiling.groups();
        let places = || (0..tiling.scale_count()).map(|i| (i / (groups * tile_rows) * tile_rows + i % tile_rows, i / tile_rows % groups));
        let scales: Vec<f16> = places().map(|(row, g)| if row < rows { tensor.scales[[row, g]] } else { f16::ZERO }).collect();
        let middle = tensor.scheme.code.middle() as i8;
        let zeros = (!tensor.scheme.symmetric).then(|| match &tensor.offsets {
            None => places().map(|(row, g)| if row < rows { tensor.zero_points[[row, g]] } else { middle } as u8).collect(),
            Some(offsets) => {
                let offset = |(row, g)| if row < rows { offsets[[row, g]] } else { f16::ZERO };
                places().flat_map(|place| offset(place).to_le_bytes()).collect()
            }
        });
        Self {
            tiling,
            codes: Bytes::from_vec(codes),
            scales: Bytes::from_vec(bytemuck::cast_slice(&scales).to_vec()),
            zeros: zeros.map(Bytes::from_vec),
            codebook: tensor.codebook.clone(),
            permutation: tensor.permutation.clone(),
            outliers: tensor.outliers.as_ref().map(Outliers::pack),
            exponents: tensor.exponents.as_ref().map(|exponents| Bytes::from_vec(bytemuck::cast_slice(exponents).to_vec())),
        }
    }

    /// Codes of one tile.
    pub fn tile(&self, tile: usize) -> &[u8] {
        &self.codes[tile * self.tiling.tile_bytes()..(tile + 1) * self.tiling.tile_bytes()]
    }

    /// Place of a row: its tile, and its row in there.
    pub fn place(&self, row: usize) -> (usize, usize) {
        (row / self.tiling.tile_rows(), row % self.tiling.tile_rows())
    }

    /// Factor of each row, 2^exponent; `None` where all are 1.
    pub fn powers(&self) -> Option<impl Iterator<Item = f32> + '_> {
        self.exponents.as_ref().map(|exponents| exponents.iter().map(|&exponent| power(exponent as i8)))
    }

    /// Scale, and zero point or offset, of a group, before the row's exponent.
    pub fn quant_params(&self, row: usize, group: usize) -> QuantParams {
        let (tile, r) = self.place(row);
        let i = (tile * self.tiling.groups() + group) * self.tiling.tile_rows() + r;
        let number = |plane: &[u8]| f16::from_le_bytes([plane[2 * i], plane[2 * i + 1]]);
        let params = QuantParams::of(number(&self.scales), self.tiling.scheme.code.middle() as i8);
        match &self.zeros {
            None => params,
            Some(offsets) if self.codebook.is_some() => QuantParams { offset: number(offsets), ..params },
            Some(zeros) => QuantParams { zero_point: zeros[i] as i8, ..params },
        }
    }

    /// Decodes one row in the model's order of columns.
    pub fn row(&self, row: usize, out: &mut [f32]) {
        let (tile, r) = self.place(row);
        let tile = self.tile(tile);
        let width = self.tiling.scheme.group_columns(self.tiling.columns);
        let mut codes = vec![0i8; self.tiling.columns];
        self.tiling.get(tile, r, &mut codes);
        for (group, codes) in codes.chunks(width).enumerate() {
            let (params, first) = (self.quant_params(row, group), group * width);
            match &self.permutation {
                None => params.decode_all(self.codebook.as_deref(), codes, &mut out[first..first + codes.len()]),
                Some(permutation) => {
                    let places = &permutation.order[first..first + codes.len()];
                    places
                        .iter()
                        .zip(codes)
                        .for_each(|(&place, &code)| out[place as usize] = params.decode_by(self.codebook.as_deref(), code));
                }
            }
        }
        if let Some(outliers) = &self.outliers {
            outliers.put(row, out);
        }
        if let Some(exponents) = &self.exponents {
            let power = power(exponents[row] as i8);
            out.iter_mut().for_each(|value| *value *= power);
        }
    }

    /// Back to the canonical form, exactly what was packed.
    pub fn unpack(&self) -> QuantizedTensor {
        let Tiling { scheme, rows, columns, .. } = self.tiling;
        let mut tensor = QuantizedTensor::blank(scheme, rows, columns);
        tensor.permutation = self.permutation.clone();
        tensor.codebook = self.codebook.clone();
        tensor.outliers = self.outliers.as_ref().map(PackedOutliers::unpack);
        tensor.exponents = self.exponents.as_ref().map(|exponents| exponents.iter().map(|&exponent| exponent as i8).collect());
        for row in 0..rows {
            let (tile, r) = self.place(row);
            let tile = self.tile(tile);
            self.tiling.get(tile, r, tensor.codes.row_mut(row).as_slice_mut().expect("standard layout"));
            for group in 0..self.tiling.groups() {
                tensor.set_quant_params(row, group, self.quant_params(row, group));
            }
        }
        tensor
    }

    /// Bytes of codes, scales, zero points or offsets, exponents, what is kept in 16 bits, and a
    /// codebook of its own (not of a shared codebook, nor of what else is [shared](Self::shared)).
    pub fn len_bytes(&self) -> usize {
        let codebook = self.codebook.as_ref().filter(|codebook| codebook.name.is_none()).map_or(0, |codebook| codebook.len_bytes());
        let outliers = self.outliers.as_ref().map_or(0, |outliers| outliers.values.len());
        let planes = [&self.zeros, &self.exponents].into_iter().flatten().map(|plane| plane.len()).sum::<usize>();
        self.codes.len() + self.scales.len() + planes + outliers + codebook
    }

    /// Places of columns that all weights which read the same input share, by the name
    /// of the tensor that stores them.
    pub fn shared(&self) -> impl Iterator<Item = (&str, &[u32])> {
        let order = self.permutation.as_ref().map(|p| (&p.name[..], &p.order[..]));
        let kept = self.outliers.as_ref().map(|o| (&o.columns.name[..], &o.columns.places[..]));
        order.into_iter().chain(kept)
    }
}
