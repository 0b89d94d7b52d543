//! What is left of a model when layers are taken out, and indices of axes: heads,
//! channels of feed-forwards, channels of the residual stream. What goes together
//! follows from the axes that dimensions run over, so no family lists it.
//!
//! The smaller model does what the whole one would with the same things masked: a head
//! or a channel that adds nothing, and a channel of the residual stream that does not
//! deviate from what a norm centres on, which is zero for RMS norms and the mean of the
//! channels that stay for layer norms.

use super::{Axis, Kept, ModelSpec, Parameter, Part, SpecError, gather};
use crate::error::Result;
use crate::forward::Inner;
use crate::spec::{Attention, Block, Gate, Norm, NormKind, NormWeight, Op, Positions, QkNorm, QkSpan, SubLayer};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// What is left.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Selection {
    /// Layers that stay, in their order.
    pub layers: Vec<usize>,
    /// Indices that stay of each axis that is not left whole, ascending. Blocks are
    /// counted as in the model that is selected from.
    #[serde(with = "as_pairs")]
    kept: BTreeMap<Axis, Vec<usize>>,
}

/// JSON has no maps by anything but names.
mod as_pairs {
    use super::{Axis, BTreeMap, Deserialize};
    use serde::{Deserializer, Serialize, Serializer};

    pub fn serialize<S: Serializer>(map: &BTreeMap<Axis, Vec<usize>>, serializer: S) -> Result<S::Ok, S::Error> {
        map.iter().collect::<Vec<_>>().serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<Axis, Vec<usize>>, D::Error> {
        Ok(Vec::deserialize(deserializer)?.into_iter().collect())
    }
}

impl Selection {
    /// All of it.
    pub fn whole(spec: &ModelSpec) -> Self {
        Self { layers: (0..spec.blocks.len()).collect(), kept: BTreeMap::new() }
    }

    /// Keeps these units of an axis, ascending, and with each what [goes with it](ModelSpec::coupled).
    pub fn keep(&mut self, axis: Axis, units: &[usize], spec: &ModelSpec) {
        assert!(!units.is_empty(), "something of {axis} stays");
        let mut all: BTreeMap<Axis, Vec<usize>> = BTreeMap::new();
        for &unit in units {
            for (axis, indices) in spec.coupled(axis, unit) {
                all.entry(axis).or_default().extend(indices);
            }
        }
        for (axis, indices) in all {
            match indices.len() == axis.size(spec) {
                true => drop(self.kept.remove(&axis)),
                false => drop(self.kept.insert(axis, indices)),
            }
        }
    }

    /// What stays of an axis.
    pub fn of(&self, axis: Axis, spec: &ModelSpec) -> Kept {
        let of = axis.size(spec);
        Kept { of, indices: self.kept.get(&axis).cloned().unwrap_or_else(|| (0..of).collect()) }
    }

    /// What stays of a dimension that runs over some axes, outermost first.
    pub fn along(&self, axes: &[Axis], spec: &ModelSpec) -> Vec<usize> {
        let inner = |places: Vec<usize>, axis: &Axis| {
            let Kept { of, indices } = self.of(*axis, spec);
            places.iter().flat_map(|place| indices.iter().map(move |index| place * of + index)).collect()
        };
        axes.iter().fold(vec![0], inner)
    }

    /// Whether something of an axis is taken out.
    pub fn cuts(&self, axis: Axis) -> bool {
        self.kept.contains_key(&axis)
    }

    /// The block that a block of the smaller model was.
    pub fn block_of(&self, block: usize) -> usize {
        self.layers[block]
    }

    /// The smaller model; fails with the reason where there cannot be one.
    pub fn apply(&self, spec: &ModelSpec) -> std::result::Result<ModelSpec, SpecError> {
        self.check(spec)?;
        let mut smaller = spec.clone();
        smaller.blocks = self.layers.iter().map(|&layer| self.block(layer, spec)).collect::<std::result::Result<_, _>>()?;
        if self.cuts(Axis::Hidden) {
            smaller.hidden_size = self.of(Axis::Hidden, spec).indices.len();
            let cut = self.share(&[Axis::Hidden], spec);
            let outside = [&mut smaller.embedding.norm, &mut smaller.final_norm].into_iter().flatten();
            outside.for_each(|norm| norm.narrow(cut));
        }
        smaller.check()?;
        Ok(smaller)
    }

    fn check(&self, spec: &ModelSpec) -> std::result::Result<(), SpecError> {
        if self.layers.is_empty() {
            return Err(SpecError::Rule("no layer is left: keep one at least"));
        }
        if spec.shares_weights() {
            return Err(SpecError::SharedWeights { family: spec.family.clone() });
        }
        spec.check_one_of_a_kind()?;
        if self.cuts(Axis::Hidden) {
            check_hidden(spec)?;
        }
        Ok(())
    }

    fn block(&self, layer: usize, spec: &ModelSpec) -> std::result::Result<Block, SpecError> {
        let axis = |inner| Axis::Block(layer, inner);
        let kept = |inner| self.of(axis(inner), spec).indices;
        let mut block = spec.blocks[layer].clone();
        for sub_layer in &mut block.sub_layers {
            match &mut sub_layer.op {
                Op::Attention(attention) if self.cuts(axis(Inner::QueryHeads)) => {
                    let heads = (kept(Inner::QueryHeads), kept(Inner::KvHeads));
                    keep_heads(attention, heads).map_err(SpecError::at(format!("block {layer}")))?;
                }
                Op::Wkv(wkv) if self.cuts(axis(Inner::State)) => wkv.width = kept(Inner::State).len(),
                Op::FeedForward(ffn) if self.cuts(axis(Inner::FeedForward)) => ffn.width = kept(Inner::FeedForward).len(),
                Op::Attention(_) | Op::Wkv(_) | Op::FeedForward(_) => (),
            }
        }
        self.narrow_norms(layer, &mut block, spec)?;
        Ok(block)
    }

    /// Norms over something that is cut.
    fn narrow_norms(&self, layer: usize, block: &mut Block, spec: &ModelSpec) -> std::result::Result<(), SpecError> {
        let share = |axis: Axis| if self.cuts(axis) { self.share(&[axis], spec) } else { 1.0 };
        let inner = |inner| share(Axis::Block(layer, inner));
        let inside = |norm: &mut Norm, share: f64| match norm.kind {
            NormKind::Layer if share < 1.0 => Err(SpecError::at(format!("block {layer}"))(SpecError::Rule(
                "a layer norm runs over all heads or channels, and is centred on all of them: none can go",
            ))),
            NormKind::Layer | NormKind::Rms => {
                norm.narrow(share);
                Ok(())
            }
        };
        for sub_layer in &mut block.sub_layers {
            sub_layer.norms_mut().for_each(|norm| norm.narrow(share(Axis::Hidden)));
            match &mut sub_layer.op {
                Op::FeedForward(ffn) => ffn.hidden_norm.iter_mut().try_for_each(|norm| inside(norm, inner(Inner::FeedForward)))?,
                Op::Attention(attention) => {
                    let (queries, keys) = (inner(Inner::QueryHeads), inner(Inner::KvHeads));
                    attention.context_norm.iter_mut().try_for_each(|norm| inside(norm, queries))?;
                    if let Some(QkNorm { norm, span: QkSpan::All }) = &mut attention.qk_norm {
                        if queries != keys {
                            return Err(SpecError::at(format!("block {layer}"))(SpecError::Rule(
                                "one norm each runs over all queries and all keys, which must be cut alike: take out whole key-value heads",
                            )));
                        }
                        inside(norm, queries)?;
                    }
                }
                Op::Wkv(_) => (),
            }
        }
        Ok(())
    }

    /// The share that is left of what runs over some axes.
    fn share(&self, axes: &[Axis], spec: &ModelSpec) -> f64 {
        axes.iter().map(|&axis| self.of(axis, spec)).map(|kept| kept.indices.len() as f64 / kept.of as f64).product()
    }

    /// The numbers of a parameter of the smaller model that [`Self::apply`] has made.
    /// `read` tells those of the whole one by canonical name; it is asked for one
    /// parameter at most.
    pub fn weight(&self, parameter: &Parameter, spec: &ModelSpec, read: impl FnOnce(&str) -> Result<Vec<f32>>) -> Result<Vec<f32>> {
        let there = self.there(parameter, spec);
        let axes = spec.axes(&there);
        let numbers = |name: &str| {
            let kept: Vec<Kept> = axes.concat().into_iter().map(|axis| self.of(axis, spec)).collect();
            Ok::<_, crate::error::Error>(gather(&read(name)?, &kept))
        };
        // What a norm divides by is a mean over fewer, which its weight makes good.
        let Some(norm) = spec.norm_of(&there).filter(|_| !there.name.ends_with(".bias")) else { return numbers(&there.name) };
        let normed = axes.last().expect("a norm runs over something");
        if !normed.iter().any(|axis| self.cuts(*axis)) {
            return numbers(&there.name);
        }
        let factor = self.share(normed, spec).sqrt().recip() as f32;
        Ok(match norm.weight {
            NormWeight::None => vec![factor; parameter.shape.iter().product()],
            NormWeight::Plain => numbers(&there.name)?.into_iter().map(|w| w * factor).collect(),
            NormWeight::OnePlus => numbers(&there.name)?.into_iter().map(|w| (1.0 + w) * factor - 1.0).collect(),
        })
    }

    /// The parameter as the whole model has it, but for its shape.
    pub fn there(&self, parameter: &Parameter, spec: &ModelSpec) -> Parameter {
        match parameter.part {
            Part::Start | Part::End => parameter.clone(),
            Part::Block(block) => {
                let layer = self.block_of(block);
                Parameter { name: spec.block_name(layer, parameter.role()), part: Part::Block(layer), ..parameter.clone() }
            }
        }
    }
}

/// Keeps some query and key-value heads of an attention.
fn keep_heads(attention: &mut Attention, (queries, keys): (Vec<usize>, Vec<usize>)) -> std::result::Result<(), SpecError> {
    let shared_by = attention.n_heads / attention.n_kv_heads;
    let on = |key: &usize| queries.iter().filter(|&&query| query / shared_by == *key).count();
    let counts: Vec<usize> = keys.iter().map(on).collect();
    if counts.iter().any(|count| *count == 0 || *count != counts[0]) || counts.iter().sum::<usize>() != queries.len() {
        return Err(SpecError::UnevenHeads(counts));
    }
    (attention.n_heads, attention.n_kv_heads) = (queries.len(), keys.len());
    if !attention.alibi.is_empty() {
        attention.alibi = queries.iter().map(|&head| attention.alibi[head]).collect();
    }
    Ok(())
}

/// Channels of the residual stream can go where norms alone know how many there are.
fn check_hidden(spec: &ModelSpec) -> std::result::Result<(), SpecError> {
    if matches!(spec.embedding.positions, Positions::Sinusoidal { .. }) {
        return Err(SpecError::Rule("channels of the residual stream carry this model's positions by their number: none can go"));
    }
    // What a layer norm or a gate writes has no mean that is kept when channels go.
    let sub_layers = || spec.blocks.iter().flat_map(|block| &block.sub_layers);
    let written = sub_layers().flat_map(|sub_layer| [&sub_layer.output_norm, &sub_layer.sum_norm]);
    let writers: Vec<&Norm> = written.chain([&spec.embedding.norm]).flatten().collect();
    let is_layer = |norm: &Norm| norm.kind == NormKind::Layer;
    let is_gated = |sub_layer: &SubLayer| matches!(&sub_layer.op, Op::FeedForward(ffn) if ffn.gate == Gate::Receptance);
    let gated = sub_layers().any(is_gated) && spec.final_norm.as_ref().is_some_and(is_layer);
    if gated || writers.into_iter().any(is_layer) {
        return Err(SpecError::Rule(
            "layer norms and gates write this model's residual stream, centred on all of its channels: none can go",
        ));
    }
    Ok(())
}

impl Norm {
    /// For a share of what it ran over, the rest of which was nothing: the mean square
    /// is greater by its inverse, so ε is too, and there are weights to make it good.
    fn narrow(&mut self, share: f64) {
        if share == 1.0 {
            return;
        }
        self.epsilon /= share;
        if self.weight == NormWeight::None {
            self.weight = NormWeight::Plain;
        }
    }
}

impl ModelSpec {
    /// The axes that units can be taken out of.
    pub fn cuttable(&self) -> Vec<Axis> {
        // Heads of queries can go by themselves where several share one of keys and values; the
        // width of a head never does.
        const UNITS: [Inner; 4] = [Inner::KvHeads, Inner::QueryHeads, Inner::State, Inner::FeedForward];
        let inner = |(i, block): (usize, &Block)| {
            let declared: BTreeSet<Inner> = self.declared(Part::Block(i)).iter().flat_map(|parameter| parameter.inner()).collect();
            let grouped = block.attention().is_some_and(|attention| attention.n_heads > attention.n_kv_heads);
            let units = UNITS.into_iter().filter(move |unit| declared.contains(unit) && (grouped || *unit != Inner::QueryHeads));
            units.map(move |unit| Axis::Block(i, unit)).collect::<Vec<_>>()
        };
        [Axis::Hidden].into_iter().chain(self.blocks.iter().enumerate().flat_map(inner)).collect()
    }

    /// What goes with a unit of an axis, itself included: the query heads of a key-value
    /// head.
    pub fn coupled(&self, axis: Axis, unit: usize) -> Vec<(Axis, Vec<usize>)> {
        let alone = (axis, vec![unit]);
        match axis {
            Axis::Block(block, Inner::KvHeads) => {
                let queries = Axis::Block(block, Inner::QueryHeads);
                let on_each = queries.size(self) / axis.size(self);
                vec![alone, (queries, (unit * on_each..(unit + 1) * on_each).collect())]
            }
            _ => vec![alone],
        }
    }
}
