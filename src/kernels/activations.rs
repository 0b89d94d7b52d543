//! Activations in int8: blocks of 32 columns with a scale each, or one for all blocks
//! of a token.

use super::Kernels;

/// Columns of a block of activations.
pub const BLOCK: usize = 32;

/// Rows of int8 activations, `x ≈ scale · code`, codes in −127 … 127.
pub struct Int8Rows {
    /// `[tokens, blocks · 32]`, zero behind the last column.
    pub codes: Vec<i8>,
    /// `[tokens, blocks]`
    pub scales: Vec<f32>,
    /// Sum of a block's codes, `[tokens, blocks]`: takes the zero points off.
    pub sums: Vec<i32>,
    /// Blocks of a row.
    pub blocks: usize,
}

impl Int8Rows {
    /// Quantises rows `[tokens, columns]`, each block to its greatest magnitude.
    pub fn quantize(x: &[f32], columns: usize, kernels: &Kernels) -> Self {
        let tokens = x.len() / columns;
        let blocks = columns.div_ceil(BLOCK);
        let mut rows =
            Self { codes: vec![0; tokens * blocks * BLOCK], scales: vec![0.0; tokens * blocks], sums: vec![0; tokens * blocks], blocks };
        for (token, x) in x.chunks_exact(columns).enumerate() {
            for (block, x) in x.chunks(BLOCK).enumerate() {
                let i = token * blocks + block;
                let codes = &mut rows.codes[i * BLOCK..i * BLOCK + x.len()];
                (rows.scales[i], rows.sums[i]) = (kernels.quantize_block)(x, codes);
            }
        }
        rows
    }

    /// Quantises rows `[tokens, columns]`, each as a whole to its greatest magnitude: all
    /// its blocks have one scale. So do SmoothQuant (Xiao et al. 2022, section 2), LLM.int8()
    /// (Dettmers et al. 2022, section 3.1) and the servers that compute in int8.
    /// Rows of zeros, and those with a NaN or an infinity, fare as blocks do in
    /// [`Kernels::quantize_block`].
    pub fn quantize_by_token(x: &[f32], columns: usize) -> Self {
        let tokens = x.len() / columns;
        let blocks = columns.div_ceil(BLOCK);
        let mut rows = Self { codes: vec![0; tokens * blocks * BLOCK], scales: Vec::new(), sums: vec![0; tokens * blocks], blocks };
        for (token, x) in x.chunks_exact(columns).enumerate() {
            // The bits of magnitudes are ordered as the magnitudes are, and NaN above all.
            let greatest = f32::from_bits(x.iter().map(|v| v.abs().to_bits()).max().unwrap_or(0));
            rows.scales.resize((token + 1) * blocks, greatest / 127.0);
            let inverse = 127.0 / greatest;
            if !inverse.is_finite() || greatest.is_infinite() {
                continue;
            }
            for (block, x) in x.chunks(BLOCK).enumerate() {
                let i = token * blocks + block;
                let codes = &mut rows.codes[i * BLOCK..i * BLOCK + x.len()];
                codes.iter_mut().zip(x).for_each(|(code, v)| *code = nearest(v * inverse));
                rows.sums[i] = codes.iter().map(|code| i32::from(*code)).sum();
            }
        }
        rows
    }

    /// Number of rows.
    pub fn tokens(&self) -> usize {
        self.scales.len() / self.blocks.max(1)
    }

    /// Codes, scale and sum of one block of a token.
    pub fn block(&self, token: usize, block: usize) -> (&[i8; BLOCK], f32, i32) {
        let i = token * self.blocks + block;
        (&self.codes.as_chunks().0[i], self.scales[i], self.sums[i])
    }
}

/// To the nearest whole number, ties to even, of a magnitude far below 2²². The sum lies
/// where floats are whole numbers and keeps the code in its low bits: unlike
/// `round_ties_even`, this is vector code on every machine.
fn nearest(value: f32) -> i8 {
    const WHOLE: f32 = 1.5 * (1 << 23) as f32;
    (value + WHOLE).to_bits() as i8
}
