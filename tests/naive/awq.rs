//! AWQ as its paper tells it (section 3.2) and `AutoAWQ` does it, in float64 over
//! explicit activations: no Hessian, no shared code.

use ndarray::{Array1, Array2, Axis, s};

/// One layer, `[out, in]`, quantised asymmetrically to codes 0 … levels in groups.
pub struct Layer {
    pub weight: Array2<f64>,
    pub levels: f64,
    pub group: usize,
}

impl Layer {
    fn groups(&self) -> impl Iterator<Item = std::ops::Range<usize>> {
        let columns = self.weight.ncols();
        (0..columns).step_by(self.group).map(move |start| start..(start + self.group).min(columns))
    }

    /// Mean |w| relative to the greatest of its group.
    fn relative_magnitude(&self) -> Array1<f64> {
        let mut relative = self.weight.mapv(f64::abs);
        for group in self.groups() {
            for mut row in relative.slice_mut(s![.., group.clone()]).rows_mut() {
                let greatest = row.iter().copied().fold(0.0, f64::max);
                row.mapv_inplace(|w| w / (greatest + 1e-6));
            }
        }
        relative.mean_axis(Axis(0)).unwrap()
    }

    /// The nearest values on the grid of a group whose span is cut to a share.
    fn round_group(&self, values: &[f64], share: f64) -> Vec<f64> {
        let low = share * values.iter().copied().fold(0.0, f64::min);
        let high = share * values.iter().copied().fold(0.0, f64::max);
        if low == high {
            return vec![0.0; values.len()];
        }
        let scale = half::f16::from_f64((high - low) / self.levels).to_f64();
        let zero = (-low / scale).round_ties_even().clamp(0.0, self.levels);
        values.iter().map(|v| ((v / scale).round_ties_even() + zero).clamp(0.0, self.levels)).map(|code| scale * (code - zero)).collect()
    }

    fn round(&self, weight: &Array2<f64>) -> Array2<f64> {
        let mut rounded = weight.clone();
        for group in self.groups() {
            for mut row in rounded.slice_mut(s![.., group.clone()]).rows_mut() {
                let values = self.round_group(&row.to_vec(), 1.0);
                row.assign(&Array1::from(values));
            }
        }
        rounded
    }
}

/// Σ over layers of ‖(Q(W·s)/s − W) X‖² / ‖W X‖² for activations `[tokens, in]`.
pub fn loss(layers: &[Layer], x: &Array2<f64>, scales: &Array1<f64>) -> f64 {
    let of = |layer: &Layer| {
        let difference = layer.round(&(&layer.weight * scales)) / scales - &layer.weight;
        let sum_of_squares = |w: &Array2<f64>| x.dot(&w.t()).mapv(|e| e * e).sum();
        sum_of_squares(&difference) / sum_of_squares(&layer.weight)
    };
    layers.iter().map(of).sum()
}

/// The best scales of a grid of strengths; `None` where none is better than no scales.
pub fn scales(layers: &[Layer], x: &Array2<f64>, points: usize, duo: bool) -> Option<Array1<f64>> {
    let activations = x.mapv(f64::abs).mean_axis(Axis(0)).unwrap();
    let weights = layers.iter().map(Layer::relative_magnitude).reduce(|a, b| a + b).unwrap() / layers.len() as f64;
    let mut best = (None, loss(layers, x, &Array1::ones(x.ncols())));
    for point in 0..points {
        let alpha = point as f64 / points as f64;
        let mut scales = activations.mapv(|a| a.powf(alpha));
        if duo {
            scales /= &weights.mapv(|w| w.powf(1.0 - alpha) + 1e-4);
        }
        scales.mapv_inplace(|s| s.max(1e-4));
        let (least, most) = scales.iter().fold((f64::INFINITY, 0.0f64), |(a, b), &s| (a.min(s), b.max(s)));
        scales /= (least * most).sqrt();
        let loss = loss(layers, x, &scales);
        if loss < best.1 {
            best = (Some(scales), loss);
        }
    }
    best.0
}

/// The layer rounded, each group clipped as far as lowers its share of the output's
/// error.
pub fn clipped(layer: &Layer, x: &Array2<f64>) -> Array2<f64> {
    let mut rounded = layer.weight.clone();
    for group in layer.groups() {
        let x = x.slice(s![.., group.clone()]);
        for mut row in rounded.slice_mut(s![.., group.clone()]).rows_mut() {
            let values = row.to_vec();
            let mut best = (Vec::new(), f64::INFINITY);
            for step in 0..=10 {
                let tried = layer.round_group(&values, 1.0 - f64::from(step) / 20.0);
                let difference: Array1<f64> = tried.iter().zip(&values).map(|(q, w)| q - w).collect();
                let error = x.dot(&difference).mapv(|e| e * e).sum();
                if error < best.1 {
                    best = (tried, error);
                }
            }
            row.assign(&Array1::from(best.0));
        }
    }
    rounded
}
