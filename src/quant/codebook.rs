//! Codebooks: the table of numbers that the codes of a data type stand for.
//!
//! A weight is `scale · codebook[code] + offset`. Codebooks of up to 16 entries are whole
//! numbers within ±127, so that kernels look bytes up and add up exact integers;
//! the scale absorbs the factor. Floats of up to 4 bits are whole numbers as they
//! are; of the others an entry moves by half of 1/127 at most, a tenth of what lies
//! between NF4's closest numbers and their middle, which costs the mean square error
//! of normal weights less than a half per cent (`tests/codebooks.rs`). llama.cpp's IQ4_NL
//! is such a codebook too. Wider codebooks are f32.
//!
//! What codebooks hold: Dettmers and Zettlemoyer, "The case for 4-bit precision: k-bit
//! Inference Scaling Laws" (2022), appendix A.

use super::DataType;

/// Most entries of a codebook of whole numbers: a byte shuffle's table.
pub const WHOLE_ENTRIES: usize = 16;
/// Most entries of any codebook: a byte's values.
pub const MAX_ENTRIES: usize = 256;
/// Greatest magnitude of a whole number. −128 would flip its sign in `maddubs`-like
/// instructions.
pub const GREATEST_WHOLE: f32 = 127.0;

/// 2^bits ascending numbers. Two may be equal: floats have a zero of either sign.
#[derive(Clone, Debug, PartialEq)]
pub struct Codebook {
    /// Name of the tensor that stores it where weights share it; `None` where it is
    /// the weight's own.
    pub name: Option<String>,
    /// By the byte of a code; those that are not the codebook's are zero, so that no code
    /// can lead astray.
    table: Box<[f32; MAX_ENTRIES]>,
    /// How many are the codebook's.
    entries: usize,
    /// Between each two neighbours.
    midpoints: Vec<f64>,
    /// The values where they are whole.
    bytes: [i8; WHOLE_ENTRIES],
}

impl Codebook {
    /// A codebook of `values`, or what is wrong with them.
    pub fn new(name: Option<String>, values: Vec<f32>) -> Result<Self, String> {
        if !DataType::CODEBOOK_BITS.into_iter().any(|bits| values.len() == 1 << bits) {
            return Err(format!("{} entries", values.len()));
        }
        if let Some(broken) = values.iter().find(|v| !v.is_finite()) {
            return Err(format!("the entry {broken}"));
        }
        if let Some(pair) = values.windows(2).find(|pair| pair[0] > pair[1]) {
            return Err(format!("{} before {}", pair[0], pair[1]));
        }
        let mut bytes = [0; WHOLE_ENTRIES];
        if values.len() <= WHOLE_ENTRIES {
            if let Some(broken) = values.iter().find(|v| v.trunc() != **v || v.abs() > GREATEST_WHOLE) {
                return Err(format!("the entry {broken} in a codebook of {}", values.len()));
            }
            bytes.iter_mut().zip(&values).for_each(|(byte, v)| *byte = *v as i8);
        }
        let midpoints = values.windows(2).map(|pair| (f64::from(pair[0]) + f64::from(pair[1])) / 2.0).collect();
        let mut table = Box::new([0.0; MAX_ENTRIES]);
        table[..values.len()].copy_from_slice(&values);
        Ok(Self { name, table, entries: values.len(), midpoints, bytes })
    }

    /// What [`Codebook::new`] wants, in words.
    pub const EXPECTED: &str = "2^bits finite numbers that ascend, up to 16 of them whole and within ±127";

    /// The codebook of a data type, which weights share; `None` for those that have none
    /// or one for each weight. `bits` are 3 to 8.
    pub fn shared(data_type: DataType, bits: usize) -> Option<Self> {
        let values = match data_type {
            DataType::Float { exponent, mantissa } => float(exponent.into(), mantissa.into()),
            DataType::Dynamic => dynamic(bits),
            DataType::Normal => normal(bits),
            DataType::Int | DataType::Quantile | DataType::Other => return None,
        };
        Some(Self::stored(Some(format!("book.{}", data_type.at(bits))), values))
    }

    /// The codebook of the values' own quantiles. `values` are those of groups that are
    /// divided by their greatest magnitudes, in any order.
    pub fn of_quantiles(bits: usize, values: Vec<f32>) -> Self {
        Self::stored(None, quantiles(bits, values))
    }

    /// Values in the numbers they are stored as. Floats of up to 4 bits are whole and
    /// stay as they are; other narrow codebooks fill ±127.
    fn stored(name: Option<String>, mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        let greatest = values.iter().fold(0.0f64, |m, v| m.max(v.abs()));
        let whole = values.iter().all(|v| v.trunc() == *v) && greatest > 1.0;
        if values.len() <= WHOLE_ENTRIES && !whole {
            values.iter_mut().for_each(|v| *v = (f64::from(GREATEST_WHOLE) * *v / greatest).round_ties_even());
        }
        Self::new(name, values.into_iter().map(|v| v as f32).collect()).expect("codebooks are made as they must be")
    }

    /// The numbers, ascending.
    pub fn values(&self) -> &[f32] {
        &self.table[..self.entries]
    }

    /// The numbers by the byte of a code, zeros behind them.
    pub fn table(&self) -> &[f32; MAX_ENTRIES] {
        &self.table
    }

    /// The numbers of a codebook of up to 16 entries, zeros behind them.
    pub fn bytes(&self) -> &[i8; WHOLE_ENTRIES] {
        &self.bytes
    }

    /// Bytes of the numbers as they are stored.
    pub fn len_bytes(&self) -> usize {
        size_of_val(self.values())
    }

    /// Greatest magnitude of an entry.
    pub fn greatest(&self) -> f32 {
        // They ascend.
        self.table[0].abs().max(self.table[self.entries - 1].abs())
    }

    /// The number of a code, which is a byte without a sign.
    pub fn value(&self, code: i8) -> f32 {
        self.table[usize::from(code as u8)]
    }

    /// Code of the nearest number; of two that are as near, the lesser.
    pub fn nearest(&self, value: f64) -> i8 {
        self.midpoints.partition_point(|midpoint| *midpoint < value) as u8 as i8
    }
}

/// IEEE-like: subnormal numbers where the exponent is 0, no infinity and no NaN. In
/// units of the least number where that is whole and narrow, otherwise from 1 to
/// below 2 at most.
///
/// The paper's equation 5 and bitsandbytes' FP4 have 2^-(2^(E−1)+1) in place of the
/// subnormals' 2^(1−bias), which leaves a gap above zero (1/192 where e2m1 has 1/12);
/// this is what section 2.2 says, and the e2m1 of OCP's MX formats.
fn float(exponent: u32, mantissa: u32) -> Vec<f64> {
    let steps = 1u32 << mantissa;
    let magnitude = |code: u32| match (code >> mantissa, code & (steps - 1)) {
        (0, m) => f64::from(m),
        (e, m) => f64::from(steps + m) * f64::powi(2.0, e as i32 - 1),
    };
    let codes = 1u32 << (exponent + mantissa);
    let narrow = 2 * codes as usize <= WHOLE_ENTRIES;
    let unit = if narrow { 1.0 } else { f64::powi(2.0, (mantissa + (1 << exponent) - 2) as i32) };
    (0..codes).map(magnitude).flat_map(|v| [v / unit, -v / unit]).collect()
}

/// Each further zero bit behind the sign is a tenth; the bits behind the first 1 cut
/// 0.1 … 1 into equal parts, whose middles the numbers are. Zero and one besides.
///
/// Source: Dettmers, "8-Bit Approximations for Parallelism in Deep Learning" (2015);
/// Dettmers et al., "8-bit Optimizers via Block-wise Quantization" (2021), section
/// 1.3; `create_dynamic_map` of bitsandbytes.
fn dynamic(bits: usize) -> Vec<f64> {
    let mut values = vec![0.0, 1.0];
    for fraction_bits in 0..bits - 1 {
        let tenth = f64::powi(10.0, fraction_bits as i32 + 2 - bits as i32);
        let parts = 1 << fraction_bits;
        for part in 0..parts {
            let middle = 0.1 + 0.9 * (f64::from(part) + 0.5) / f64::from(parts);
            values.extend([tenth * middle, -tenth * middle]);
        }
    }
    values
}

/// Quantiles of the normal distribution at even distances from one tail to the
/// median, and from there to the other: one more above zero than below, so that zero
/// is among them once.
///
/// Source: Dettmers et al., "QLoRA" (2023), section 3 and appendix E (NF4);
/// `create_normal_map` of bitsandbytes, whose 0.9677083 is the mean of the two tails
/// here at 4 bits.
fn normal(bits: usize) -> Vec<f64> {
    let (above, below) = (1 << (bits - 1), (1 << (bits - 1)) - 1);
    let tail = 1.0 - (0.25 / f64::from(above) + 0.5 / f64::from(above + below)) / 2.0;
    let half = |count: i32| (1..=count).map(move |i| normal_quantile(0.5 + (tail - 0.5) * f64::from(i) / f64::from(count)));
    let greatest = normal_quantile(tail);
    half(above).chain([0.0]).chain(half(below).map(|v| -v)).map(|v| v / greatest).collect()
}

/// Inverse of the normal distribution's cumulative function, by bisection.
fn normal_quantile(probability: f64) -> f64 {
    let (mut low, mut high) = (-10.0, 10.0);
    for _ in 0..64 {
        let middle = (low + high) / 2.0;
        let below = libm::erfc(-middle / std::f64::consts::SQRT_2) / 2.0;
        *(if below < probability { &mut low } else { &mut high }) = middle;
    }
    (low + high) / 2.0
}

/// Middles of 2^bits bins that hold equally many values (equation 6 of the paper,
/// without its count of bins that is one off). The one nearest to zero becomes zero,
/// which the paper adds, so that no code is without use.
fn quantiles(bits: usize, mut values: Vec<f32>) -> Vec<f64> {
    if values.iter().all(|v| *v == 0.0) {
        return normal(bits);
    }
    values.sort_by(f32::total_cmp);
    let bins = 1 << bits;
    // Between the two nearest values, as far as the rank is between them.
    let quantile = |bin: usize| {
        let rank = (values.len() - 1) as f64 * bin as f64 / bins as f64;
        let (below, share) = (rank as usize, rank.fract());
        let [low, high] = [below, (below + 1).min(values.len() - 1)].map(|i| f64::from(values[i]));
        low + share * (high - low)
    };
    let mut middles: Vec<f64> = (0..bins).map(|bin| (quantile(bin) + quantile(bin + 1)) / 2.0).collect();
    let nearest = middles.iter_mut().min_by(|a, b| a.abs().total_cmp(&b.abs())).expect("8 bins at least");
    *nearest = 0.0;
    let greatest = middles.iter().fold(0.0f64, |m, v| m.max(v.abs()));
    middles.into_iter().map(|v| v / greatest).collect()
}
