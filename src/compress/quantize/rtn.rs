//! Round to nearest, each group on its min-max grid: no calibration.

use super::{LayerMethod, Outcome, Site};
use crate::compress::tensors::to_array;
use crate::error::Result;
use crate::quant::grid::round_to_nearest;
use tch::Tensor;

/// The method.
pub struct Rtn;

impl LayerMethod for Rtn {
    fn compress(&self, sites: &[Site], _hessian: &Tensor) -> Result<Vec<Outcome>> {
        let round = |site: &Site| Outcome { tensor: round_to_nearest(to_array(&site.weight).view(), site.scheme), remarks: Vec::new() };
        Ok(sites.iter().map(round).collect())
    }
}
