//! The error of each linear layer: ‖(W − Q)X‖ / ‖WX‖ with the inputs X that the
//! original model has on the calibration ids, one measure for whoever made Q.

use crate::subject::Subject;
use std::collections::BTreeMap;
use tch::Tensor;
use thimble::compress::calibrate::HiddenStates;
use thimble::compress::libtorch::EmbeddingLayer;
use thimble::compress::solve::relative_error::relative_error;
use thimble::compress::{Compute, Parameters};
use thimble::forward::names::{FFN_NORMS, MIXER_NORMS, attn, ffn};
use thimble::progress::Silent;
use thimble::quant::WeightStore;
use thimble::recipe::TokenImportance;
use thimble::spec::LayerName;

/// Second moments of what flows into the original's layers, by block and input.
pub struct Inputs(Vec<BTreeMap<LayerName, Tensor>>);

/// By block, then role.
pub type Errors = Vec<BTreeMap<String, f64>>;

impl Inputs {
    pub fn of(subject: &Subject, ids: &[Vec<u32>]) -> Self {
        let store = &*subject.original.store;
        let spec = store.spec();
        let embedding = EmbeddingLayer::load(spec, |name| store.weight(name), Compute::CPU).unwrap();
        let mut hidden = HiddenStates::start(ids, &embedding, TokenImportance::Equal);
        let of_block = |(i, block): (usize, &thimble::spec::Block)| {
            let parameters = Parameters::block(store, i, Compute::CPU).unwrap();
            let mut statistics = hidden.advance_observed(block, &parameters, &Silent);
            let groups = block.input_groups(spec.hidden_size);
            groups.iter().map(|group| (group.input, statistics.take(group.input).hessian)).collect()
        };
        Self(spec.blocks.iter().enumerate().map(of_block).collect())
    }

    /// Errors of a compressed form.
    pub fn errors(&self, original: &dyn WeightStore, model: &dyn WeightStore) -> Errors {
        let spec = original.spec();
        let rescaled = is_rescaled(original, model);
        let of_block = |(i, hessians): (usize, &BTreeMap<_, Tensor>)| {
            let groups = spec.blocks[i].input_groups(spec.hidden_size);
            let layers = groups.iter().flat_map(|group| group.linears.iter().map(|linear| (group.input, linear.name)));
            let error = |(input, role)| {
                let [before, after] = [original, model].map(|store| tensor(store, i, role));
                let after = if rescaled { unfolded(original, model, i, role, input, after) } else { after };
                (role.to_string(), relative_error(&before, &after, &hessians[&input]))
            };
            layers.map(error).collect()
        };
        self.0.iter().enumerate().map(of_block).collect()
    }
}

/// Whether a method has scaled channels: then it has changed some norm.
fn is_rescaled(original: &dyn WeightStore, model: &dyn WeightStore) -> bool {
    let norms = (0..original.spec().blocks.len()).flat_map(|i| [MIXER_NORMS[0], FFN_NORMS[0]].map(|role| (i, role)));
    let changed = |(i, role)| {
        let [before, after] = [original, model].map(|store| tensor(store, i, role));
        bool::try_from(before.ne_tensor(&after).any()).unwrap()
    };
    norms.into_iter().any(changed)
}

/// Rows of a layer into which the scales of what follows have been migrated.
const FOLDED_ROWS: [LayerName; 2] = [attn::V, ffn::UP];

/// A layer's weight as one that reads the original's inputs and gives its outputs.
fn unfolded(
    original: &dyn WeightStore,
    model: &dyn WeightStore,
    block: usize,
    role: LayerName,
    input: LayerName,
    weight: Tensor,
) -> Tensor {
    let weight = weight * migrated(original, model, block, input);
    if FOLDED_ROWS.contains(&role) { &weight / of_rows(&tensor(original, block, role), &weight).unsqueeze(1) } else { weight }
}

/// What the rows of a weight have been multiplied by, but for what rounding did to them.
fn of_rows(before: &Tensor, after: &Tensor) -> Tensor {
    (after * before).sum_dim_intlist(1, false, None) / before.square().sum_dim_intlist(1, false, None)
}

/// What the columns of a layer's weight must be multiplied by to read the original's
/// inputs, where a method has migrated the inverse into the producer: a norm
/// exactly, or rows of a linear layer, which are rounded besides.
fn migrated(original: &dyn WeightStore, model: &dyn WeightStore, block: usize, input: LayerName) -> Tensor {
    let of_norm = |role| {
        let [before, after] = [original, model].map(|store| tensor(store, block, role));
        (after / &before).where_self(&before.ne(0.0), &Tensor::from(1f32))
    };
    let of_rows =
        |role, input| of_rows(&tensor(original, block, role), &(tensor(model, block, role) * migrated(original, model, block, input)));
    match input {
        attn::INPUT => of_norm(MIXER_NORMS[0]),
        ffn::INPUT => of_norm(FFN_NORMS[0]),
        attn::CONTEXT => heads(original, block, of_rows(attn::V, attn::INPUT)),
        ffn::HIDDEN => of_rows(ffn::UP, ffn::INPUT),
        other => panic!("{other}: what feeds it?"),
    }
}

/// A factor for each channel of the values as one for each channel of the context:
/// a head of keys and values serves several of queries.
fn heads(model: &dyn WeightStore, block: usize, values: Tensor) -> Tensor {
    let context = tensor(model, block, attn::O).size()[1];
    let attention = model.spec().blocks[block].attention().expect("attention");
    let (kv, dim) = (attention.n_kv_heads as i64, attention.head_dim as i64);
    values.view([kv, 1, dim]).expand([kv, context / (kv * dim), dim], false).reshape([context])
}

fn tensor(store: &dyn WeightStore, block: usize, role: LayerName) -> Tensor {
    let weight = store.weight(&store.spec().block_name(block, role)).unwrap();
    let shape: Vec<i64> = weight.shape().iter().map(|&n| n as i64).collect();
    Tensor::from_slice(&weight.to_f32()).view(&shape[..])
}
