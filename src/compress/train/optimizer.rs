//! What gradients do to variables.

use super::network::Variable;
use crate::compress::tensors::in_place;
use crate::recipe::{Optimizer as Kind, Training};
use rayon::prelude::*;
use std::collections::BTreeMap;
use tch::Tensor;

/// An optimiser with what it remembers of each variable.
pub struct Optimizer {
    training: Training,
    slots: Vec<Slot>,
}

struct Slot {
    variable: Variable,
    /// Running means, as many as the kind has.
    means: Vec<Tensor>,
}

/// A step of AdamW in one pass over memory, which is what it takes its time for.
struct Adam {
    kept: f32,
    first: f32,
    second: f32,
    rate: f32,
    scale: f32,
    epsilon: f32,
}

impl Adam {
    /// Whether it could: numbers are in f32 on the CPU.
    fn step(&self, variable: &mut Tensor, gradient: &mut Tensor, means: &mut [Tensor]) -> bool {
        const TOGETHER: usize = 1 << 14;
        let [mean, square] = means else { return false };
        // SAFETY: a variable, its gradient and the optimiser's two means have a storage each.
        // Other handles of a variable or of its gradient are in the network and in libtorch's
        // graph, which no thread runs between the backward pass and the next forward.
        let all = unsafe { (in_place(variable), in_place(gradient), in_place(mean), in_place(square)) };
        let (Some(x), Some(g), Some(m), Some(v)) = all else { return false };
        let Self { kept, first, second, rate, scale, epsilon } = *self;
        let chunks = x.par_chunks_mut(TOGETHER).zip(g.par_chunks(TOGETHER));
        let chunks = chunks.zip(m.par_chunks_mut(TOGETHER).zip(v.par_chunks_mut(TOGETHER)));
        chunks.for_each(|((x, g), (m, v))| {
            for (((x, g), m), v) in x.iter_mut().zip(g).zip(m).zip(v) {
                *m += (g - *m) * (1.0 - first);
                *v = *v * second + g * g * (1.0 - second);
                *x = *x * kept - rate * *m / (v.sqrt() * scale + epsilon);
            }
        });
        true
    }
}

/// Names of running means in a saved state.
const MEANS: [&str; 2] = ["mean", "square"];

impl Optimizer {
    /// Has seen nothing yet.
    pub fn new(training: &Training, variables: Vec<Variable>) -> Self {
        let means = match training.optimizer {
            Kind::Adamw => 2,
            Kind::Sgd => 1,
        };
        let slot = |variable: Variable| {
            let means = (0..means).map(|_| variable.tensor.zeros_like().detach()).collect();
            Slot { variable, means }
        };
        Self { training: training.clone(), slots: variables.into_iter().map(slot).collect() }
    }

    /// Its variables.
    pub fn variables(&self) -> impl Iterator<Item = &Variable> {
        self.slots.iter().map(|slot| &slot.variable)
    }

    /// Forgets the gradients.
    pub fn zero_grad(&mut self) {
        for slot in &mut self.slots {
            slot.variable.tensor.zero_grad();
        }
    }

    /// Norm of all gradients together; they are scaled down where it is
    /// more than it may be (Pascanu et al. 2013, section 3.2).
    pub fn clip(&mut self) -> f64 {
        let gradients: Vec<Tensor> = self.variables().map(|v| v.tensor.grad()).filter(Tensor::defined).collect();
        let squares: f64 = gradients.iter().map(|g| g.norm().double_value(&[]).powi(2)).sum();
        let norm = squares.sqrt();
        let most = self.training.clip;
        if most > 0.0 && norm > most {
            gradients.into_iter().for_each(|mut gradient| drop(gradient.g_mul_scalar_(most / norm)));
        }
        norm
    }

    /// Takes step `count`, from 1.
    pub fn step(&mut self, count: u64, learning_rate: f64, weight_decay: f64) {
        let _no_grad = tch::no_grad_guard();
        let Training { betas: [first, second], epsilon, momentum, optimizer, .. } = self.training;
        for Slot { variable, means } in &mut self.slots {
            let mut gradient = variable.tensor.grad();
            if !gradient.defined() {
                continue;
            }
            let kept = if variable.decays { 1.0 - learning_rate * weight_decay } else { 1.0 };
            let unbiased = |beta: f64| 1.0 - beta.powi(count.min(i32::MAX as u64) as i32);
            let adam = Adam {
                kept: kept as f32,
                first: first as f32,
                second: second as f32,
                rate: (learning_rate / unbiased(first)) as f32,
                scale: unbiased(second).sqrt().recip() as f32,
                epsilon: epsilon as f32,
            };
            if optimizer == Kind::Adamw && adam.step(&mut variable.tensor, &mut gradient, means) {
                continue;
            }
            let _ = variable.tensor.g_mul_scalar_(kept);
            match (optimizer, means.as_mut_slice()) {
                // Loshchilov and Hutter, "Decoupled Weight Decay Regularization" (2019),
                // algorithm 2.
                (Kind::Adamw, [mean, square]) => {
                    let _ = mean.lerp_(&gradient, 1.0 - first);
                    let _ = square.g_mul_scalar_(second);
                    let _ = square.addcmul_(&(&gradient * (1.0 - second)), &gradient);
                    let scale = (square.sqrt() / unbiased(second).sqrt()).g_add_scalar_(epsilon);
                    let _ = variable.tensor.addcdiv_(&(&*mean * (-learning_rate / unbiased(first))), &scale);
                }
                (Kind::Sgd, [velocity]) => {
                    let _ = velocity.g_mul_scalar_(momentum);
                    let _ = velocity.g_add_(&gradient);
                    let _ = variable.tensor.g_add_(&(&*velocity * -learning_rate));
                }
                _ => unreachable!("means are made by kind"),
            }
        }
    }

    /// Variables and means by name, to be saved or restored in place.
    pub fn state(&self) -> BTreeMap<String, Tensor> {
        let of = |slot: &Slot| {
            let name = &slot.variable.name;
            let means = slot.means.iter().zip(MEANS).map(move |(mean, what)| (format!("{name}:{what}"), mean.shallow_clone()));
            means.chain([(name.clone(), slot.variable.tensor.shallow_clone())]).collect::<Vec<_>>()
        };
        self.slots.iter().flat_map(of).collect()
    }
}
