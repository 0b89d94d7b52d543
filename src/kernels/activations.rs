//! Activations in int8: blocks of 32 columns with a scale each.

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
