//! A student's weights where they are drawn and not its teacher's: by GPT-2's rule
//! (Radford et al. 2019, section 2.3, and its source, `model.py`). A number depends on
//! the seed, the name of the parameter and its place in it alone.

use crate::model::{ModelSpec, Parameter, ParameterKind};
use crate::random::Random;
use crate::spec::NormWeight;
use rayon::prelude::*;

/// Standard deviation of matrices.
const DEVIATION: f64 = 0.02;

/// Layers whose outputs are added to the residual stream, two a block: divided by the
/// root of how many there are, their sum is as large in a deep model as in a shallow one.
const ADDED: [&str; 3] = ["attn.o", "wkv.output", "ffn.down"];

/// `None` for what is neither a matrix nor of a norm or a bias: decays and mixtures of
/// a recurrent mixer, whose values are a design and not a distribution.
pub(super) fn numbers(parameter: &Parameter, student: &ModelSpec, seed: u64) -> Option<Vec<f32>> {
    let count = parameter.shape.iter().product();
    let constant = |value| Some(vec![value; count]);
    match parameter.kind {
        ParameterKind::Vector if parameter.role().ends_with(".bias") => constant(0.0),
        ParameterKind::Vector => match student.norm_of(parameter)?.weight {
            NormWeight::Plain | NormWeight::None => constant(1.0),
            NormWeight::OnePlus => constant(0.0),
        },
        ParameterKind::Embedding | ParameterKind::Head | ParameterKind::Linear | ParameterKind::Kept => {
            let sums = if ADDED.contains(&parameter.role()) { 2 * student.blocks.len() } else { 1 };
            let deviation = DEVIATION / (sums as f64).sqrt();
            let random = Random::named(seed, &parameter.name);
            Some((0..count).into_par_iter().map(|i| (deviation * random.normal(i as u64)) as f32).collect())
        }
    }
}
