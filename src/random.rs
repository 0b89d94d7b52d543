//! Counter-based random numbers: the value depends on the seed, the stream and
//! the counter alone, so that a run can be stopped, resumed and repeated.

/// A stream of random numbers.
#[derive(Clone, Copy, Debug)]
pub struct Random {
    key: u64,
}

impl Random {
    /// Streams of one seed are independent of each other.
    pub fn new(seed: u64, stream: u64) -> Self {
        Self { key: mix(seed ^ mix(stream.wrapping_add(0x9e37_79b9_7f4a_7c15))) }
    }

    /// A stream by name: each letter names one of those of the one before.
    pub fn named(seed: u64, name: &str) -> Self {
        let last = name.bytes().fold(seed, |seed, letter| Self::new(seed, letter.into()).bits(0));
        Self::new(last, 0)
    }

    /// 64 random bits.
    pub fn bits(&self, counter: u64) -> u64 {
        mix(self.key ^ mix(counter))
    }

    /// Uniform in [0, 1).
    pub fn uniform(&self, counter: u64) -> f64 {
        (self.bits(counter) >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Normal with mean 0 and deviation 1, by Box and Muller (1958) from two uniform numbers.
    pub fn normal(&self, counter: u64) -> f64 {
        let (u, v) = (1.0 - self.uniform(2 * counter), self.uniform(2 * counter + 1));
        (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
    }

    /// Uniform below `n` (which must not be 0); the bias of the modulus is under n / 2^64.
    pub fn below(&self, n: u64, counter: u64) -> u64 {
        self.bits(counter) % n
    }

    /// Puts `first` items, drawn at random, in front, as far as there are so many
    /// (Fisher and Yates); as many as there are make a permutation.
    pub fn shuffle<T>(&self, items: &mut [T], first: usize) {
        for i in 0..items.len().min(first) {
            let j = i + self.below((items.len() - i) as u64, i as u64) as usize;
            items.swap(i, j);
        }
    }
}

/// The output function of SplitMix64 (Steele, Lea and Flood 2014).
fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}
