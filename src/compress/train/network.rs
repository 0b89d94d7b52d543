//! A whole model as tensors in memory: what is trained, and what teaches it.

use super::adapter::Adapter;
use super::rounded::Rounded;
use crate::compress::libtorch::{EmbeddingLayer, LmHead};
use crate::compress::tensors::{Compute, Parameter, Parameters, to_vec};
use crate::error::Result;
use crate::model::{ModelSpec, ParameterKind, Part};
use crate::quant::{Weight, WeightStore};
use std::collections::BTreeMap;
use tch::{Kind, Tensor};

/// Parameters by canonical name, and what forwards make of them.
pub struct Network {
    spec: ModelSpec,
    compute: Compute,
    parameters: BTreeMap<String, Held>,
    /// What forwards round, where they do.
    rounded: Option<Rounded>,
}

/// A parameter.
struct Held {
    kind: ParameterKind,
    tensor: Tensor,
    adapter: Option<Adapter>,
}

/// What training changes.
#[derive(Clone, Debug, PartialEq)]
pub enum Trained {
    /// The parameters of these canonical names.
    Parameters(Vec<String>),
    /// Low-rank corrections of these matrices.
    Adapters {
        /// Canonical names.
        of: Vec<String>,
        /// Columns of the factors.
        rank: usize,
        /// The correction is `alpha / rank · B A`.
        alpha: f64,
        /// Of what A starts as.
        seed: u64,
    },
}

impl Trained {
    /// Whether nothing is.
    pub fn is_nothing(&self) -> bool {
        match self {
            Trained::Parameters(of) | Trained::Adapters { of, .. } => of.is_empty(),
        }
    }
}

/// A tensor that an optimiser changes.
pub struct Variable {
    /// Canonical name of the parameter; factors of an adapter add `.lora_a` or `.lora_b`.
    pub name: String,
    /// f32, requires a gradient.
    pub tensor: Tensor,
    /// Whether weights decay: matrices of blocks and the head do, vectors and embeddings do
    /// not.
    pub decays: bool,
}

impl Network {
    /// To run alone, in the number format of `compute`.
    pub fn frozen(store: &dyn WeightStore, compute: Compute) -> Result<Self> {
        Self::load(store, compute, compute.kind)
    }

    /// To be trained: parameters in f32, forwards in the number format of `compute`.
    pub fn trained(store: &dyn WeightStore, compute: Compute, what: &Trained) -> Result<Self> {
        // Double only where forwards are: for proofs.
        let kind = if compute.kind == Kind::Double { Kind::Double } else { Kind::Float };
        let mut network = Self::load(store, compute, kind)?;
        match what {
            Trained::Parameters(names) => names.iter().for_each(|name| {
                let held = network.parameters.get_mut(name).expect("a parameter of the model");
                held.tensor = held.tensor.set_requires_grad(true);
            }),
            Trained::Adapters { of, rank, alpha, seed } => of.iter().for_each(|name| {
                let held = network.parameters.get_mut(name).expect("a parameter of the model");
                held.adapter = Some(Adapter::new(name, &held.tensor, *rank, *alpha, *seed));
            }),
        }
        Ok(network)
    }

    fn load(store: &dyn WeightStore, compute: Compute, kind: Kind) -> Result<Self> {
        let spec = store.spec().clone();
        let of = Compute { kind, ..compute };
        let load = |p: crate::model::Parameter| {
            let tensor = Parameter::load(store.weight(&p.name)?, of).tensor().copy();
            Ok((p.name, Held { kind: p.kind, tensor, adapter: None }))
        };
        let parameters = spec.parameters().into_iter().map(load).collect::<Result<_>>()?;
        Ok(Self { spec, compute, parameters, rounded: None })
    }

    /// The same, some of which forwards round.
    pub fn rounding(self, rounded: Option<Rounded>) -> Self {
        Self { rounded, ..self }
    }

    /// What forwards round, where they do.
    pub fn rounded(&self) -> Option<&Rounded> {
        self.rounded.as_ref()
    }

    /// What the model is.
    pub fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    /// Where and in what its forwards run.
    pub fn compute(&self) -> Compute {
        self.compute
    }

    /// The layers before the blocks.
    pub fn embedding(&self) -> EmbeddingLayer {
        EmbeddingLayer::held(&self.spec, |name| self.seen(name), self.compute)
    }

    /// The parameters of a block.
    pub fn block(&self, block: usize) -> Parameters {
        let roles = self.spec.roles(block).into_iter();
        let parameters = Parameters::of_tensors(roles.map(|(role, ..)| {
            let tensor = self.seen(&self.spec.block_name(block, &role)).to_kind(self.compute.kind);
            (role, tensor)
        }));
        match &self.rounded {
            Some(rounded) => parameters.blending(rounded.in_block(&self.spec, block)),
            None => parameters,
        }
    }

    /// The layers behind the blocks.
    pub fn lm_head(&self) -> LmHead {
        LmHead::held(&self.spec, |name| self.seen(name), self.compute)
    }

    /// A parameter as forwards see it.
    fn seen(&self, name: &str) -> Tensor {
        let tensor = self.adapted(name);
        match &self.rounded {
            Some(rounded) => rounded.weight(name, tensor),
            None => tensor,
        }
    }

    /// A parameter with its correction.
    fn adapted(&self, name: &str) -> Tensor {
        let held = &self.parameters[name];
        held.adapter.as_ref().map_or_else(|| held.tensor.shallow_clone(), |adapter| adapter.applied(&held.tensor))
    }

    /// What training changes, in an order that does not change.
    pub fn variables(&self) -> Vec<Variable> {
        let of = |(name, held): (&String, &Held)| match &held.adapter {
            Some(adapter) => {
                let factor =
                    |what: &str, tensor: &Tensor| Variable { name: format!("{name}.{what}"), tensor: tensor.shallow_clone(), decays: true };
                vec![factor("lora_a", &adapter.a), factor("lora_b", &adapter.b)]
            }
            None if held.tensor.requires_grad() => {
                let decays = matches!(held.kind, ParameterKind::Linear | ParameterKind::Head);
                vec![Variable { name: name.clone(), tensor: held.tensor.shallow_clone(), decays }]
            }
            None => Vec::new(),
        };
        self.parameters.iter().flat_map(of).collect()
    }

    /// The first segment, as a tape counts them, that has something to learn.
    pub fn first_to_learn(&self) -> usize {
        let learns = |name: &str| {
            let held = &self.parameters[name];
            held.adapter.is_some() || held.tensor.requires_grad()
        };
        let start = self.spec.parameters_of(Part::Start).any(|p| learns(&p.name));
        let block = |i: &usize| self.spec.roles(*i).iter().any(|(role, ..)| learns(&self.spec.block_name(*i, role)));
        if start { 0 } else { (0..self.spec.blocks.len()).find(block).map_or(self.segments(), |i| i + 1) }
    }

    /// Segments, as a tape counts them: the embedding and the blocks.
    pub fn segments(&self) -> usize {
        self.spec.blocks.len() + 1
    }

    /// All parameters as they are now, corrections merged and not rounded, by canonical name.
    pub fn weights(&self) -> Vec<(String, Weight)> {
        let weight = |p: crate::model::Parameter| {
            let weight = Weight::from_f32(&p.name, p.shape, &self.values(&p.name));
            (p.name, weight)
        };
        self.spec.parameters().into_iter().map(weight).collect()
    }

    /// A parameter as it is now, corrections merged and not rounded: f32, row by row.
    pub fn values(&self, name: &str) -> Vec<f32> {
        let _no_grad = tch::no_grad_guard();
        to_vec(&self.adapted(name))
    }
}
