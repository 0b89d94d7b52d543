//! `data_type` and `centred` of a recipe: from a name and a width to codes.

use crate::quant::{Code, DataType};
use serde::{Deserialize, Deserializer};

/// A data type as it is written.
#[derive(Clone, Copy, Debug, Default)]
pub(super) enum RawDataType {
    #[default]
    Int,
    /// Floats with the split that is recommended for the width.
    Fp,
    /// One that says its own width, such as e2m1 or nf4.
    OfBits(DataType, usize),
    /// One of any width.
    Named(DataType),
}

impl RawDataType {
    const EXPECTED: &str = "\"int\", \"fp\", a float by its bits of exponent and mantissa such as \"e2m1\", \
                            \"dynamic\", \"normal\", \"nf4\" or \"quantile\"";

    fn parse(name: &str) -> Option<Self> {
        let named = || match name.parse().ok()? {
            DataType::Int => Some(Self::Int),
            float @ DataType::Float { exponent, mantissa } => Some(Self::OfBits(float, usize::from(1 + exponent + mantissa))),
            other => Some(Self::Named(other)),
        };
        match name.strip_prefix("nf").map(str::parse) {
            Some(Ok(bits)) => Some(Self::OfBits(DataType::Normal, bits)),
            _ if name == "fp" => Some(Self::Fp),
            _ => named(),
        }
    }
}

impl<'de> Deserialize<'de> for RawDataType {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        Self::parse(&name)
            .ok_or_else(|| serde::de::Error::custom(format!("data_type \"{name}\" is not known; known are {}", Self::EXPECTED)))
    }
}

/// Codes and data type of a width; `what` is for messages.
pub(super) fn codes(what: &str, bits: usize, raw: RawDataType) -> Result<(Code, DataType), String> {
    let list = |codes: &[Code]| codes.iter().map(|c| c.bits().to_string()).collect::<Vec<_>>().join(", ");
    let data_type = match raw {
        RawDataType::Int => {
            let unknown = || format!("{what}: bits = {bits} is not known; known are {}", list(&Code::INTEGERS));
            return Code::from_bits(bits).map(|code| (code, DataType::Int)).ok_or_else(unknown);
        }
        RawDataType::OfBits(data_type, own) if own != bits => {
            let name = data_type.at(own);
            return Err(format!("{what}: data_type = \"{name}\" has {own} bits, not {bits}; set bits = {own}"));
        }
        RawDataType::OfBits(data_type, _) | RawDataType::Named(data_type) => Some(data_type),
        RawDataType::Fp => None,
    };
    let unknown = || {
        let codebooks: Vec<Code> = Code::ALL.into_iter().filter(|code| code.has_codebook()).collect();
        format!("{what}: bits = {bits} is not known for this data_type; known are {}", list(&codebooks))
    };
    let code = Code::of_codebook(bits).ok_or_else(unknown)?;
    Ok((code, data_type.unwrap_or_else(|| DataType::float(bits))))
}

/// Whether groups have no zero point or offset of their own.
pub(super) fn symmetric(what: &str, data_type: DataType, symmetric: bool, centred: bool) -> Result<bool, String> {
    match (data_type, symmetric, centred) {
        (DataType::Int, _, true) => {
            Err(format!("{what}: centred = true is for other data types; integers have zero points where symmetric = false"))
        }
        (DataType::Int, symmetric, false) => Ok(symmetric),
        (_, true, true) => Err(format!("{what}: symmetric and centred exclude each other; leave one out")),
        (_, _, centred) => Ok(!centred),
    }
}
