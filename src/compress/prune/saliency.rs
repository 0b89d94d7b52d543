//! What heads and channels are worth, by the weights that belong to them and what is
//! known of their inputs.

use super::gradients::Gradients;
use crate::compress::calibrate::InputStatistics;
use crate::compress::solve::cholesky::inverse_factor;
use crate::error::Result;
use crate::model::{Axis, ModelSpec, Parameter, ParameterKind};
use crate::recipe::{Aggregate, Cut, Normalise, Saliency};
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

impl Judge<'_> {
    /// Adds what a matrix `weight` says of the units that it belongs to. `input` is known
    /// of linear layers.
    pub fn look(&self, parameter: &Parameter, weight: &Tensor, input: Option<&InputStatistics>, tallies: &mut Tallies) -> Result<()> {
        let judged = match (self.saliency, input) {
            (Saliency::Magnitude, _) => Some((weight.abs(), false)),
            (Saliency::Taylor | Saliency::TaylorSecond, _) => {
                let gradients = self.gradients.expect("they were taken");
                gradients.salience(&parameter.name, weight, self.saliency).map(|salience| (salience, false))
            }
            (Saliency::Wanda, Some(input)) => Some((weight.abs() * input.hessian.diagonal(0, 0, 1).sqrt(), true)),
            // The same of each row, so that it is counted once.
            (Saliency::Activation, Some(input)) => Some((input.mean_magnitude.unsqueeze(0), true)),
            (Saliency::OptimalBrain, Some(input)) => return self.removal(parameter, weight, input, tallies),
            (Saliency::Wanda | Saliency::Activation | Saliency::OptimalBrain, None) => None,
        };
        if let Some((numbers, readers_alone)) = judged {
            tallies.add(parameter, &numbers, readers_alone);
        }
        Ok(())
    }

    /// Errors of removing each unit that a linear layer reads.
    fn removal(&self, parameter: &Parameter, weight: &Tensor, input: &InputStatistics, tallies: &mut Tallies) -> Result<()> {
        let read = tallies.spec.axes(parameter).swap_remove(1);
        let cut: Vec<Axis> = tallies.of.keys().copied().filter(|axis| tallies.meets(*axis, &read)).collect();
        if cut.is_empty() {
            return Ok(());
        }
        let hessian = input.hessian.to_kind(Kind::Double);
        // Inputs that are always zero: nothing is lost with them.
        let dead = hessian.diagonal(0, 0, 1).eq(0.0).to_kind(Kind::Double);
        let upper = inverse_factor(hessian + dead.diag(0), self.damp_percent)?.upper;
        let (inverse, weight) = (upper.tr().matmul(&upper), weight.to_kind(Kind::Double) * dead.logical_not());
        for axis in cut {
            let units = axis.size(tallies.spec);
            let errors = (0..units).map(|unit| {
                let columns = Tensor::from_slice(&tallies.columns(axis, unit, &read));
                let of_unit = weight.index_select(1, &columns);
                let among = inverse.index_select(0, &columns).index_select(1, &columns);
                (of_unit.matmul(&among.inverse()) * of_unit).sum(Kind::Double).double_value(&[])
            });
            let errors: Vec<f64> = errors.collect();
            tallies.of.get_mut(&axis).expect("it is one of them").add(&errors, &errors, &errors, 1.0);
        }
        Ok(())
    }
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

    /// Whether units of an axis lie along a dimension that runs over others.
    fn meets(&self, axis: Axis, dimension: &[Axis]) -> bool {
        self.spec.coupled(axis, 0).iter().any(|(with, _)| dimension.contains(with))
    }

    /// The places of a unit along a dimension.
    fn columns(&self, axis: Axis, unit: usize, dimension: &[Axis]) -> Vec<i64> {
        let coupled: BTreeMap<Axis, Vec<usize>> = self.spec.coupled(axis, unit).into_iter().collect();
        let along = |places: Vec<usize>, axis: &Axis| {
            let of = axis.size(self.spec);
            let stay = coupled.get(axis).cloned().unwrap_or_else(|| (0..of).collect());
            places.iter().flat_map(|place| stay.iter().map(move |index| place * of + index)).collect()
        };
        dimension.iter().fold(vec![0], along).into_iter().map(|place: usize| place as i64).collect()
    }

    /// Adds numbers of a matrix, none below zero, to the units of each dimension, or of
    /// its columns alone; one row stands for all where there is one.
    fn add(&mut self, parameter: &Parameter, numbers: &Tensor, readers_alone: bool) {
        if parameter.kind == ParameterKind::Vector {
            return;
        }
        let axes = self.spec.axes(parameter);
        for (dimension, of) in axes.iter().enumerate().filter(|(dimension, _)| *dimension == 1 || !readers_alone) {
            let other = [1 - dimension as i64];
            let numbers = numbers.to_kind(Kind::Double);
            let lines = numbers.size()[other[0] as usize] as f64;
            let [sums, squares, greatest] = [
                numbers.sum_dim_intlist(&other[..], false, Kind::Double),
                numbers.square().sum_dim_intlist(&other[..], false, Kind::Double),
                numbers.amax(&other[..], false),
            ]
            .map(|of_lines| Vec::<f64>::try_from(of_lines.to_device(tch::Device::Cpu).contiguous()).expect("doubles"));
            for axis in self.of.keys().copied().filter(|axis| self.meets(*axis, of)).collect::<Vec<_>>() {
                let places: Vec<Vec<usize>> =
                    (0..axis.size(self.spec)).map(|unit| self.columns(axis, unit, of).into_iter().map(|c| c as usize).collect()).collect();
                let total = |of: &[f64]| places.iter().map(|p| p.iter().map(|&i| of[i]).sum::<f64>()).collect::<Vec<_>>();
                let most = places.iter().map(|p| p.iter().map(|&i| greatest[i]).fold(0.0, f64::max)).collect::<Vec<_>>();
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
        let by = by.max(f64::MIN_POSITIVE);
        (axis, scores.into_iter().map(|score| score / by).collect())
    };
    scores.into_iter().map(of).collect()
}

/// Parameters that go with a unit.
fn unit_cost(axis: Axis, spec: &ModelSpec) -> f64 {
    let units = axis.size(spec);
    let mut without = crate::model::Selection::whole(spec);
    let step = if Cut::of(axis) == Some(Cut::QueryHeads) { units } else { units - 1 };
    without.keep(axis, &(0..step.max(1)).collect::<Vec<_>>(), spec);
    let left = without.apply(spec).map_or(0, |spec| spec.parameter_count());
    (spec.parameter_count() - left) as f64
}
