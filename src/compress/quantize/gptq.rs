//! GPTQ: columns are rounded one by one, and what follows makes good the error,
//! by the second-order statistics of the layer's input.
//!
//! Frantar, Ashkboos, Hoefler and Alistarh, "GPTQ: Accurate Post-Training
//! Quantization for Generative Pre-trained Transformers" (2022), algorithm 1. Its program sets the
//! columns of inputs that calibration never met to zero; here they are rounded to nearest, for
//! another text may meet them.

use super::{LayerMethod, LayerResult, TargetLayer, lost};
use crate::compress::calibrate::InputStatistics;
use crate::compress::solve::columns::Columns;
use crate::compress::solve::optimal_brain::{BLOCK, Number, compensate, numbers};
use crate::compress::tensors::to_array;
use crate::error::Result;
use crate::quant::quant_params::QuantParams;
use crate::quant::rounding::Rounding;
use crate::quant::{Permutation, QuantizedTensor};
use crate::recipe::{ActOrder, GptqOptions, Precision};
use rayon::prelude::*;
use std::ops::Range;
use std::sync::Arc;
use tch::Tensor;

/// Of the error that counts the damping, what must be left without it for the difference to be
/// more than rounding.
const LEAST: f64 = 1e-3;

/// The method.
pub struct Gptq {
    /// How it solves.
    pub options: GptqOptions,
}

impl LayerMethod for Gptq {
    fn compress(&self, layers: &[TargetLayer], input: InputStatistics) -> Result<Vec<LayerResult>> {
        let Some(first) = layers.first() else { return Ok(Vec::new()) };
        let permutation = format!("{}.perm", first.name);
        match self.options.precision {
            Precision::F32 => gptq::<f32>(layers, input.hessian, self.options, &permutation),
            Precision::F64 => gptq::<f64>(layers, input.hessian, self.options, &permutation),
        }
    }
}

/// Quantises all layers of one input with one factorisation, in the precision of
/// `T`: `hessian` `[in, in]`, which is used up, and weights are converted to it. Permutations
/// are named `permutation`. Layers have groups of one size.
pub fn gptq<T: Number>(layers: &[TargetLayer], hessian: Tensor, options: GptqOptions, permutation: &str) -> Result<Vec<LayerResult>> {
    let _no_grad = tch::no_grad_guard();
    let width = hessian.size()[0] as usize;
    let group = layers.first().map_or(width, |layer| layer.scheme.group_columns(width));
    assert!(layers.iter().all(|layer| layer.scheme.group_columns(width) == group), "groups of one size");
    let converted = hessian.to_kind(T::KIND);
    // Where it is another one; otherwise it is used up.
    drop(hessian);
    let columns = Columns::of::<T>(converted, options.act_order, group, options.damp_percent)?;
    // A group that is the whole row is what it is in any order.
    let options = GptqOptions { static_groups: options.static_groups || group == width, ..options };
    // Only where groups follow the order must the file hold columns by it.
    let stored = (options.act_order == ActOrder::On && !options.static_groups).then(|| {
        let order = columns.order.iter().map(|&i| i as u32).collect();
        Arc::new(Permutation { name: permutation.to_owned(), order })
    });
    let plan = Plan::new(&columns.order, group, options, stored.is_some());
    let solve = |layer: &TargetLayer| {
        let weight = layer.weight.to_kind(T::KIND);
        let rounding = Rounding::new(layer.scheme, options.grid, || to_array(&weight));
        let (mut tensor, damped_error) = round_columns::<T>(weight, &columns, &rounding, &plan);
        tensor.permutation = stored.clone();
        let squared_error = damped_error - columns.of_damping(&lost(&layer.weight, &tensor));
        let mut remarks: Vec<String> = columns.factor.damping.raised_from(options.damp_percent).into_iter().collect();
        if squared_error < LEAST * damped_error {
            remarks.push("its error is too small beside the damping's to be told exactly".into());
        }
        LayerResult { tensor, squared_error: squared_error.max(0.0), remarks }
    };
    Ok(layers.iter().map(solve).collect())
}

/// What becomes of the columns in the order they are solved in.
struct Plan {
    /// True if scales and zero points are those of the weight before anything is rounded (static groups).
    fixed: bool,
    /// Group of each.
    group: Vec<usize>,
    /// Where each is stored.
    place: Vec<usize>,
    /// Stretches whose quantisation parameters are found at their beginning, on what they have become; or
    /// of any width where quantisation parameters are fixed.
    runs: Vec<Range<usize>>,
}

impl Plan {
    fn new(order: &[usize], group: usize, options: GptqOptions, permuted: bool) -> Self {
        let place: Vec<usize> = if permuted { (0..order.len()).collect() } else { order.to_vec() };
        let group: Vec<usize> = place.iter().map(|place| place / group).collect();
        let mut runs = Vec::new();
        if options.static_groups {
            runs.extend((0..order.len()).step_by(BLOCK).map(|start| start..(start + BLOCK).min(order.len())));
        } else {
            let mut start = 0;
            for run in group.chunk_by(|a, b| a == b) {
                runs.push(start..start + run.len());
                start += run.len();
            }
        }
        Self { fixed: options.static_groups, group, place, runs }
    }
}

/// One row on its way.
struct Row {
    params: QuantParams,
    /// By group.
    of_groups: Vec<QuantParams>,
    /// In the order they are stored in.
    codes: Vec<i8>,
}

/// Rounds the columns of a weight `[out, in]` in their order: what becomes of them, and the
/// squared error of outputs by the damped Hessian.
fn round_columns<T: Number>(mut weight: Tensor, solved: &Columns, rounding: &Rounding, plan: &Plan) -> (QuantizedTensor, f64) {
    let (rows, columns) = weight.size2().expect("[out, in]");
    let (rows, columns) = (rows as usize, columns as usize);
    let row = || Row {
        params: QuantParams::BLANK,
        of_groups: vec![QuantParams::BLANK; rounding.scheme.groups(columns)],
        codes: vec![0; columns],
    };
    let mut states: Vec<Row> = (0..rows).map(|_| row()).collect();
    if plan.fixed {
        let values = numbers::<T>(&weight);
        states.par_iter_mut().zip(values.par_chunks_exact(columns)).for_each(|(row, values)| {
            let groups = values.chunks(rounding.scheme.group_columns(columns));
            row.of_groups = groups.map(|values| rounding.quant_params(values, None)).collect();
        });
    }
    // Where a run begins, and how long it is.
    let mut begins = vec![None; columns];
    plan.runs.iter().for_each(|run| begins[run.start] = Some(run.len()));
    // A group that is wider than a block is measured on the whole weight.
    let begin = |weight: &Tensor, block: Range<usize>, states: &mut [Row]| {
        if let Some(width) = begins[block.start].filter(|&width| width > BLOCK) {
            let values = numbers::<T>(&weight.narrow(1, block.start as i64, width as i64));
            states.par_iter_mut().zip(values.par_chunks_exact(width)).for_each(|(row, values)| {
                row.start_group(plan.group[block.start], rounding.quant_params(values, None));
            });
        }
    };
    weight = weight.index_select(1, &solved.index);
    let error = compensate(weight, &solved.factor.upper, blocks(&plan.runs), &mut states, begin, |row: &mut Row, column, values: &[T]| {
        if plan.fixed {
            row.params = row.of_groups[plan.group[column]];
        } else if let Some(width) = begins[column].filter(|&width| width <= BLOCK) {
            row.start_group(plan.group[column], rounding.quant_params(&values[..width], None));
        }
        let code = rounding.encode(row.params, values[0]);
        row.codes[plan.place[column]] = code;
        rounding.decode(row.params, code)
    });
    let mut tensor = rounding.blank(rows, columns);
    for (i, row) in states.into_iter().enumerate() {
        row.of_groups.into_iter().enumerate().for_each(|(g, params)| tensor.set_quant_params(i, g, params));
        tensor.codes.row_mut(i).iter_mut().zip(row.codes).for_each(|(to, code)| *to = code);
    }
    (tensor, error)
}

impl Row {
    fn start_group(&mut self, group: usize, params: QuantParams) {
        self.params = params;
        self.of_groups[group] = params;
    }
}

/// Blocks of columns that no narrow run goes beyond; a wide one begins a block.
fn blocks(runs: &[Range<usize>]) -> impl Iterator<Item = Range<usize>> {
    let mut blocks: Vec<Range<usize>> = Vec::new();
    for run in runs {
        match blocks.last_mut() {
            Some(block) if run.end - block.start <= BLOCK => block.end = run.end,
            _ => blocks.extend(run.clone().step_by(BLOCK).map(|start| start..(start + BLOCK).min(run.end))),
        }
    }
    blocks.into_iter()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_never_split_a_group_that_fits() {
        let runs = |columns: usize, group| (0..columns).step_by(group).map(|i| i..(i + group).min(columns)).collect::<Vec<_>>();
        let list = |columns, group| blocks(&runs(columns, group)).map(|b| (b.start, b.end)).collect::<Vec<_>>();
        assert_eq!(list(172, 64), [(0, 128), (128, 172)]);
        assert_eq!(list(256, 96), [(0, 96), (96, 192), (192, 256)]);
        assert_eq!(list(500, 160), [(0, 128), (128, 160), (160, 288), (288, 320), (320, 448), (448, 500)]);
        assert_eq!(list(300, 300), [(0, 128), (128, 256), (256, 300)]);
        assert_eq!(list(44, 44), [(0, 44)]);
        assert_eq!(list(128, 64), [(0, 128)]);
    }

    /// Damping is raised where the Hessian is indefinite, and said.
    #[test]
    fn an_indefinite_hessian_raises_the_damping() {
        let hessian = Tensor::from_slice2(&[[1.0f32, 3.0], [3.0, 1.0]]);
        let layer = TargetLayer {
            name: "w".into(),
            scheme: crate::quant::Scheme::integers(crate::quant::Code::Int4, 0, false),
            weight: Tensor::from_slice2(&[[0.5f32, -0.25]]),
        };
        let options = GptqOptions { act_order: ActOrder::Off, ..GptqOptions::default() };
        let outcome = gptq::<f32>(&[layer], hessian, options, "p").unwrap().remove(0);
        assert!(outcome.remarks[0].contains("damping raised from 0.01 to 10"), "{:?}", outcome.remarks);
    }
}
