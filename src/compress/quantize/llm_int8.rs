//! LLM.int8(): a scale an output row, and the few columns of an input that hold
//! outliers kept in 16 bits.
//!
//! Dettmers, Lewis, Belkada and Zettlemoyer, "LLM.int8(): 8-bit Matrix Multiplication
//! for Transformers at Scale" (2022): section 3.1 is the vector-wise quantisation,
//! whose other half, a scale a token, is the device's
//! ([`crate::runtime::Activations::Int8Token`]); section 3.2 is the decomposition.
//!
//! The paper finds the outliers of each product at run time, and its library
//! (bitsandbytes) then decodes the int8 weights of those columns. Here they are
//! found once, in the calibration, and their weights are never quantised: what a
//! device meets of outliers elsewhere is rounded as everything else. A calibration
//! finds more columns than one sequence would, above all behind a gated activation;
//! where they and the codes would take more room than 16 bits a weight, all of the
//! layer is kept in 16 bits.

use super::{LayerMethod, LayerResult, TargetLayer};
use crate::compress::calibrate::InputStatistics;
use crate::compress::tensors::{to_array, to_vec};
use crate::error::Result;
use crate::quant::rounding::round_to_nearest;
use crate::quant::{Columns, Outliers};
use crate::recipe::LlmInt8Options;
use std::sync::Arc;

/// The method.
pub struct LlmInt8 {
    /// What is kept.
    pub options: LlmInt8Options,
}

impl LayerMethod for LlmInt8 {
    fn compress(&self, layers: &[TargetLayer], input: InputStatistics) -> Result<Vec<LayerResult>> {
        let Some(first) = layers.first() else { return Ok(Vec::new()) };
        let magnitudes = to_vec(&input.greatest_magnitude);
        let reaches = |(place, &magnitude): (usize, &f32)| (f64::from(magnitude) >= self.options.threshold).then_some(place as u32);
        let mut places: Vec<u32> = magnitudes.iter().enumerate().filter_map(reaches).collect();
        // Layers of one input have one scheme.
        let beside = first.scheme.bits_per_weight([first.weight.size()[0] as usize, magnitudes.len()])
            + 16.0 * places.len() as f64 / magnitudes.len() as f64;
        let too_many = !places.is_empty() && beside >= 16.0;
        // Said once, of the input that the layers share.
        let remarks = self.remark(places.len(), magnitudes.len(), too_many);
        if too_many {
            places = (0..magnitudes.len() as u32).collect();
        }
        let columns = (!places.is_empty()).then(|| Arc::new(Columns { name: format!("{}.outlier_columns", first.name), places }));
        let decompose = |(layer, remarks): (&TargetLayer, Vec<String>)| {
            let mut weight = to_array(&layer.weight);
            let outliers = columns.as_ref().map(|columns| Outliers::take(&mut weight, columns));
            let mut tensor = round_to_nearest(weight.view(), layer.scheme);
            tensor.outliers = outliers;
            LayerResult::measured(layer, tensor, &input.hessian, remarks)
        };
        let remarks = std::iter::once(remarks.into_iter().collect()).chain(std::iter::repeat(Vec::new()));
        Ok(layers.iter().zip(remarks).map(decompose).collect())
    }
}

impl LlmInt8 {
    fn remark(&self, reach: usize, columns: usize, too_many: bool) -> Option<String> {
        let found = format!("{reach} of {columns} columns of its input reach {}", self.options.threshold);
        match too_many {
            _ if reach == 0 => None,
            false => Some(format!("{found} and are kept in 16 bits")),
            true => Some(format!("{found}: too many to keep beside codes, so all that reads it is kept in 16 bits")),
        }
    }
}
