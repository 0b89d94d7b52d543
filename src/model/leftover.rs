//! A configuration that speaks of quantised weights where the weights are in full precision:
//! `dequantize()` and merges into a quantised model leave it behind.

use super::families::{CONFIG, Config, QUANTIZATION_KEYS};
use crate::checkpoint::Checkpoint;
use crate::checkpoint::wrappers::Needed;
use crate::error::{Error, Result};
use crate::notice::warn_once;
use std::collections::BTreeSet;

/// Ends of the names of scales beside a weight, without which its numbers are others.
const SCALES: [&str; 9] =
    ["weight_scale", "weight_scale_inv", "weight_scale_2", "weight_zero_point", "scales", "qzeros", "SCB", "absmax", "quant_map"];

/// Ends of the names of codes that stand in the place of a weight.
const CODES: [&str; 5] = ["qweight", "weight_packed", "codes", "W_q", "_data"];

/// True if the name is that of a part of a quantised weight.
pub fn is_quantised(name: &str) -> bool {
    name.rsplit('.').next().is_some_and(|end| CODES.contains(&end) || SCALES.contains(&end))
}

/// Fails where the checkpoint is quantised by `method`, which the configuration names; warns
/// where every weight is there in full precision.
pub fn check(method: &str, config: &Config, checkpoint: &Checkpoint, needed: &Needed) -> Result<()> {
    let keys: Vec<String> =
        QUANTIZATION_KEYS.iter().filter(|key| config.value().get(**key).is_some()).map(|key| format!("\"{key}\"")).collect();
    let keys = keys.join(" and ");
    let quantised = |evidence: String| {
        let why = format!("this checkpoint is quantised already, by {method} ({evidence}): start from the full-precision one");
        Err(config.error(format!("{keys}: {why}")))
    };
    for places in needed {
        if !places.iter().any(|tensors| tensors.iter().all(|name| checkpoint.find(name).is_some())) {
            let name = &places[0][0];
            return quantised(match checkpoint.all_names().find(|other| other == name) {
                Some(_) => format!("{name} is not in F32, F16 or BF16"),
                None => format!("it has {} and no {name}", checkpoint.similar(name).join(", ")),
            });
        }
    }
    let modules: BTreeSet<&str> = modules(checkpoint, needed);
    let beside = checkpoint.all_names().find(|name| module_of(name, &modules).is_some_and(|rest| rest != "weight" && rest != "bias"));
    match beside {
        Some(name) => quantised(format!("it has {name}")),
        None => {
            let message = format!(
                "{CONFIG} says that the weights are quantised by {method}, but all are there in full precision and are read as they \
                 are: take {keys} out of it"
            );
            warn_once(checkpoint.origin(), message);
            Ok(())
        }
    }
}

/// Fails where a weight has a scale beside it and the configuration says nothing of it.
pub fn refuse_scales(checkpoint: &Checkpoint, needed: &Needed) -> Result<()> {
    let modules = modules(checkpoint, needed);
    let is_scale = |name: &&str| module_of(name, &modules).is_some_and(|rest| rest.split('.').any(|part| SCALES.contains(&part)));
    match checkpoint.all_names().find(is_scale) {
        None => Ok(()),
        Some(name) => Err(Error::format(
            checkpoint.origin(),
            format!(
                "it has {name}, so the weight beside it is quantised, and {CONFIG} does not say how: start from the full-precision one"
            ),
        )),
    }
}

/// Modules whose weights the model needs, as the checkpoint names them.
fn modules<'a>(checkpoint: &'a Checkpoint, needed: &'a Needed) -> BTreeSet<&'a str> {
    let names = needed.iter().flatten().flatten().filter_map(|name| checkpoint.find(name));
    names.filter_map(|name| name.strip_suffix(".weight")).collect()
}

/// Name of a tensor within its module.
fn module_of<'a>(name: &'a str, modules: &BTreeSet<&str>) -> Option<&'a str> {
    let dots = name.match_indices('.').map(|(at, _)| at);
    dots.into_iter().find(|&at| modules.contains(&name[..at])).map(|at| &name[at + 1..])
}
