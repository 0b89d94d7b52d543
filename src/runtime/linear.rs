//! Matrix products over weights as they lie in the file, dense or packed.

use super::Activations;
use crate::error::Result;
use crate::kernels::{Int8Rows, Kernels, Pool, Tile};
use crate::quant::formats::tiled::TILE_ROWS;
use crate::quant::{Layout, PackedTensor, Permutation, Tiling, Weight, WeightStore};
use std::borrow::Cow;
use std::sync::Arc;

/// What products are computed with.
pub(super) struct Device {
    pub kernels: &'static Kernels,
    pub pool: Pool,
    pub activations: Activations,
}

/// A weight `[out, in]` with its bias.
pub(super) struct LinearLayer {
    weight: Weight,
    bias: Option<Vec<f32>>,
    outputs: usize,
    inputs: usize,
}

impl LinearLayer {
    pub fn load(store: &dyn WeightStore, name: &str, bias: bool) -> Result<Self> {
        let weight = store.weight(name)?;
        let shape = weight.shape();
        let bias = bias.then(|| store.weight(&format!("{name}.bias"))).transpose()?;
        Ok(Self { bias: bias.map(|b| b.to_f32().into_owned()), outputs: shape[0], inputs: shape[1], weight })
    }

    /// Decodes one row: the look-up of an embedding.
    pub fn row(&self, row: usize, out: &mut [f32]) {
        self.weight.row(row, out);
    }

    fn permutation(&self) -> Option<&Arc<Permutation>> {
        match &self.weight {
            Weight::Packed(packed) => packed.permutation.as_ref(),
            Weight::Dense(_) => None,
        }
    }

    /// x `[tokens, in]` → `[tokens, out]`
    pub fn apply(&self, x: &[f32], device: &Device) -> Vec<f32> {
        let [y] = apply_group([self], x, device);
        y
    }

    fn product(&self, x: &Prepared, device: &Device) -> Vec<f32> {
        let tokens = x.tokens;
        let tiles = self.outputs.div_ceil(TILE_ROWS);
        // [tiles, tokens, 16]: each task writes a stretch of its own.
        let mut by_tile = vec![0.0f32; tiles * tokens * TILE_ROWS];
        let per_task = tiles.div_ceil(4 * device.pool.threads());
        let tile_len = tokens * TILE_ROWS;
        device.pool.for_chunks(&mut by_tile, per_task * tile_len, |task, out| {
            for (i, out) in out.chunks_exact_mut(tile_len).enumerate() {
                self.tile_product(task * per_task + i, x, out, device.kernels);
            }
        });
        let mut y = gather_rows(&by_tile, tokens, self.outputs);
        if let Some(bias) = &self.bias {
            for row in y.chunks_exact_mut(self.outputs) {
                row.iter_mut().zip(bias).for_each(|(y, b)| *y += b);
            }
        }
        y
    }

    fn tile_product(&self, tile: usize, x: &Prepared, out: &mut [f32], kernels: &Kernels) {
        match &self.weight {
            Weight::Packed(packed) => {
                let code = packed.tiling.scheme.code as usize;
                let tile = Tile::of(packed, tile);
                match &x.int8 {
                    Some(int8) => kernels.int8_tile[code](&tile, int8, out),
                    None => kernels.f32_tile[code](&tile, &x.values, self.inputs, out),
                }
            }
            Weight::Dense(dense) => {
                let row_bytes = self.inputs * dense.float_type.size_bytes();
                let rows = tile * TILE_ROWS..((tile + 1) * TILE_ROWS).min(self.outputs);
                let rows = &dense.bytes[rows.start * row_bytes..rows.end * row_bytes];
                kernels.dense_tile(dense.float_type)(rows, self.inputs, &x.values, out);
            }
        }
    }
}

/// From `[tiles, tokens, 16]` to `[tokens, outputs]`, padding rows left out.
fn gather_rows(by_tile: &[f32], tokens: usize, outputs: usize) -> Vec<f32> {
    let mut rows = Vec::with_capacity(by_tile.len());
    for token in 0..tokens {
        for tile in by_tile.chunks_exact(tokens * TILE_ROWS) {
            rows.extend_from_slice(&tile[token * TILE_ROWS..(token + 1) * TILE_ROWS]);
        }
        rows.truncate((token + 1) * outputs);
    }
    rows
}

/// Activations in the order and number format that some layers want.
struct Prepared<'a> {
    tokens: usize,
    values: Cow<'a, [f32]>,
    int8: Option<Int8Rows>,
}

impl<'a> Prepared<'a> {
    fn new(x: &'a [f32], layer: &LinearLayer, device: &Device) -> Self {
        let values: Cow<[f32]> = match layer.permutation() {
            None => Cow::Borrowed(x),
            Some(p) => Cow::Owned(x.chunks_exact(layer.inputs).flat_map(|row| p.order.iter().map(|&i| row[i as usize])).collect()),
        };
        let int8 = layer.wants_int8(device).then(|| Int8Rows::quantize(&values, layer.inputs, device.kernels));
        Self { tokens: x.len() / layer.inputs, values, int8 }
    }
}

impl LinearLayer {
    fn wants_int8(&self, device: &Device) -> bool {
        // Books of fractions meet activations as they are.
        let suits = |tiling: &Tiling| tiling.layout == Layout::Tiles && tiling.scheme.code.is_whole();
        matches!(&self.weight, Weight::Packed(PackedTensor { tiling, .. }) if suits(tiling)) && device.activations == Activations::Int8
    }

    /// Whether what was prepared for one layer serves the other.
    fn prepares_alike(&self, other: &Self, device: &Device) -> bool {
        self.permutation() == other.permutation() && self.wants_int8(device) == other.wants_int8(device)
    }
}

/// Several layers over one input, which is permuted and quantised once.
pub(super) fn apply_group<const N: usize>(layers: [&LinearLayer; N], x: &[f32], device: &Device) -> [Vec<f32>; N] {
    let mut last: Option<(&LinearLayer, Prepared)> = None;
    layers.map(|layer| {
        if !last.as_ref().is_some_and(|(before, _)| before.prepares_alike(layer, device)) {
            last = Some((layer, Prepared::new(x, layer, device)));
        }
        let (_, prepared) = last.as_ref().expect("just prepared");
        layer.product(prepared, device)
    })
}
