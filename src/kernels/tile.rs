//! One tile of a packed weight as kernels see it.

use crate::quant::formats::tiled::{TILE_ROWS, UNIT_COLUMNS, span_columns};
use crate::quant::{Code, Layout, PackedTensor};
use half::f16;

/// 16 rows of a packed weight (see `quant::formats::tiled` for the bytes). Views
/// may start at any byte.
#[derive(Clone, Copy)]
pub struct Tile<'a> {
    /// The set of codes.
    pub code: Code,
    /// Lines of codes.
    pub codes: &'a [u8],
    /// f16 `[groups, 16]`
    pub scales: &'a [u8],
    /// i8 `[groups, 16]`; the code's middle everywhere where absent.
    pub zeros: Option<&'a [u8]>,
    /// Columns of the weight, padding aside.
    pub columns: usize,
    /// Columns of a group: a multiple of [`super::BLOCK`], or all columns.
    pub group_columns: usize,
}

impl<'a> Tile<'a> {
    /// A tile of a tensor in [`Layout::Tiles`].
    pub fn of(tensor: &'a PackedTensor, tile: usize) -> Self {
        let tiling = tensor.tiling;
        assert_eq!(tiling.layout, Layout::Tiles, "rows are for look-ups");
        let grids = tiling.groups() * TILE_ROWS;
        Self {
            code: tiling.scheme.code,
            codes: tensor.tile(tile),
            scales: &tensor.scales[2 * tile * grids..2 * (tile + 1) * grids],
            zeros: tensor.zeros.as_ref().map(|z| &z[tile * grids..(tile + 1) * grids]),
            columns: tiling.columns,
            group_columns: tiling.scheme.group_columns(tiling.columns),
        }
    }

    /// Blocks of activations along the columns.
    pub fn blocks(&self) -> usize {
        self.columns.div_ceil(super::BLOCK)
    }

    /// The lines of one block of columns; fewer than a full block's at the end.
    pub fn block_codes(&self, block: usize) -> &'a [u8] {
        let bytes = super::BLOCK * TILE_ROWS * self.code.bits() / 8;
        &self.codes[block * bytes..((block + 1) * bytes).min(self.codes.len())]
    }

    /// Units of 4 columns that [`Tile::block_codes`] holds.
    pub fn block_units(&self, block: usize) -> usize {
        self.block_codes(block).len() * 8 / (self.code.bits() * TILE_ROWS * UNIT_COLUMNS)
    }

    /// The group that a block of columns belongs to.
    pub fn group(&self, block: usize) -> usize {
        block * super::BLOCK / self.group_columns
    }

    /// Groups along the columns.
    pub fn groups(&self) -> usize {
        self.columns.div_ceil(self.group_columns)
    }

    /// The blocks of columns of a group.
    pub fn group_blocks(&self, group: usize) -> std::ops::Range<usize> {
        let end = (group + 1).saturating_mul(self.group_columns).min(self.columns);
        group * self.group_columns / super::BLOCK..end.div_ceil(super::BLOCK)
    }

    /// Panics where the planes are not as long as shape and code say.
    pub fn check(&self) {
        let span = span_columns(self.code);
        let grids = self.groups() * TILE_ROWS;
        assert_eq!(self.codes.len(), self.columns.next_multiple_of(span) * TILE_ROWS * self.code.bits() / 8, "bytes of codes");
        assert_eq!(self.scales.len(), 2 * grids, "bytes of scales");
        assert!(self.zeros.is_none_or(|zeros| zeros.len() == grids), "bytes of zero points");
        assert!(self.group_columns.is_multiple_of(super::BLOCK) || self.group_columns >= self.columns, "a block straddles two groups");
    }

    /// Scale of a row in a group.
    pub fn scale(&self, group: usize, row: usize) -> f32 {
        let i = group * TILE_ROWS + row;
        f16::from_le_bytes([self.scales[2 * i], self.scales[2 * i + 1]]).to_f32()
    }

    /// Zero point of a row in a group.
    pub fn zero(&self, group: usize, row: usize) -> i32 {
        self.zeros.map_or(self.code.middle(), |zeros| i32::from(zeros[group * TILE_ROWS + row] as i8))
    }
}
