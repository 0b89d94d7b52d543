//! What heads and channels are worth, by the weights that belong to them and what is
//! known of their inputs.

use super::gradients::Gradients;
use crate::compress::calibrate::InputStatistics;
use crate::compress::solve::cholesky::inverse_factor;
use crate::compress::tensors::to_vec64;
use crate::error::Result;
use crate::forward::Inner;
use crate::model::{Axis, ModelSpec, Parameter, ParameterKind, Selection};
use crate::recipe::{Aggregate, Normalise, Saliency};
use std::collections::BTreeMap;
use tch::{Kind, Tensor};

/// Scores by axis, a unit each.
pub type Scores = BTreeMap<Axis, Vec<f64>>;

/// How units are judged.
#[derive(Clone, Copy)]
pub struct Judge<'a> {
    /// By what.
    pub saliency: Saliency,
    /// Of each weight, where there are any.
    pub gradients: Option<&'a Gradients>,
    /// Added to Hessians that are inverted, relative to the mean of the diagonal.
    pub damp_percent: f64,
}

/// Sums over the weights of each unit of an axis.
struct Tally {
    sums: Vec<f64>,
    squares: Vec<f64>,
    greatest: Vec<f64>,
    /// Weights of a unit.
    counts: Vec<f64>,
}

/// Tallies of all axes that are cut.
pub struct Tallies<'a> {
    spec: &'a ModelSpec,
    of: BTreeMap<Axis, Tally>,
}

/// Dimensions of a matrix whose units its numbers speak of.
const BOTH: [usize; 2] = [0, 1];
/// The columns, which read the units.
const READERS: [usize; 1] = [1];

impl Judge<'_> {
    /// Adds what matrices of one input, or one by itself, say of the units that they
    /// belong to. `input` is known of linear layers.
    pub fn look(&self, matrices: &[(Parameter, Tensor)], input: Option<&InputStatistics>, tallies: &mut Tallies) -> Result<()> {
        match (self.saliency, input) {
            (Saliency::Magnitude, _) => matrices.iter().for_each(|(p, weight)| tallies.add(p, &weight.abs(), &BOTH)),
            (Saliency::Taylor | Saliency::TaylorSecond, _) => {
                let gradients = self.gradients.expect("they were taken");
                for (p, weight) in matrices {
                    if let Some(salience) = gradients.salience(&p.name, weight) {
                        tallies.add(p, &salience, &BOTH);
                    }
                }
            }
            (Saliency::Wanda, Some(input)) => {
                let norms = least_of_others(&input.hessian.diagonal(0, 0, 1).sqrt()) * input.power;
                matrices.iter().for_each(|(p, weight)| tallies.add(p, &(weight.abs() * &norms), &READERS));
            }
            // All read the same: it counts once.
            (Saliency::Activation, Some(input)) => {
                matrices.iter().take(1).for_each(|(p, _)| tallies.add(p, &input.mean_magnitude.unsqueeze(0), &READERS));
            }
            (Saliency::OptimalBrain, Some(input)) => self.removal(matrices, input, tallies)?,
            (Saliency::Wanda | Saliency::Activation | Saliency::OptimalBrain, None) => (),
        }
        Ok(())
    }

    /// Errors of removing each unit that linear layers of one input read.
    fn removal(&self, matrices: &[(Parameter, Tensor)], input: &InputStatistics, tallies: &mut Tallies) -> Result<()> {
        let Some((parameter, _)) = matrices.first() else { return Ok(()) };
        let read = tallies.spec.axes(parameter).swap_remove(1);
        let cut: Vec<Axis> = tallies.met(&read);
        if cut.is_empty() {
            return Ok(());
        }
        let hessian = input.hessian.to_kind(Kind::Double) * (input.power * input.power);
        // Inputs that are always zero count as the least of the others, so that their weights tell.
        hessian.diagonal(0, 0, 1).copy_(&least_of_others(&hessian.diag(0)));
        let upper = inverse_factor(hessian, self.damp_percent)?.upper;
        let weights: Vec<Tensor> = matrices.iter().map(|(_, weight)| weight.to_kind(Kind::Double)).collect();
        for axis in cut {
            let places: Vec<Vec<i64>> = (0..axis.size(tallies.spec)).map(|unit| tallies.columns(axis, unit, &read)).collect();
            let errors = match places.iter().all(|columns| columns.len() == 1) {
                true => of_columns(&weights, &upper, &places),
                false => of_units(&weights, &upper, &places),
            };
            tallies.of.get_mut(&axis).expect("it is one of them").add(&errors, &errors, &errors, 1.0);
        }
        Ok(())
    }
}

/// Numbers that are not negative, zeros replaced by the least of the others; 1 where all are zero.
fn least_of_others(numbers: &Tensor) -> Tensor {
    let zero = numbers.eq(0.0);
    let others = numbers.masked_select(&zero.logical_not());
    let least = if others.numel() == 0 { 1.0 } else { others.min().double_value(&[]) };
    numbers.masked_fill(&zero, least)
}

/// Σ w² / [H⁻¹] of single columns, all at once.
fn of_columns(weights: &[Tensor], upper: &Tensor, places: &[Vec<i64>]) -> Vec<f64> {
    let squares = |m: &Tensor| m.square().sum_dim_intlist(0, false, Kind::Double);
    let sum: Tensor = weights.iter().map(squares).sum();
    let errors = to_vec64(&(sum / squares(upper)));
    places.iter().map(|columns| errors[columns[0] as usize]).collect()
}

/// tr(W [H⁻¹]⁻¹ Wᵀ) of each unit's columns.
fn of_units(weights: &[Tensor], upper: &Tensor, places: &[Vec<i64>]) -> Vec<f64> {
    let inverse = upper.tr().matmul(upper);
    let of_unit = |columns: &Vec<i64>| {
        let columns = Tensor::from_slice(columns).to_device(upper.device());
        let among = inverse.index_select(0, &columns).index_select(1, &columns).inverse();
        let error = |weight: &Tensor| {
            let of_unit = weight.index_select(1, &columns);
            (of_unit.matmul(&among) * of_unit).sum(Kind::Double)
        };
        weights.iter().map(error).sum::<Tensor>().double_value(&[])
    };
    places.iter().map(of_unit).collect()
}

impl Tally {
    fn new(units: usize) -> Self {
        let zeros = || vec![0.0; units];
        Self { sums: zeros(), squares: zeros(), greatest: zeros(), counts: zeros() }
    }

    fn add(&mut self, sums: &[f64], squares: &[f64], greatest: &[f64], count: f64) {
        let join = |all: &mut [f64], more: &[f64]| all.iter_mut().zip(more).for_each(|(all, more)| *all += more);
        join(&mut self.sums, sums);
        join(&mut self.squares, squares);
        self.greatest.iter_mut().zip(greatest).for_each(|(all, more)| *all = all.max(*more));
        self.counts.iter_mut().for_each(|all| *all += count);
    }

    fn scores(&self, by: Aggregate) -> Vec<f64> {
        let of = |unit: usize| match by {
            Aggregate::Sum => self.sums[unit],
            Aggregate::Mean => self.sums[unit] / self.counts[unit].max(1.0),
            Aggregate::L2 => self.squares[unit].sqrt(),
            Aggregate::Max => self.greatest[unit],
        };
        (0..self.sums.len()).map(of).collect()
    }
}

impl<'a> Tallies<'a> {
    /// Nothing yet of these axes.
    pub fn new(spec: &'a ModelSpec, axes: &[Axis]) -> Self {
        Self { spec, of: axes.iter().map(|&axis| (axis, Tally::new(axis.size(spec)))).collect() }
    }

    /// Whether a parameter belongs to any unit.
    pub fn has(&self, parameter: &Parameter) -> bool {
        self.spec.axes(parameter).iter().any(|dimension| !self.met(dimension).is_empty())
    }

    /// The axes whose units lie along a dimension that runs over others.
    fn met(&self, dimension: &[Axis]) -> Vec<Axis> {
        let meets = |axis: &Axis| self.spec.coupled(*axis, 0).iter().any(|(with, _)| dimension.contains(with));
        self.of.keys().copied().filter(meets).collect()
    }

    /// The places of a unit along a dimension.
    fn columns(&self, axis: Axis, unit: usize, dimension: &[Axis]) -> Vec<i64> {
        let mut alone = Selection::whole(self.spec);
        alone.keep(axis, &[unit], self.spec);
        alone.along(dimension, self.spec).into_iter().map(|place| place as i64).collect()
    }

    /// Adds numbers of a matrix, none below zero, to the units along some dimensions; one
    /// row stands for all where there is one.
    fn add(&mut self, parameter: &Parameter, numbers: &Tensor, dimensions: &[usize]) {
        if parameter.kind == ParameterKind::Vector {
            return;
        }
        let axes = self.spec.axes(parameter);
        for &dimension in dimensions {
            let met = self.met(&axes[dimension]);
            if met.is_empty() {
                continue;
            }
            let other = [1 - dimension as i64];
            let lines = numbers.size()[other[0] as usize] as f64;
            let sums = to_vec64(&numbers.sum_dim_intlist(&other[..], false, Kind::Double));
            let squares = to_vec64(&numbers.square().sum_dim_intlist(&other[..], false, Kind::Double));
            let greatest = to_vec64(&numbers.amax(&other[..], false));
            for axis in met {
                let places: Vec<Vec<i64>> = (0..axis.size(self.spec)).map(|unit| self.columns(axis, unit, &axes[dimension])).collect();
                let total = |of: &[f64]| places.iter().map(|p| p.iter().map(|&i| of[i as usize]).sum::<f64>()).collect::<Vec<_>>();
                let most = places.iter().map(|p| p.iter().map(|&i| greatest[i as usize]).fold(0.0, f64::max)).collect::<Vec<_>>();
                let count = lines * places.first().map_or(0, Vec::len) as f64;
                self.of.get_mut(&axis).expect("it is one of them").add(&total(&sums), &total(&squares), &most, count);
            }
        }
    }

    /// One number a unit.
    pub fn scores(&self, by: Aggregate) -> Scores {
        self.of.iter().map(|(&axis, tally)| (axis, tally.scores(by))).collect()
    }
}

/// Scores that may be compared from layer to layer, of units that cost what they do.
pub fn comparable(scores: Scores, by: Normalise, spec: &ModelSpec) -> Scores {
    let of = |(axis, scores): (Axis, Vec<f64>)| {
        let by = match by {
            Normalise::None => unit_cost(axis, spec),
            Normalise::Mean => scores.iter().sum::<f64>() / scores.len() as f64,
            Normalise::Max => scores.iter().copied().fold(0.0, f64::max),
        };
        // Where nothing is worth anything, all is worth the same.
        let by = if by > 0.0 { by } else { 1.0 };
        (axis, scores.into_iter().map(|score| score / by).collect())
    };
    scores.into_iter().map(of).collect()
}

/// Parameters that go with a unit.
fn unit_cost(axis: Axis, spec: &ModelSpec) -> f64 {
    let units = axis.size(spec);
    // Query heads go one of each key-value head.
    let together = match axis {
        Axis::Block(block, Inner::QueryHeads) => Axis::Block(block, Inner::KvHeads).size(spec),
        _ => 1,
    };
    let mut without = Selection::whole(spec);
    without.keep(axis, &(0..units).filter(|unit| unit % (units / together) != 0).collect::<Vec<_>>(), spec);
    let left = without.apply(spec).map_or(0, |smaller| smaller.parameter_count());
    (spec.parameter_count() - left) as f64 / together as f64
}
