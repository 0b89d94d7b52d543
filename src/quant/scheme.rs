//! What a weight is quantised to.

use serde::{Deserialize, Serialize};

/// The set of codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Code {
    /// 0 … 3
    Int2,
    /// 0 … 7
    Int3,
    /// 0 … 15
    Int4,
    /// 0 … 31
    Int5,
    /// 0 … 63
    Int6,
    /// −127 … 127
    Int8,
}

impl Code {
    /// Every set there is.
    pub const ALL: [Code; 6] = [Code::Int2, Code::Int3, Code::Int4, Code::Int5, Code::Int6, Code::Int8];

    /// The integer codes of a width; `None` where there are none.
    pub fn from_bits(bits: usize) -> Option<Self> {
        Self::ALL.into_iter().find(|code| code.bits() == bits)
    }

    /// Bits of one code.
    pub const fn bits(self) -> usize {
        match self {
            Code::Int2 => 2,
            Code::Int3 => 3,
            Code::Int4 => 4,
            Code::Int5 => 5,
            Code::Int6 => 6,
            Code::Int8 => 8,
        }
    }

    /// Least and greatest code. −128 is left out so that products with int8
    /// activations never flip their sign in `maddubs`-like instructions.
    pub const fn range(self) -> (i32, i32) {
        match self {
            Code::Int8 => (-127, 127),
            narrow => (0, (1 << narrow.bits()) - 1),
        }
    }

    /// Zero point of symmetric grids.
    pub const fn middle(self) -> i32 {
        match self {
            Code::Int8 => 0,
            narrow => 1 << (narrow.bits() - 1),
        }
    }

    /// Widths of the bit planes that a code is stored in, low bits first: each
    /// divides a byte.
    pub const fn planes(self) -> &'static [usize] {
        match self {
            Code::Int2 => &[2],
            Code::Int3 => &[2, 1],
            Code::Int4 => &[4],
            Code::Int5 => &[4, 1],
            Code::Int6 => &[4, 2],
            Code::Int8 => &[8],
        }
    }
}

/// Codes, groups and symmetry: `W[o,i] = scale[o,g] · (code[o,i] − zero_point[o,g])`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scheme {
    /// The set of codes.
    pub code: Code,
    /// Columns that share a scale and a zero point; 0 = a whole row. The last
    /// group of a row may be shorter.
    pub group_size: usize,
    /// Whether every zero point is [`Code::middle`].
    pub symmetric: bool,
}

/// Group sizes are multiples of this, so that no line of the packed layout and
/// no block of quantised activations straddles two groups.
pub const GROUP_MULTIPLE: usize = 32;

impl Scheme {
    /// Columns of a full group in a matrix of `columns`.
    pub fn group_columns(&self, columns: usize) -> usize {
        if self.group_size == 0 { columns.max(1) } else { self.group_size }
    }

    /// Groups of a row of `columns`.
    pub fn groups(&self, columns: usize) -> usize {
        columns.div_ceil(self.group_columns(columns))
    }

    /// Bits of one weight with its share of scale and zero point, in a matrix of
    /// `columns`, padding aside.
    pub fn bits_per_weight(&self, columns: usize) -> f64 {
        let per_group = if self.symmetric { 16.0 } else { 24.0 };
        self.code.bits() as f64 + per_group * self.groups(columns) as f64 / columns as f64
    }
}

impl std::fmt::Display for Scheme {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let symmetry = if self.symmetric { "symmetric" } else { "asymmetric" };
        match self.group_size {
            0 => write!(f, "{} bits, whole rows, {symmetry}", self.code.bits()),
            g => write!(f, "{} bits, groups of {g}, {symmetry}", self.code.bits()),
        }
    }
}
