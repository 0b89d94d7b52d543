//! Which of a pickle's values are the model's tensors.

use super::value::{Id, Tensor, Value, Values};
use super::{Parsed, shown};
use std::collections::BTreeSet;

/// Where training scripts keep the model among optimiser and counters. The names
/// below them are the model's own, so these are no part of them.
const WRAPPERS: [&str; 3] = ["state_dict", "model_state_dict", "model"];

/// Tensors by name, in order: those of the outermost dict, and of the dicts that
/// [`WRAPPERS`] name there. What is no tensor is passed over.
pub fn tensors<'v, 'a>(values: &'v Values<'a>, root: Id) -> Parsed<Vec<(&'a str, &'v Tensor<'a>)>> {
    let Value::Dict(pairs) = values.get(root) else {
        return Err(format!("its pickle is {}, not a dict of tensors", values.get(root).kind()));
    };
    let mut found = Vec::new();
    // Were names repeated, they could take more memory than the file has bytes.
    let mut names = BTreeSet::new();
    let mut add = |&(key, value): &(Id, Id)| match (values.get(key), values.get(value)) {
        (Value::Text(name), Value::Tensor(_)) if !names.insert(*name) => Err(format!("holds two tensors named {}", shown(name))),
        (Value::Text(name), Value::Tensor(tensor)) => {
            found.push((*name, &**tensor));
            Ok(())
        }
        _ => Ok(()),
    };
    for pair in pairs {
        match (values.get(pair.0), values.get(pair.1)) {
            (Value::Text(name), Value::Dict(inner)) if WRAPPERS.contains(name) => inner.iter().try_for_each(&mut add)?,
            _ => add(pair)?,
        }
    }
    Ok(found)
}
