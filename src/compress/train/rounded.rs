//! What of a network is rounded while it is trained. It is blended in over the first steps,
//! so that a trained model need not be lost at once.

use crate::compress::straight_through::{Blend, straight, ternary};
use crate::model::ModelSpec;
use crate::quant::ternary::Share;
use std::cell::Cell;
use std::collections::BTreeSet;
use tch::Tensor;

/// What is to be rounded, and how.
#[derive(Clone)]
pub struct Rounding {
    /// Canonical names of the matrices.
    pub layers: BTreeSet<String>,
    /// What weights are rounded by; `None` where they are rounded already.
    pub share: Option<Share>,
    /// Whether their inputs are rounded too.
    pub inputs: bool,
    /// Canonical names of norms that are blended in as rounding is.
    pub norms: BTreeSet<String>,
    /// Share of the steps over which λ rises from 0 to 1; all is rounded from the first on where
    /// it is 0.
    pub blend: f64,
}

/// What of a network is rounded, and how far at a step.
#[derive(Clone)]
pub struct Rounded {
    rounding: Rounding,
    lambda: Cell<f64>,
}

impl Rounded {
    /// All of it, until [`Self::at`] says otherwise.
    pub fn new(rounding: Rounding) -> Self {
        Self { rounding, lambda: Cell::new(1.0) }
    }

    /// Blends as step `step` of `steps` (from 0) is to; behind the last one, all is rounded.
    pub fn at(&self, step: u64, steps: u64) {
        let rise = self.rounding.blend * steps as f64;
        self.lambda.set(if rise > 0.0 { ((step + 1) as f64 / rise).min(1.0) } else { 1.0 });
    }

    /// Whether not all is rounded yet.
    pub fn is_rising(&self) -> bool {
        self.lambda.get() < 1.0
    }

    /// A parameter as forwards see it.
    pub fn weight(&self, name: &str, weight: Tensor) -> Tensor {
        match self.rounding.share.filter(|_| self.rounding.layers.contains(name)) {
            Some(share) => straight(&weight, ternary(&weight, share), self.lambda.get()),
            None => weight,
        }
    }

    /// What the parameters of a block do to what they meet.
    pub fn in_block(&self, spec: &ModelSpec, block: usize) -> Blend {
        let Rounding { layers, inputs, norms, .. } = &self.rounding;
        let roles = |names: &BTreeSet<String>| {
            let all = spec.roles(block).into_iter().map(|(role, ..)| role);
            all.filter(|role| names.contains(&spec.block_name(block, role))).collect()
        };
        let inputs = if *inputs { roles(layers) } else { BTreeSet::new() };
        Blend { inputs, norms: roles(norms), lambda: self.lambda.get() }
    }
}
