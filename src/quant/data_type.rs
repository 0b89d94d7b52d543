//! Data types: which numbers the codes of a weight stand for.
//!
//! Dettmers and Zettlemoyer, "The case for 4-bit precision: k-bit Inference Scaling
//! Laws" (2022), section 2.2 and appendix A, compare them. All but integers are
//! tables of numbers: [`super::codebook`] makes those.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::str::FromStr;

/// What a code stands for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DataType {
    /// Whole numbers at even distances.
    #[default]
    Int,
    /// A sign, and so many bits of exponent and mantissa.
    Float {
        /// Bits of the exponent, 1 at least.
        exponent: u8,
        /// Bits of the mantissa.
        mantissa: u8,
    },
    /// A decimal exponent of as many bits as the number needs, and a fraction of
    /// the rest.
    Dynamic,
    /// Quantiles of the normal distribution: NF4 at 4 bits.
    Normal,
    /// Quantiles of the weight itself.
    Quantile,
    /// One that a newer release named. A codebook tells its numbers, so that it runs all
    /// the same.
    Other,
}

impl DataType {
    /// Widths there are codebooks of.
    pub const CODEBOOK_BITS: std::ops::RangeInclusive<usize> = 3..=8;

    /// Whether codes are numbers themselves and need no table.
    pub fn is_int(&self) -> bool {
        *self == DataType::Int
    }

    /// The split of so many bits that the paper recommends: 2 bits of exponent at 3
    /// bits and 3 at 6 to 8, as it has them (appendix A), and 2 at 4 and 5, where it
    /// says that its 3 are one too many.
    pub fn float(bits: usize) -> Self {
        let exponent = if bits <= 5 { 2 } else { 3 };
        DataType::Float { exponent, mantissa: bits as u8 - 1 - exponent }
    }

    /// Its name at a width, such as nf4 or e2m1.
    pub fn at(&self, bits: usize) -> String {
        match self {
            DataType::Int | DataType::Dynamic | DataType::Quantile | DataType::Other => format!("{self}{bits}"),
            DataType::Normal => format!("nf{bits}"),
            DataType::Float { .. } => self.to_string(),
        }
    }
}

impl fmt::Display for DataType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DataType::Int => f.write_str("int"),
            DataType::Float { exponent, mantissa } => write!(f, "e{exponent}m{mantissa}"),
            DataType::Dynamic => f.write_str("dynamic"),
            DataType::Normal => f.write_str("normal"),
            DataType::Quantile => f.write_str("quantile"),
            DataType::Other => f.write_str("book"),
        }
    }
}

impl FromStr for DataType {
    type Err = ();
    fn from_str(name: &str) -> Result<Self, ()> {
        let plain = [DataType::Int, DataType::Dynamic, DataType::Normal, DataType::Quantile];
        if let Some(found) = plain.into_iter().find(|t| t.to_string() == name) {
            return Ok(found);
        }
        let (exponent, mantissa) = name.strip_prefix('e').and_then(|rest| rest.split_once('m')).ok_or(())?;
        let (exponent, mantissa) = (exponent.parse().map_err(drop)?, mantissa.parse().map_err(drop)?);
        let fits = (1..=7).contains(&exponent) && DataType::CODEBOOK_BITS.contains(&(1 + usize::from(exponent) + usize::from(mantissa)));
        fits.then_some(DataType::Float { exponent, mantissa }).ok_or(())
    }
}

impl Serialize for DataType {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for DataType {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(String::deserialize(deserializer)?.parse().unwrap_or(DataType::Other))
    }
}
