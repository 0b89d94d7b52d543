//! What the allowed names make of their arguments.
//!
//! Source: `torch/_utils.py` (`_rebuild_tensor_v2`, `_rebuild_tensor_v3`,
//! `_rebuild_parameter`) and `torch/serialization.py` (`persistent_id` in `_save`).

use super::error::PickleError;
use super::globals::{self, Dtype, Global};
use super::value::{Id, Storage, Tensor, Value, Values};

/// More dimensions than any weight has. Without a limit, a pickle that names one
/// long shape over and over would take many times its own size.
const MAX_RANK: usize = 8;

type Result<T> = std::result::Result<T, PickleError>;

/// What calling `callee` with a tuple of arguments gives.
pub fn call(values: &mut Values, callee: Id, arguments: Id) -> Result<Id> {
    let Value::Global(global) = *values.get(callee) else {
        return Err(PickleError::NotCallable(values.get(callee).kind()));
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
                _ => return Err(PickleError::TypedStorage),
            }
        }
        (Global::Parameter, &[data, _grad, _hooks]) if matches!(values.get(data), Value::Tensor(_)) => return Ok(data),
        (Global::Size, &[sizes]) => return values.tuple(sizes).map(|_| sizes),
        (Global::Device, _) => Value::Other("a device"),
        _ => return Err(PickleError::Arguments { global, count: arguments.len() }),
    };
    Ok(values.add(value))
}

/// What a persistent id stands for: a storage.
pub fn persistent<'a>(values: &Values<'a>, id: Id) -> Result<Storage<'a>> {
    let &[kind, class, key, location, len] = values.tuple(id)? else {
        return Err(PickleError::PersistentId { found: None });
    };
    let (kind, class, key, _) = (values.text(kind)?, values.get(class), values.text(key)?, values.text(location)?);
    match class {
        Value::Global(Global::Storage(dtype)) if kind == "storage" => Ok(Storage { key, dtype: *dtype, len: values.size(len)? }),
        _ => Err(PickleError::PersistentId { found: Some(format!("{kind:?} of {}", class.kind())) }),
    }
}

fn storage_of<'a>(values: &Values<'a>, id: Id) -> Result<Storage<'a>> {
    match values.get(id) {
        Value::Storage(storage) => Ok(*storage),
        other => Err(PickleError::Kind { found: other.kind(), expected: "a tensor's storage" }),
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
) -> Result<Value<'a>> {
    let (shape, strides) = (sizes(values, size)?, sizes(values, stride)?);
    if shape.len() != strides.len() {
        return Err(PickleError::Strides { shape: shape.len(), strides: strides.len() });
    }
    let is_altered = match altered.iter().map(|&id| values.get(id)).collect::<Vec<_>>()[..] {
        [] | [Value::Other("None")] => false,
        [Value::Dict(pairs)] => !pairs.is_empty(),
        _ => return Err(PickleError::TensorArguments),
    };
    Ok(Value::Tensor(Box::new(Tensor { storage, dtype, offset: values.size(offset)?, shape, strides, is_altered })))
}

fn sizes(values: &Values, id: Id) -> Result<Vec<usize>> {
    match values.tuple(id)? {
        items if items.len() > MAX_RANK => Err(PickleError::Rank { rank: items.len(), max: MAX_RANK }),
        items => items.iter().map(|&item| values.size(item)).collect(),
    }
}
