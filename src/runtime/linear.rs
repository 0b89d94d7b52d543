//! Matrix products over weights as they lie in the file, dense or packed.

use super::Activations;
use crate::error::Result;
use crate::kernels::{Int8Rows, Kernels, Pool, Tile};
use crate::quant::formats::tiled::TILE_ROWS;
use crate::quant::{Columns, Layout, PackedOutliers, PackedTensor, Permutation, Tiling, Weight, WeightStore};
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
    /// Loads the matrix and the bias of these canonical names.
    pub fn load(store: &dyn WeightStore, name: &str, bias: Option<&str>) -> Result<Self> {
        let weight = store.weight(name)?;
        let shape = weight.shape();
        let bias = bias.map(|name| store.weight(name)).transpose()?;
        Ok(Self { bias: bias.map(|b| b.to_f32().into_owned()), outputs: shape[0], inputs: shape[1], weight })
    }

    /// A layer of this matrix with another bias.
    pub fn with_bias(&self, bias: Option<Vec<f32>>) -> Self {
        Self { weight: self.weight.clone(), bias, outputs: self.outputs, inputs: self.inputs }
    }

    /// Columns of the matrix.
    pub fn inputs(&self) -> usize {
        self.inputs
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

    fn outliers(&self) -> Option<&PackedOutliers> {
        match &self.weight {
            Weight::Packed(packed) => packed.outliers.as_ref(),
            Weight::Dense(_) => None,
        }
    }

    fn outlier_columns(&self) -> Option<&Arc<Columns>> {
        self.outliers().map(|outliers| &outliers.columns)
    }

    /// x `[tokens, in]` → `[tokens, out]`
    fn apply(&self, x: &[f32], device: &Device) -> Vec<f32> {
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
        let mut y = gather_rows(by_tile, tokens, self.outputs);
        if let Weight::Packed(packed) = &self.weight
            && let Some(powers) = packed.powers()
        {
            let powers: Vec<f32> = powers.collect();
            y.chunks_exact_mut(self.outputs).for_each(|row| row.iter_mut().zip(&powers).for_each(|(y, power)| *y *= power));
        }
        if let Some(bias) = &self.bias {
            for row in y.chunks_exact_mut(self.outputs) {
                row.iter_mut().zip(bias).for_each(|(y, b)| *y += b);
            }
        }
        y
    }

    fn tile_product(&self, tile: usize, x: &Prepared, out: &mut [f32], kernels: &Kernels) {
        let rows = tile * TILE_ROWS..((tile + 1) * TILE_ROWS).min(self.outputs);
        if let Some((outliers, x)) = self.outliers().zip(x.outliers.as_ref()) {
            (kernels.dense_f16)(outliers.rows(rows.clone()), outliers.width(), x, out);
        }
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
                let rows = &dense.bytes[rows.start * row_bytes..rows.end * row_bytes];
                kernels.dense_tile(dense.float_type)(rows, self.inputs, &x.values, out);
            }
        }
    }
}

/// From `[tiles, tokens, 16]` to `[tokens, outputs]`, padding rows left out.
fn gather_rows(mut by_tile: Vec<f32>, tokens: usize, outputs: usize) -> Vec<f32> {
    if tokens == 1 {
        by_tile.truncate(outputs);
        return by_tile;
    }
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
    /// `[tokens, in]` in stored order; zero where columns are kept in 16 bits.
    values: Cow<'a, [f32]>,
    int8: Option<Int8Rows>,
    /// `[tokens, columns]` of the columns that are kept in 16 bits.
    outliers: Option<Vec<f32>>,
}

impl<'a> Prepared<'a> {
    fn new(x: &'a [f32], layer: &LinearLayer, device: &Device) -> Self {
        let mut values = Cow::Borrowed(x);
        let outliers = layer.outlier_columns().map(|columns| columns.take(values.to_mut(), layer.inputs));
        if let Some(p) = layer.permutation() {
            let rows = values.chunks_exact(layer.inputs);
            values = Cow::Owned(rows.flat_map(|row| p.order.iter().map(|&i| row[i as usize])).collect());
        }
        let int8 = match layer.activations(device) {
            Activations::Int8 => Some(Int8Rows::quantize(&values, layer.inputs, device.kernels)),
            Activations::Int8Token => Some(Int8Rows::quantize_by_token(&values, layer.inputs)),
            Activations::F32 => None,
        };
        Self { tokens: x.len() / layer.inputs, values, int8, outliers }
    }
}

impl LinearLayer {
    /// What its weight multiplies.
    fn activations(&self, device: &Device) -> Activations {
        // Codebooks of fractions meet activations as they are.
        let suits = |tiling: &Tiling| tiling.layout == Layout::Tiles && tiling.scheme.code.is_whole();
        match &self.weight {
            Weight::Packed(PackedTensor { tiling, .. }) if suits(tiling) => device.activations,
            _ => Activations::F32,
        }
    }

    /// Whether what was prepared for one layer serves the other.
    fn prepares_alike(&self, other: &Self, device: &Device) -> bool {
        self.permutation() == other.permutation()
            && self.outlier_columns() == other.outlier_columns()
            && self.activations(device) == other.activations(device)
    }
}

/// One product as a decoder computes it, for checks and measurements: x `[tokens, in]`
/// → `[tokens, out]`.
pub fn product(weight: Weight, x: &[f32], activations: Activations, kernels: &'static Kernels) -> Vec<f32> {
    let shape = weight.shape();
    let layer = LinearLayer { bias: None, outputs: shape[0], inputs: shape[1], weight };
    layer.apply(x, &Device { kernels, pool: Pool::new(1).unwrap(), activations })
}

/// Several layers over one input, which is split, permuted and quantised once.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels;
    use crate::quant::rounding::round_to_nearest;
    use crate::quant::{Code, Outliers, Scheme};
    use ndarray::Array2;

    fn layer(seed: usize, kept: Option<&Arc<Columns>>) -> LinearLayer {
        let mut weight = Array2::from_shape_fn((5, 40), |(row, column)| ((7 * row + 3 * column + seed) % 11) as f32 / 5.0 - 1.0);
        let outliers = kept.map(|columns| Outliers::take(&mut weight, columns));
        let mut tensor = round_to_nearest(weight.view(), Scheme::integers(Code::Int8, 0, true));
        tensor.outliers = outliers;
        LinearLayer { weight: Weight::pack("w", &tensor, Layout::Tiles), bias: None, outputs: 5, inputs: 40 }
    }

    fn columns(places: &[u32]) -> Option<Arc<Columns>> {
        Some(Arc::new(Columns { name: "w.outlier_columns".into(), places: places.to_vec() }))
    }

    /// Layers of one input are prepared for once where they keep the same columns, read
    /// from one tensor or not, and each as it needs where they do not.
    #[test]
    fn layers_that_keep_the_same_columns_are_prepared_for_once() {
        let kept = columns(&[3, 17]);
        let [q, k] = [1, 2].map(|seed| layer(seed, kept.as_ref()));
        let again = layer(3, columns(&[3, 17]).as_ref());
        let [other, none] = [layer(4, columns(&[3, 18]).as_ref()), layer(5, None)];
        let x: Vec<f32> = (0..80).map(|i| ((i * 13) % 29) as f32 - 14.0).collect();
        for activations in [Activations::Int8, Activations::Int8Token, Activations::F32] {
            let device = Device { kernels: kernels::select().unwrap(), pool: Pool::new(1).unwrap(), activations };
            assert!(q.prepares_alike(&k, &device) && q.prepares_alike(&again, &device));
            assert!(!q.prepares_alike(&other, &device) && !q.prepares_alike(&none, &device) && !none.prepares_alike(&q, &device));
            let layers = [&q, &k, &other, &none, &again];
            let alone = layers.map(|layer| layer.apply(&x, &device));
            assert!(apply_group(layers, &x, &device) == alone);
        }
    }
}
