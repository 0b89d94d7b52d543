//! What the allowed names make of their arguments.
//!
//! Source: `torch/_utils.py` (`_rebuild_tensor_v2`, `_rebuild_tensor_v3`,
//! `_rebuild_parameter`) and `torch/serialization.py` (`persistent_id` in `_save`).

use super::Parsed;
use super::globals::{self, Dtype, Global};
use super::value::{Id, Storage, Tensor, Value, Values};

/// More dimensions than any weight has. Without a limit, a pickle that names one
/// long shape over and over would take many times its own size.
const MAX_RANK: usize = 8;

/// What calling `callee` with a tuple of arguments gives.
pub fn call(values: &mut Values, callee: Id, arguments: Id) -> Parsed<Id> {
    let Value::Global(global) = *values.get(callee) else {
        return Err(format!("calls {}", values.get(callee).kind()));
    };
    let arguments = values.tuple(arguments)?;
    let value = match (global, arguments) {
        (Global::OrderedDict, []) => Value::Dict(Vec::new()),
        (Global::Tensor, &[storage, offset, size, stride, _grad, _hooks, ref altered @ ..]) => {
            let storage = storage_of(values, storage)?;
            let dtype = storage.dtype.unwrap_or_else(bytes);
            tensor(values, storage, dtype, [offset, size, stride], altered)?
        }
        (Global::TensorOfType, &[storage, offset, size, stride, _grad, _hooks, dtype, ref altered @ ..]) => {
            match (storage_of(values, storage)?, values.get(dtype)) {
                (storage @ Storage { dtype: None, .. }, Value::Global(Global::Dtype(dtype))) => {
                    tensor(values, storage, dtype, [offset, size, stride], altered)?
                }
                _ => return Err("has a tensor of a type whose storage is not of bytes".into()),
            }
        }
        (Global::Parameter, &[data, _grad, _hooks]) if matches!(values.get(data), Value::Tensor(_)) => return Ok(data),
        (Global::Size, &[sizes]) => return values.tuple(sizes).map(|_| sizes),
        (Global::Device, _) => Value::Other("a device"),
        _ => return Err(format!("calls {global:?} with {} arguments that it does not take", arguments.len())),
    };
    Ok(values.add(value))
}

/// What a persistent id stands for: a storage.
pub fn persistent<'a>(values: &Values<'a>, id: Id) -> Parsed<Storage<'a>> {
    let &[kind, class, key, location, len] = values.tuple(id)? else {
        return Err("has a persistent id that is no storage's".into());
    };
    let (kind, class, key, _) = (values.text(kind)?, values.get(class), values.text(key)?, values.text(location)?);
    match class {
        Value::Global(Global::Storage(dtype)) if kind == "storage" => Ok(Storage { key, dtype: *dtype, len: values.size(len)? }),
        _ => Err(format!("has a persistent id that is no storage's: {kind:?} of {}", class.kind())),
    }
}

fn storage_of<'a>(values: &Values<'a>, id: Id) -> Parsed<Storage<'a>> {
    match values.get(id) {
        Value::Storage(storage) => Ok(*storage),
        other => Err(format!("has {} where a tensor's storage is expected", other.kind())),
    }
}

fn bytes() -> &'static Dtype {
    match globals::find("torch", "uint8") {
        Some(Global::Dtype(dtype)) => dtype,
        _ => unreachable!("the table has it"),
    }
}

fn tensor<'a>(
    values: &Values<'a>,
    storage: Storage<'a>,
    dtype: &'static Dtype,
    [offset, size, stride]: [Id; 3],
    altered: &[Id],
) -> Parsed<Value<'a>> {
    let (shape, strides) = (sizes(values, size)?, sizes(values, stride)?);
    if shape.len() != strides.len() {
        return Err(format!("has a tensor of {} dimensions with {} strides", shape.len(), strides.len()));
    }
    let is_altered = match altered.iter().map(|&id| values.get(id)).collect::<Vec<_>>()[..] {
        [] | [Value::Other("None")] => false,
        [Value::Dict(pairs)] => !pairs.is_empty(),
        _ => return Err("has a tensor of too many arguments".into()),
    };
    Ok(Value::Tensor(Box::new(Tensor { storage, dtype, offset: values.size(offset)?, shape, strides, is_altered })))
}

fn sizes(values: &Values, id: Id) -> Parsed<Vec<usize>> {
    match values.tuple(id)? {
        items if items.len() > MAX_RANK => Err(format!("has a tensor of {} dimensions: {MAX_RANK} at most are read", items.len())),
        items => items.iter().map(|&item| values.size(item)).collect(),
    }
}
