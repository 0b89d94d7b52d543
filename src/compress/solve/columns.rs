//! The columns of a layer's input in the order they are solved in, with the factor of the
//! inverse Hessian in that order.

use super::cholesky::{InverseFactor, inverse_factor};
use super::optimal_brain::numbers;
use crate::error::Result;
use crate::quant::grid::Real;
use crate::recipe::ActOrder;
use tch::{Kind, Tensor, kind::Element};

/// What all layers of an input have in common.
pub struct Columns {
    /// Where each lies in the model.
    pub order: Vec<usize>,
    /// The same, `[in]`, where it is computed.
    pub index: Tensor,
    /// In that order.
    pub factor: InverseFactor,
    /// Those that are always zero in calibration, `[in]`, in the model's order.
    dead: Tensor,
}

impl Columns {
    /// From a Hessian `[in, in]`, which is used up; `group` columns each, where the order minds
    /// groups.
    pub fn of<T: Real + Element>(mut hessian: Tensor, by: ActOrder, group: usize, damp_percent: f64) -> Result<Self> {
        // A column that is always zero in calibration has no say: any value will do,
        // and the mean of the others leaves the damping as it is.
        let dead = hessian.diag(0).eq(0.0);
        let live = dead.logical_not().sum(Kind::Int64).int64_value(&[]).max(1);
        let mean = hessian.diag(0).sum(Kind::Double).double_value(&[]) / live as f64;
        let _ = hessian.diagonal(0, 0, 1).masked_fill_(&dead, if mean > 0.0 { mean } else { 1.0 });
        let order = order(by, &numbers::<T>(&hessian.diag(0)), group);
        let index = Tensor::from_slice(&order.iter().map(|&i| i as i64).collect::<Vec<_>>()).to_device(hessian.device());
        // One by one: each is as large as the Hessian.
        hessian = hessian.index_select(0, &index);
        hessian = hessian.index_select(1, &index);
        Ok(Self { order, index, factor: inverse_factor(hessian, damp_percent)?, dead })
    }

    /// A weight `[out, in]` without what meets nothing.
    pub fn live(&self, weight: &Tensor) -> Tensor {
        weight.masked_fill(&self.dead.unsqueeze(0), 0.0)
    }
}

/// The columns in the order they are solved in.
fn order<T: Real>(by: ActOrder, energy: &[T], group: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..energy.len()).collect();
    let falling = |a: T, b: T| b.partial_cmp(&a).unwrap_or(std::cmp::Ordering::Equal);
    match by {
        ActOrder::Off => (),
        ActOrder::On => order.sort_by(|&a, &b| falling(energy[a], energy[b])),
        ActOrder::GroupAware => {
            let mean = |group: &[usize]| {
                let sum = group.iter().fold(T::zero(), |sum, &i| sum + energy[i]);
                sum / T::from_i32(group.len() as i32)
            };
            let mut groups: Vec<Vec<usize>> = order.chunks(group).map(<[usize]>::to_vec).collect();
            groups.sort_by(|a, b| falling(mean(a), mean(b)));
            groups.iter_mut().for_each(|group| group.sort_by(|&a, &b| falling(energy[a], energy[b])));
            order = groups.concat();
        }
    }
    order
}
