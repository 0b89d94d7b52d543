//! What a weight is quantised to.

use super::DataType;
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
    /// 0 … 7: indices into a codebook of whole numbers
    #[serde(rename = "book3")]
    Codebook3,
    /// 0 … 15: indices into a codebook of whole numbers
    #[serde(rename = "book4")]
    Codebook4,
    /// 0, 1, 2 for −1, 0, 1: two bits each
    Ternary,
    /// 0, 1, 2 for −1, 0, 1: base-3 packing, five to a byte
    #[serde(rename = "trits")]
    Base3,
    /// 0 … 31: indices into a codebook
    #[serde(rename = "book5")]
    Codebook5,
    /// 0 … 63: indices into a codebook
    #[serde(rename = "book6")]
    Codebook6,
    /// 0 … 127: indices into a codebook
    #[serde(rename = "book7")]
    Codebook7,
    /// 0 … 255: indices into a codebook
    #[serde(rename = "book8")]
    Codebook8,
}

// Tables of kernels are by place in `ALL` and looked up by variant.
const _: () = {
    let mut place = 0;
    while place < Code::ALL.len() {
        assert!(Code::ALL[place] as usize == place);
        place += 1;
    }
};

impl Code {
    /// Every set there is; those of [`Code::WHOLE`] come first.
    pub const ALL: [Code; 14] = {
        let [i2, i3, i4, i5, i6, i8, b3, b4, ternary, base3] = Self::WHOLE;
        [i2, i3, i4, i5, i6, i8, b3, b4, ternary, base3, Code::Codebook5, Code::Codebook6, Code::Codebook7, Code::Codebook8]
    };
    /// Those that stand for whole numbers, and are multiplied with activations in
    /// int8; those of [`Code::INTEGERS`] come first.
    pub const WHOLE: [Code; 10] = {
        let [i2, i3, i4, i5, i6, i8] = Self::INTEGERS;
        [i2, i3, i4, i5, i6, i8, Code::Codebook3, Code::Codebook4, Code::Ternary, Code::Base3]
    };
    /// Those that use all of their bits and are numbers themselves.
    pub const INTEGERS: [Code; 6] = [Code::Int2, Code::Int3, Code::Int4, Code::Int5, Code::Int6, Code::Int8];

    /// The integer codes of a width; `None` where there are none.
    pub fn from_bits(bits: usize) -> Option<Self> {
        Self::INTEGERS.into_iter().find(|code| code.bits() == bits)
    }

    /// Codebook indices of a width; `None` where there are none.
    pub fn of_codebook(bits: usize) -> Option<Self> {
        Self::ALL.into_iter().find(|code| code.has_codebook() && code.bits() == bits)
    }

    /// Bits of one code by itself. What it takes where it is stored may be less: see
    /// [`Code::stored_bits`].
    pub const fn bits(self) -> usize {
        match self {
            Code::Int2 | Code::Ternary | Code::Base3 => 2,
            Code::Int3 | Code::Codebook3 => 3,
            Code::Int4 | Code::Codebook4 => 4,
            Code::Int5 | Code::Codebook5 => 5,
            Code::Int6 | Code::Codebook6 => 6,
            Code::Codebook7 => 7,
            Code::Int8 | Code::Codebook8 => 8,
        }
    }

    /// Bits of one code where it is stored, padding aside.
    pub const fn stored_bits(self) -> f64 {
        match self {
            Code::Base3 => 8.0 / DIGITS_PER_BYTE as f64,
            other => other.bits() as f64,
        }
    }

    /// Whether codes stand for −1, 0 and 1.
    pub const fn is_ternary(self) -> bool {
        matches!(self, Code::Ternary | Code::Base3)
    }

    /// Whether codes are indices into a codebook.
    pub const fn has_codebook(self) -> bool {
        matches!(self, Code::Codebook3 | Code::Codebook4 | Code::Codebook5 | Code::Codebook6 | Code::Codebook7 | Code::Codebook8)
    }

    /// Whether codes stand for whole numbers, before scale and offset.
    pub const fn is_whole(self) -> bool {
        !matches!(self, Code::Codebook5 | Code::Codebook6 | Code::Codebook7 | Code::Codebook8)
    }

    /// Least and greatest code. −128 is left out so that products with int8
    /// activations never flip their sign in `maddubs`-like instructions.
    pub const fn range(self) -> (i32, i32) {
        match self {
            Code::Int8 => (-127, 127),
            ternary if ternary.is_ternary() => (0, 2),
            narrow => (0, (1 << narrow.bits()) - 1),
        }
    }

    /// Zero point of symmetric schemes; codebooks have none, and it is 0.
    pub const fn middle(self) -> i32 {
        match self {
            Code::Int8 => 0,
            ternary if ternary.is_ternary() => 1,
            codebook if codebook.has_codebook() => 0,
            narrow => 1 << (narrow.bits() - 1),
        }
    }

    /// How codes share bytes.
    pub const fn packing(self) -> Packing {
        match (self, self.bits()) {
            (Code::Base3, _) => Packing::Base3,
            (_, 2) => Packing::Planes(&[2]),
            (_, 3) => Packing::Planes(&[2, 1]),
            (_, 4) => Packing::Planes(&[4]),
            (_, 5) => Packing::Planes(&[4, 1]),
            (_, 6) => Packing::Planes(&[4, 2]),
            (_, 7) => Packing::Planes(&[4, 2, 1]),
            (_, 8) => Packing::Planes(&[8]),
            _ => panic!("a width without planes"),
        }
    }
}

/// How codes share bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packing {
    /// Bit planes of these widths, low bits first: each divides a byte.
    Planes(&'static [usize]),
    /// Base 3: [`DIGITS_PER_BYTE`] digits in a byte.
    Base3,
}

/// Digits of base 3 in a byte: 3⁵ = 243.
pub const DIGITS_PER_BYTE: usize = 5;

/// Codes, groups and symmetry: `W[o,i] = scale[o,g] · (code[o,i] − zero_point[o,g])`
/// where codes are integers, `scale[o,g] · codebook[code[o,i]] + offset[o,g]` where they
/// are indices into a codebook.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scheme {
    /// The set of codes.
    pub code: Code,
    /// Columns that share a scale and a zero point; 0 = a whole row. The last
    /// group of a row may be shorter.
    pub group_size: usize,
    /// Whether no group has a zero point or an offset of its own: every zero point is
    /// [`Code::middle`], every offset zero.
    pub symmetric: bool,
    /// What the codes stand for: says which codebook is made, and what people are told.
    #[serde(default, skip_serializing_if = "DataType::is_int")]
    pub data_type: DataType,
}

/// Group sizes are multiples of this, so that no line of the packed layout and
/// no block of quantised activations straddles two groups.
pub const GROUP_MULTIPLE: usize = 32;

impl Scheme {
    /// Integers: codes, columns of a group, and whether zero points are in the middle.
    pub const fn integers(code: Code, group_size: usize, symmetric: bool) -> Self {
        Self { code, group_size, symmetric, data_type: DataType::Int }
    }

    /// Columns of a full group in a matrix of `columns`.
    pub fn group_columns(&self, columns: usize) -> usize {
        if self.group_size == 0 { columns.max(1) } else { self.group_size }
    }

    /// Groups of a row of `columns`.
    pub fn groups(&self, columns: usize) -> usize {
        columns.div_ceil(self.group_columns(columns))
    }

    /// Bits of one weight with its share of scale, zero point or offset, and of a codebook
    /// of its own, in a matrix `[rows, columns]`, padding aside.
    pub fn bits_per_weight(&self, [rows, columns]: [usize; 2]) -> f64 {
        let shift = match (self.symmetric, self.code.has_codebook()) {
            (true, _) => 0.0,
            (false, false) => 8.0,
            (false, true) => 16.0,
        };
        let codebook = if self.data_type == DataType::Quantile { 32.0 * f64::from(1 << self.code.bits()) } else { 0.0 };
        self.code.stored_bits() + (16.0 + shift) * self.groups(columns) as f64 / columns as f64 + codebook / (rows * columns) as f64
    }
}

impl std::fmt::Display for Scheme {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let bits = self.code.bits();
        match self.code.is_ternary() {
            true => write!(f, "ternary in {} bits, ", self.code.stored_bits())?,
            false => write!(f, "{bits} bits, ")?,
        }
        match self.data_type {
            DataType::Int => (),
            DataType::Normal => write!(f, "{}, ", self.data_type.at(bits))?,
            other => write!(f, "{other}, ")?,
        }
        match self.group_size {
            0 => f.write_str("whole rows")?,
            g => write!(f, "groups of {g}")?,
        }
        f.write_str(match (self.code.has_codebook(), self.symmetric) {
            (false, true) if self.code.is_ternary() => "",
            (false, true) => ", symmetric",
            (false, false) => ", asymmetric",
            (true, true) => "",
            (true, false) => ", centred",
        })
    }
}
