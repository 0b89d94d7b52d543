//! The columns of a layer's input in the order they are solved in, with the factor of the
//! inverse Hessian in that order.

use super::cholesky::{Factor, inverse_factor_of_reversed};
use super::optimal_brain::numbers;
use crate::error::Result;
use crate::quant::quant_params::Real;
use crate::recipe::ActOrder;
use tch::{Kind, Tensor, kind::Element};

/// What all layers of an input have in common.
pub struct Columns {
    /// Where each lies in the model.
    pub order: Vec<usize>,
    /// The same, `[in]`, where it is computed.
    pub index: Tensor,
    /// In that order.
    pub factor: Factor,
    /// Columns of inputs that are zero for every token, `[in]`, in the model's order; `None` where
    /// there are none. Their rows and columns of the Hessian are zero, so that they are rounded
    /// plainly: no error is made good by them.
    dead: Option<Tensor>,
    /// Their second moment on the Hessian's diagonal.
    stand_in: f64,
}

impl Columns {
    /// From a Hessian `[in, in]`, which is used up; `group` columns each, where the order minds
    /// groups.
    pub fn of<T: Real + Element>(mut hessian: Tensor, by: ActOrder, group: usize, damp_percent: f64) -> Result<Self> {
        // Any second moment does for a column that meets nothing, and the mean of the others leaves
        // the damping as it is.
        let dead = hessian.diag(0).eq(0.0);
        let width = hessian.size()[0];
        let live = dead.logical_not().sum(Kind::Int64).int64_value(&[]);
        let mean = hessian.diag(0).sum(Kind::Double).double_value(&[]) / live.max(1) as f64;
        let stand_in = if mean > 0.0 { mean } else { 1.0 };
        let _ = hessian.diagonal(0, 0, 1).masked_fill_(&dead, stand_in);
        let order = order(by, &numbers::<T>(&hessian.diag(0)), group);
        let index = Tensor::from_slice(&order.iter().map(|&i| i as i64).collect::<Vec<_>>()).to_device(hessian.device());
        // One by one: each is as large as the Hessian.
        let reversed = index.flip([0]);
        hessian = hessian.index_select(0, &reversed);
        hessian = hessian.index_select(1, &reversed);
        Ok(Self {
            order,
            index,
            factor: inverse_factor_of_reversed(hessian, damp_percent)?,
            dead: (live < width).then_some(dead),
            stand_in,
        })
    }

    /// What of tr(D H Dᵀ) comes from the damping, and from the second moment of columns that meet
    /// nothing: D `[out, in]` is what a weight loses.
    pub fn of_damping(&self, lost: &Tensor) -> f64 {
        let sum_of_squares = |of: &Tensor| {
            let flat = of.flatten(0, -1);
            flat.dot(&flat).double_value(&[])
        };
        let of_dead = self.dead.as_ref().map_or(0.0, |dead| sum_of_squares(&lost.masked_fill(&dead.logical_not().unsqueeze(0), 0.0)));
        self.factor.damping.added * sum_of_squares(lost) + self.stand_in * of_dead
    }
}

/// The columns in the order they are solved in.
fn order<T: Real>(by: ActOrder, moments: &[T], group: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..moments.len()).collect();
    let falling = |a: T, b: T| b.partial_cmp(&a).unwrap_or(std::cmp::Ordering::Equal);
    match by {
        ActOrder::Off => (),
        ActOrder::On => order.sort_by(|&a, &b| falling(moments[a], moments[b])),
        ActOrder::GroupAware => {
            let mean = |group: &[usize]| {
                let sum = group.iter().fold(T::zero(), |sum, &i| sum + moments[i]);
                sum / T::from_i32(group.len() as i32)
            };
            let mut groups: Vec<Vec<usize>> = order.chunks(group).map(<[usize]>::to_vec).collect();
            groups.sort_by(|a, b| falling(mean(a), mean(b)));
            groups.iter_mut().for_each(|group| group.sort_by(|&a, &b| falling(moments[a], moments[b])));
            order = groups.concat();
        }
    }
    order
}
