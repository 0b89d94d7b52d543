//! Blocks of a stage whose method rounds each weight by itself, as plain rounding to nearest
//! does. No statistics are gathered: a block is run once, on a few tokens, each layer is rounded
//! when its input arrives, and its error is measured on that input.

use super::StageResult;
use super::journal::PartResult;
use super::quantize::Work;
use super::walk::{Sample, Walk};
use crate::compress::MallocTuning;
use crate::compress::calibrate::HiddenStates;
use crate::compress::quantize;
use crate::compress::solve::relative_error::relative_error_on;
use crate::compress::{Parameter, Parameters, from_array};
use crate::error::{Error, Result};
use crate::export::kept;
use crate::forward::trace::InputGroup;
use crate::model::Part;
use crate::quant::{Layout, Scheme, Weight};
use crate::recipe::CalibrationUse;
use crate::report::LayerReport;
use crate::spec::LayerName;
use ndarray::ArrayView2;
use std::collections::BTreeMap;
use tch::{Kind, Tensor};

/// The first tokens of the calibration, as many as errors are measured on.
pub(super) fn sample(all: Sample) -> Vec<Vec<u32>> {
    let (count, length) = CalibrationUse::Sample.shape(all.sequences.len(), all.sequences.first().map_or(0, Vec::len));
    all.sequences[..count].iter().map(|sequence| sequence[..length].to_vec()).collect()
}

/// Runs a walk on them.
pub(super) fn run(work: &Work, walk: &Walk) -> Result<StageResult> {
    // Every layer asks for the memory that the one before it has freed.
    let _tuning = MallocTuning::begin();
    let sequences = sample(walk.sample);
    Walk { sample: Sample { sequences: &sequences, ..walk.sample }, ..*walk }.run(work)
}

/// A layer that was rounded.
struct Rounded {
    packed: Weight,
    report: LayerReport,
    /// The rounded weight, in the number format of the forward.
    parameter: Parameter,
}

impl Work<'_> {
    /// One block whose layers are all its own; the hidden states are moved past it.
    pub(super) fn round(&self, index: usize, groups: &[InputGroup], hidden: &mut HiddenStates) -> Result<PartResult> {
        let spec = self.store.spec();
        // Layers that are rounded come in once they are.
        let others = spec.roles(index).into_iter().filter_map(|(role, _, kind)| {
            let name = spec.block_name(index, &role);
            (!self.plan.schemes.contains_key(&name)).then(|| Ok((role, kept(self.store.weight(&name)?, kind))))
        });
        let parameters = Parameters::new(others.collect::<Result<Vec<_>>>()?, self.compute);
        let inputs: Vec<LayerName> = groups.iter().map(|group| group.input).collect();
        let is_read = index + 1 < spec.blocks.len();
        let (mut weights, mut layers) = (BTreeMap::new(), Vec::new());
        let mut used: Vec<LayerName> = Vec::new();
        hidden.advance_abreast(&spec.blocks[index], &parameters, &inputs, is_read, self.progress, &mut |input, x, tokens| {
            used.drain(..).for_each(|name| parameters.drop(&name.to_string()));
            let group = groups.iter().find(|group| group.input == input).expect("it was asked for");
            let names: Vec<String> = group.linears.iter().map(|linear| spec.block_name(index, linear.name)).collect();
            let sample = joined(x, tokens);
            if sample.isfinite().all().int64_value(&[]) == 0 {
                return Err(Error::activations_overflow(&names));
            }
            for (linear, name) in group.linears.iter().zip(names) {
                let Some(&scheme) = self.plan.schemes.get(&name) else { continue };
                let Rounded { packed, report, parameter } = self.rounded(&name, scheme, &sample)?;
                layers.push(report);
                weights.insert(name, packed);
                parameters.put(&linear.name.to_string(), parameter);
                used.push(linear.name);
            }
            self.progress.advance(1);
            Ok(())
        })?;
        let weight = |parameter: crate::model::Parameter| {
            let weight = weights.remove(&parameter.name).map_or_else(|| self.store.weight(&parameter.name), Ok)?;
            Ok((parameter.name, kept(weight, parameter.kind)))
        };
        Ok(PartResult { weights: spec.parameters_of(Part::Block(index)).map(weight).collect::<Result<_>>()?, layers })
    }

    /// Rounds a layer, and measures it on inputs `[tokens, in]`.
    fn rounded(&self, name: &str, scheme: Scheme, sample: &Tensor) -> Result<Rounded> {
        let weight = self.store.weight(name)?;
        let (shape, numbers) = (weight.shape(), weight.to_f32());
        let matrix = ArrayView2::from_shape((shape[0], shape[1]), &numbers).expect("the sizes agree");
        let tensor = quantize::round(self.plan.method, matrix, scheme);
        let compressed = from_array(&tensor.dequantize()).to_device(self.compute.device);
        let original = Tensor::from_slice(&numbers).view([shape[0] as i64, shape[1] as i64]).to_device(self.compute.device);
        let report = LayerReport {
            relative_error: relative_error_on(sample, &original, &compressed),
            bits: tensor.bits_per_weight(),
            unseen_inputs: None,
            name: name.to_owned(),
            remarks: Vec::new(),
        };
        let packed = Weight::pack(name, &tensor, Layout::Tiles);
        Ok(Rounded { packed, report, parameter: Parameter::of_tensor(&compressed, self.compute) })
    }
}

/// Inputs of all batches as `[tokens, in]` in f32, each token by the root of its weight, so that
/// squares of outputs are weighted by it.
fn joined(x: &[Tensor], tokens: &[Option<Tensor>]) -> Tensor {
    let of_batch = |(x, tokens): (&Tensor, &Option<Tensor>)| {
        let x = x.flatten(0, 1).to_kind(Kind::Float);
        tokens.as_ref().map_or_else(|| x.shallow_clone(), |tokens| &x * tokens.sqrt().unsqueeze(1))
    };
    Tensor::cat(&x.iter().zip(tokens).map(of_batch).collect::<Vec<_>>(), 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compress::Compute;
    use crate::compress::calibrate::Statistics;
    use crate::compress::libtorch::EmbeddingLayer;
    use crate::compress::quantize::{TargetLayer, compress};
    use crate::compress::solve::relative_error::relative_error;
    use crate::model::DenseModel;
    use crate::progress::Silent;
    use crate::quant::WeightStore;
    use crate::recipe::{RawRecipe, Stage, TokenImportance};
    use std::path::Path;

    /// Codes are those of the method with statistics, errors those of the Hessian of the same
    /// tokens, equal ones and weighted ones, and the hidden states are where the rounded block moves them.
    #[test]
    fn rounding_by_weights_alone_is_the_method_and_its_errors() {
        let stages = [
            "[stage.rtn]\nbits = 4\ngroup_size = 32",
            "[stage.rtn]\nbits = 3\ngrid = 'least_error'",
            "[stage.ternary]\nsolver = 'absmean'",
        ];
        for (stage, importance) in stages.into_iter().zip([TokenImportance::Equal, TokenImportance::Rarity, TokenImportance::Equal]) {
            let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/fixtures/llama-gqa-tied");
            let model = DenseModel::open_hugging_face(&dir).unwrap();
            let (store, spec): (&dyn WeightStore, _) = (&model, model.spec());
            let recipe = RawRecipe::parse(&format!("[[stage]]\n{stage}\n"), Path::new("r.toml"), &[]).unwrap().resolve(spec).unwrap();
            let Stage::Quantize(plan) = &recipe.stages[0] else { unreachable!("it quantises") };
            assert!(!plan.reads_inputs() && recipe.stages[0].calibration_use() == CalibrationUse::Sample, "{stage}");
            let sequences: Vec<Vec<u32>> = (0..20).map(|s| (0..16).map(|i| (7 * i + 11 * s) % 90).collect()).collect();
            let sequences = sample(Sample { sequences: &sequences, importance });
            assert_eq!((sequences.len(), sequences[0].len()), (8, 16));
            let embedding = EmbeddingLayer::load(spec, |name| store.weight(name), Compute::CPU).unwrap();
            let hidden = HiddenStates::start(&sequences, &embedding, importance);
            let work = Work { store, plan, compute: Compute::CPU, progress: &Silent };
            let mut moved = hidden.again();
            let groups = spec.blocks[0].input_groups(spec.hidden_size);
            let result = work.round(0, &groups, &mut moved).unwrap();
            let find = |name: &str| result.weights.iter().find(|(other, _)| other == name).unwrap().1.clone();
            let rounded = Parameters::of_block(spec, 0, |name| Ok(find(name)), Compute::CPU).unwrap();
            let original = Parameters::block(store, 0, Compute::CPU).unwrap();
            let mut errors = result.layers.iter();
            for group in &groups {
                let mut statistics: Statistics = hidden.observe(&spec.blocks[0], &rounded, &[group.input], &Silent);
                let input = statistics.take(group.input);
                for linear in &group.linears {
                    let (weight, name) = (original.get(&linear.name.to_string()), spec.block_name(0, linear.name));
                    let expected = relative_error(&weight, &rounded.get(&linear.name.to_string()), &input.hessian);
                    let found = errors.next().unwrap();
                    assert_eq!(found.name, name);
                    assert!((expected / found.relative_error - 1.0).abs() < 1e-4, "{name}: {expected}, {}", found.relative_error);
                    let layer = TargetLayer { scheme: plan.schemes[&name], weight: weight.copy(), name: name.clone() };
                    let (outcomes, _) = compress(plan.method, &[layer], input.copy()).unwrap();
                    let Weight::Packed(packed) = find(&name) else { panic!("{name} is quantised") };
                    assert!(packed.unpack() == outcomes[0].tensor, "{name}: other codes");
                }
            }
            let mut advanced = hidden.again();
            advanced.advance(&spec.blocks[0], &rounded, &Silent);
            assert!(advanced.batches().iter().zip(moved.batches()).all(|(a, b)| a.equal(b)), "{stage}: another place");
        }
    }
}
