//! Norms.

use crate::error::Result;
use crate::kernels::Kernels;
use crate::quant::WeightStore;
use crate::spec::{Norm, NormKind, NormWeight};

/// A norm with its weights.
pub(super) struct NormLayer {
    kind: NormKind,
    epsilon: f32,
    /// Numbers that are normed together.
    span: usize,
    /// A multiple of `span`: spans take their weights in turn. Empty where there are
    /// none.
    weight: Vec<f32>,
    bias: Vec<f32>,
}

impl NormLayer {
    /// Loads the norm of this canonical name, over `span` numbers.
    pub fn load(store: &dyn WeightStore, name: &str, spec: &Norm, span: usize) -> Result<Self> {
        let vector = |name: &str| Ok::<_, crate::Error>(store.weight(name)?.to_f32().into_owned());
        let mut weight = if spec.weight == NormWeight::None { Vec::new() } else { vector(name)? };
        if spec.weight == NormWeight::OnePlus {
            weight.iter_mut().for_each(|w| *w += 1.0);
        }
        let bias = if spec.bias { vector(&format!("{name}.bias"))? } else { Vec::new() };
        Ok(Self { kind: spec.kind, epsilon: spec.epsilon as f32, span, weight, bias })
    }

    /// Norms each span of `x`.
    pub fn apply(&self, x: &mut [f32], kernels: &Kernels) {
        for (i, row) in x.chunks_exact_mut(self.span).enumerate() {
            if self.kind == NormKind::Layer {
                let mean = row.iter().sum::<f32>() / self.span as f32;
                row.iter_mut().for_each(|v| *v -= mean);
            }
            let scale = ((kernels.dot)(row, row) / self.span as f32 + self.epsilon).sqrt().recip();
            row.iter_mut().for_each(|v| *v *= scale);
            if let Some(weight) = self.in_turn(&self.weight, i) {
                row.iter_mut().zip(weight).for_each(|(v, w)| *v *= w);
            }
            if let Some(bias) = self.in_turn(&self.bias, i) {
                row.iter_mut().zip(bias).for_each(|(v, b)| *v += b);
            }
        }
    }

    fn in_turn<'a>(&self, vector: &'a [f32], span: usize) -> Option<&'a [f32]> {
        (!vector.is_empty()).then(|| &vector[span * self.span % vector.len()..][..self.span])
    }
}
