//! Number formats of the tensors that are written: each in that of the source's.

use crate::checkpoint::FloatType;
use crate::error::Result;
use crate::export::narrow::fits_f16;
use crate::model::{ModelSpec, Parameter, Part};
use crate::quant::{Weight, WeightStore};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

/// Number formats of a source's parameters.
#[derive(Clone)]
pub struct FloatTypes {
    /// By role; `None` where blocks differ.
    by_role: BTreeMap<String, Option<FloatType>>,
    /// By canonical name.
    by_name: BTreeMap<String, FloatType>,
    /// Blocks of the source.
    blocks: usize,
}

impl FloatTypes {
    /// Number formats of a full-precision model.
    pub fn of(store: &dyn WeightStore) -> Result<Self> {
        let spec = store.spec();
        let mut types = Self { by_role: BTreeMap::new(), by_name: BTreeMap::new(), blocks: spec.blocks.len() };
        for parameter in spec.parameters() {
            let Weight::Dense(tensor) = store.stored(&parameter.name)? else { continue };
            let of_role = types.by_role.entry(role(&parameter)).or_insert(Some(tensor.float_type));
            if *of_role != Some(tensor.float_type) {
                *of_role = None;
            }
            types.by_name.insert(parameter.name, tensor.float_type);
        }
        Ok(types)
    }

    /// Number format of a parameter of a model that was made of the source, and has `blocks` blocks: that
    /// of the parameter of its name there, and for one that the source lacks the only one there is.
    /// `None` where the source does not tell: it has several, or its blocks differ and some are gone.
    pub fn wanted(&self, parameter: &Parameter, blocks: usize) -> Option<FloatType> {
        match self.by_role.get(&role(parameter)) {
            Some(None) if blocks == self.blocks => self.by_name.get(&parameter.name).copied(),
            Some(of_role) => *of_role,
            None => {
                let first = *self.by_name.values().next()?;
                self.by_name.values().all(|&other| other == first).then_some(first)
            }
        }
    }
}

/// Name of a parameter without the number of its block.
fn role(parameter: &Parameter) -> String {
    match parameter.part {
        Part::Block(_) => format!("block.{}", parameter.role()),
        Part::Start | Part::End => parameter.name.clone(),
    }
}

/// Weights of a store in other number formats, each converted when it is touched, and not kept.
pub struct InType {
    store: Arc<dyn WeightStore>,
    /// By canonical name.
    types: BTreeMap<String, FloatType>,
}

impl InType {
    /// Converts the named weights to the formats given for them, and leaves the others as they are.
    pub fn with(store: Arc<dyn WeightStore>, types: BTreeMap<String, FloatType>) -> Self {
        Self { store, types }
    }

    /// Weights of a store in the formats of its source. A weight whose format the source does not
    /// tell is as it is.
    pub fn new(store: Arc<dyn WeightStore>, types: &FloatTypes) -> Self {
        let spec = store.spec();
        let wanted = |p: Parameter| Some((p.name.clone(), types.wanted(&p, spec.blocks.len())?));
        let types = spec.parameters().into_iter().filter_map(wanted).collect();
        Self { store, types }
    }

    /// Leaves in f32 what f16 cannot hold, too great or too small; the names of those parameters.
    pub fn widened(mut self) -> Result<(Self, Vec<String>)> {
        let mut beyond = Vec::new();
        for parameter in self.spec().parameters() {
            if self.types.get(&parameter.name) == Some(&FloatType::F16)
                && let Weight::Dense(tensor) = self.store.weight(&parameter.name)?
                && tensor.float_type != FloatType::F16
                && !fits_f16(&tensor)
            {
                beyond.push(parameter.name);
            }
        }
        self.types.extend(beyond.iter().map(|name| (name.clone(), FloatType::F32)));
        Ok((self, beyond))
    }

    fn converted(&self, name: &str, weight: Weight) -> Weight {
        match (weight, self.types.get(name)) {
            (Weight::Dense(tensor), Some(&float_type)) => Weight::Dense(tensor.to_type(float_type)),
            (other, _) => other,
        }
    }
}

impl WeightStore for InType {
    fn spec(&self) -> &ModelSpec {
        self.store.spec()
    }
    fn weight(&self, name: &str) -> Result<Weight> {
        self.store.weight(name).map(|weight| self.converted(name, weight))
    }
    fn stored(&self, name: &str) -> Result<Weight> {
        self.store.stored(name).map(|weight| self.converted(name, weight))
    }
    fn files(&self) -> Vec<Arc<PathBuf>> {
        self.store.files()
    }
}
