//! A model whose weights are all in one number format: what a configuration's
//! `dtype` can say, and what tensors with parts of several parameters need.

use crate::checkpoint::FloatType;
use crate::error::Result;
use crate::model::ModelSpec;
use crate::quant::{Weight, WeightStore};
use std::path::PathBuf;
use std::sync::Arc;

/// Weights of a store, each converted when it is touched, and not kept.
pub struct InType {
    pub store: Arc<dyn WeightStore>,
    pub float_type: FloatType,
}

impl InType {
    /// Whether no weight is too great for the format.
    pub fn is_finite(&self) -> Result<bool> {
        for parameter in self.spec().parameters() {
            if let Weight::Dense(tensor) = self.weight(&parameter.name)?
                && tensor.expect_finite().is_err()
            {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn converted(&self, weight: Weight) -> Weight {
        match weight {
            Weight::Dense(tensor) => Weight::Dense(tensor.to_type(self.float_type)),
            packed => packed,
        }
    }
}

impl WeightStore for InType {
    fn spec(&self) -> &ModelSpec {
        self.store.spec()
    }
    fn weight(&self, name: &str) -> Result<Weight> {
        self.store.weight(name).map(|weight| self.converted(weight))
    }
    fn stored(&self, name: &str) -> Result<Weight> {
        self.store.stored(name).map(|weight| self.converted(weight))
    }
    fn files(&self) -> Vec<Arc<PathBuf>> {
        self.store.files()
    }
}
