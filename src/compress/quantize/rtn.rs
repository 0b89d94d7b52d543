//! Round to nearest, each group by quantisation parameters of its own. Where errors are weighted by
//! the second moments of the columns' activations, the calibration counts; otherwise it does not.

use super::{LayerMethod, LayerResult, TargetLayer};
use crate::compress::calibrate::InputStatistics;
use crate::compress::solve::optimal_brain::numbers;
use crate::compress::tensors::to_array;
use crate::error::Result;
use crate::quant::rounding::round_by;
use crate::recipe::RtnOptions;
use tch::Kind;

/// The method.
pub struct Rtn {
    /// Search for scales and zero points.
    pub options: RtnOptions,
}

impl LayerMethod for Rtn {
    fn compress(&self, layers: &[TargetLayer], input: InputStatistics) -> Result<Vec<LayerResult>> {
        // The Hessian's diagonal: second moments of the activations.
        let importance = self.options.importance.then(|| numbers::<f64>(&input.hessian.diag(0).to_kind(Kind::Double)));
        let round = |layer: &TargetLayer| {
            let tensor = round_by(to_array(&layer.weight).view(), layer.scheme, self.options.grid, importance.as_deref());
            LayerResult::measured(layer, tensor, &input.hessian, Vec::new())
        };
        Ok(layers.iter().map(round).collect())
    }
}
