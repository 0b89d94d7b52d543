//! Moves scale between activations and weights before a block is quantised: what
//! makes an input is divided channel by channel, and the columns that read it are
//! multiplied by the same, which changes nothing until something is rounded. Where
//! that can be done is derived from the spec ([`crate::model::ModelSpec::scale_migrations`]).
//!
//! A new way to choose the scales = one file here, one variant of
//! [`crate::recipe::Rescale`], one arm of [`rescaling`].

mod awq;
mod smooth;

use super::calibrate::InputStatistics;
use super::tensors::to_vec;
use crate::error::Result;
use crate::forward::trace::{Producer, ScaleMigration};
use crate::quant::Scheme;
use crate::recipe::Rescale;
use crate::spec::{LayerName, NormWeight};
use tch::Tensor;

/// A linear layer that reads an input.
pub struct Reader<'a> {
    /// `[out, in]`, f32.
    pub weight: Tensor,
    /// What it is to be quantised to, if at all.
    pub scheme: Option<Scheme>,
    /// What it reads.
    pub input: &'a InputStatistics,
}

/// A way to choose scales.
pub trait Rescaling {
    /// Whether it scales what is fed so.
    fn takes(&self, producer: &Producer) -> bool;

    /// What the channels that feed the readers are divided by, `[channels]`, positive and
    /// finite; `None` where they are best left.
    fn scales(&self, readers: &[Reader], channels: &Channels) -> Option<Tensor>;
}

/// What carries a choice out.
pub fn rescaling(rescale: Rescale) -> Box<dyn Rescaling> {
    match rescale {
        Rescale::Awq(options) => Box::new(awq::Awq { options }),
        Rescale::Smooth { alpha } => Box::new(smooth::Smooth { alpha }),
    }
}

/// Between the channels of what feeds an input and those of the input.
pub struct Channels {
    /// The channel that feeds each of the input, `[in]`.
    index: Vec<i64>,
    count: usize,
}

impl Channels {
    /// Of a migration.
    pub fn of(migration: &ScaleMigration) -> Self {
        let index = migration.channels.iter().map(|&channel| channel as i64).collect();
        Self { index, count: migration.channels.iter().max().map_or(0, |last| last + 1) }
    }

    /// `[channels]` → `[in]`
    pub fn spread(&self, of_channels: &Tensor) -> Tensor {
        of_channels.index_select(0, &Tensor::from_slice(&self.index).to_device(of_channels.device()))
    }

    /// `[in]` → means `[channels]`
    pub fn mean(&self, of_input: &Tensor) -> Tensor {
        // As many of the input have each channel.
        let share = self.count as f32 / self.index.len() as f32;
        self.gather(of_input, |sum, value| sum + share * value)
    }

    /// `[in]`, not negative → the greatest `[channels]`
    pub fn greatest(&self, of_input: &Tensor) -> Tensor {
        self.gather(of_input, f32::max)
    }

    fn gather(&self, of_input: &Tensor, combine: impl Fn(f32, f32) -> f32) -> Tensor {
        let mut of_channels = vec![0.0; self.count];
        for (&channel, value) in self.index.iter().zip(to_vec(of_input)) {
            let so_far = &mut of_channels[channel as usize];
            *so_far = combine(*so_far, value);
        }
        Tensor::from_slice(&of_channels).to_device(of_input.device())
    }
}

/// What feeds an input, divided by `scales` `[channels]`: names inside the block and
/// the new numbers. `numbers` loads the parameter of a name.
pub fn divided(producer: &Producer, scales: &Tensor, numbers: impl Fn(&str) -> Result<Tensor>) -> Result<Vec<(String, Tensor)>> {
    let load = |name: LayerName| numbers(&name.to_string());
    let (name, weight, has_bias, scales) = match *producer {
        Producer::Nothing(_) => return Ok(Vec::new()),
        Producer::Norm { name, weight: NormWeight::OnePlus, bias } => {
            (name, (load(name)? + 1.0) / scales - 1.0, bias, scales.shallow_clone())
        }
        Producer::Norm { name, bias, .. } => (name, load(name)? / scales, bias, scales.shallow_clone()),
        Producer::Rows { name, power, bias } => {
            let scales = scales.pow_tensor_scalar(power.recip());
            (name, load(name)? / scales.unsqueeze(1), bias, scales)
        }
    };
    let mut divided = vec![(name.to_string(), weight)];
    if has_bias {
        let bias = format!("{name}.bias");
        divided.push((bias.clone(), numbers(&bias)? / scales));
    }
    Ok(divided)
}
