//! One tile of a packed weight as kernels see it.

use super::{BLOCK, Int8Rows};
use crate::quant::formats::tiled::{TILE_ROWS, UNIT_COLUMNS, span_bytes, span_columns};
use crate::quant::{Code, Codebook, Layout, PackedTensor};
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
    /// `[groups, 16]`: zero points, i8, the code's middle everywhere where absent; or
    /// offsets, f16, of a codebook, zero where absent.
    pub zeros: Option<&'a [u8]>,
    /// The numbers that codes stand for, where they are indices into a codebook.
    pub codebook: Option<&'a Codebook>,
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
        let count = tiling.groups() * TILE_ROWS;
        let zeros = count * zero_bytes(tiling.scheme.code);
        Self {
            code: tiling.scheme.code,
            codes: tensor.tile(tile),
            scales: &tensor.scales[2 * tile * count..2 * (tile + 1) * count],
            zeros: tensor.zeros.as_ref().map(|z| &z[tile * zeros..(tile + 1) * zeros]),
            codebook: tensor.codebook.as_deref(),
            columns: tiling.columns,
            group_columns: tiling.scheme.group_columns(tiling.columns),
        }
    }

    /// Blocks of activations along the columns.
    pub fn blocks(&self) -> usize {
        self.columns.div_ceil(BLOCK)
    }

    /// The lines that hold a block of columns: fewer than a full block's at the end; those
    /// of dense ternary codes hold columns of its neighbours too.
    pub fn block_codes(&self, block: usize) -> &'a [u8] {
        let (span, bytes) = (span_columns(self.code), span_bytes(self.code) * TILE_ROWS);
        let (first, end) = (block * BLOCK / span, ((block + 1) * BLOCK).div_ceil(span));
        &self.codes[first * bytes..(end * bytes).min(self.codes.len())]
    }

    /// Units of 4 columns before a block's first one in [`Tile::block_codes`].
    pub fn units_before(&self, block: usize) -> usize {
        block * BLOCK % span_columns(self.code) / UNIT_COLUMNS
    }

    /// A block's units of 4 columns in [`Tile::block_codes`].
    pub fn block_units(&self, block: usize) -> usize {
        let units = self.block_codes(block).len() / (span_bytes(self.code) * TILE_ROWS) * span_columns(self.code) / UNIT_COLUMNS;
        (units - self.units_before(block)).min(BLOCK / UNIT_COLUMNS)
    }

    /// The group that a block of columns belongs to.
    pub fn group(&self, block: usize) -> usize {
        block * BLOCK / self.group_columns
    }

    /// Groups along the columns.
    pub fn groups(&self) -> usize {
        self.columns.div_ceil(self.group_columns)
    }

    /// The blocks of columns of a group.
    pub fn group_blocks(&self, group: usize) -> std::ops::Range<usize> {
        let end = (group + 1).saturating_mul(self.group_columns).min(self.columns);
        group * self.group_columns / BLOCK..end.div_ceil(BLOCK)
    }

    /// Panics where it is not a tile of the code with this index in [`Code::ALL`], or cannot be
    /// multiplied with activations of so many tokens.
    pub fn check_int8<const CODE: usize>(&self, x: &Int8Rows, tokens: usize) {
        self.check::<CODE>();
        assert!(x.blocks == self.blocks() && tokens <= x.tokens(), "activations do not fit the tile");
    }

    /// Panics where it is not a tile of the code with this index in [`Code::ALL`], or planes
    /// are not as long as its shape says.
    pub fn check<const CODE: usize>(&self) {
        assert_eq!(self.code, Code::ALL[CODE], "the kernel of another code");
        let span = span_columns(self.code);
        let count = self.groups() * TILE_ROWS;
        assert_eq!(self.codes.len(), self.columns.div_ceil(span) * span_bytes(self.code) * TILE_ROWS, "bytes of codes");
        assert_eq!(self.scales.len(), 2 * count, "bytes of scales");
        let zeros = count * zero_bytes(self.code);
        assert!(self.zeros.is_none_or(|z| z.len() == zeros), "bytes of zero points or offsets");
        let entries = if self.code.has_codebook() { 1 << self.code.bits() } else { 0 };
        assert_eq!(self.codebook.map_or(0, |codebook| codebook.values().len()), entries, "entries of the codebook");
        assert!(self.group_columns.is_multiple_of(BLOCK) || self.group_columns >= self.columns, "a block straddles two groups");
    }

    /// Scale of a row in a group.
    pub fn scale(&self, group: usize, row: usize) -> f32 {
        let i = group * TILE_ROWS + row;
        f16::from_le_bytes([self.scales[2 * i], self.scales[2 * i + 1]]).to_f32()
    }

    /// Zero point of a row in a group; 0 where there is a codebook.
    pub fn zero(&self, group: usize, row: usize) -> i32 {
        match self.zeros {
            Some(zeros) if self.codebook.is_none() => i32::from(zeros[group * TILE_ROWS + row] as i8),
            _ => self.code.middle(),
        }
    }

    /// What is added to the scaled numbers of a row in a group; 0 without a codebook.
    pub fn offset(&self, group: usize, row: usize) -> f32 {
        let i = group * TILE_ROWS + row;
        let offsets = self.zeros.filter(|_| self.codebook.is_some());
        offsets.map_or(0.0, |offsets| f16::from_le_bytes([offsets[2 * i], offsets[2 * i + 1]]).to_f32())
    }

    /// What a code stands for before zero point, scale and offset.
    pub fn level(&self, code: i8) -> f32 {
        self.codebook.map_or(f32::from(code), |codebook| codebook.value(code))
    }
}

/// Bytes of a zero point, or of an offset.
fn zero_bytes(code: Code) -> usize {
    if code.has_codebook() { 2 } else { 1 }
}
