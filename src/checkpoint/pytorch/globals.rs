//! The only names that a checkpoint's pickle may say. They are data: each stands
//! for something this reader does itself, and none of them runs anything.
//!
//! Source: what `torch.save` writes for tensors (`torch/_tensor.py`,
//! `_reduce_ex_internal`; `torch/storage.py`, `_dtype_to_storage_type_map`), all of
//! which `torch/_weights_only_unpickler.py` allows too.

use crate::checkpoint::{FloatType, double};

/// What an allowed name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Global {
    /// A dict that keeps its order.
    OrderedDict,
    /// A tensor over a storage that has a number format.
    Tensor,
    /// A tensor that names its number format itself.
    TensorOfType,
    /// A tensor that was trained.
    Parameter,
    /// Storages of a number format; of bytes where there is none.
    Storage(Option<&'static Dtype>),
    /// A number format.
    Dtype(&'static Dtype),
    /// A shape.
    Size,
    /// A device.
    Device,
}

/// A number format of PyTorch.
#[derive(Debug, PartialEq, Eq)]
pub struct Dtype {
    /// As safetensors would name it.
    pub name: &'static str,
    /// What it is as weights.
    pub float_type: Option<FloatType>,
    /// Bytes of a number, where they are weights.
    pub size_bytes: usize,
    torch: &'static str,
    storage: Option<&'static str>,
}

const fn dtype(name: &'static str, torch: &'static str, storage: &'static str) -> Dtype {
    Dtype { name, float_type: None, size_bytes: 0, torch, storage: Some(storage) }
}

/// A format newer than typed storages.
const fn young(name: &'static str, torch: &'static str) -> Dtype {
    Dtype { name, float_type: None, size_bytes: 0, torch, storage: None }
}

const fn weight(float_type: FloatType, size_bytes: usize, dtype: Dtype) -> Dtype {
    Dtype { float_type: Some(float_type), size_bytes, ..dtype }
}

static DTYPES: [Dtype; 20] = [
    weight(FloatType::F32, 4, dtype("F32", "float32", "FloatStorage")),
    weight(FloatType::F16, 2, dtype("F16", "float16", "HalfStorage")),
    weight(FloatType::Bf16, 2, dtype("BF16", "bfloat16", "BFloat16Storage")),
    weight(FloatType::F32, double::SIZE_BYTES, dtype("F64", "float64", "DoubleStorage")),
    dtype("I64", "int64", "LongStorage"),
    dtype("I32", "int32", "IntStorage"),
    dtype("I16", "int16", "ShortStorage"),
    dtype("I8", "int8", "CharStorage"),
    dtype("U8", "uint8", "ByteStorage"),
    dtype("BOOL", "bool", "BoolStorage"),
    dtype("C64", "complex64", "ComplexFloatStorage"),
    dtype("C128", "complex128", "ComplexDoubleStorage"),
    young("U16", "uint16"),
    young("U32", "uint32"),
    young("U64", "uint64"),
    young("F8_E4M3", "float8_e4m3fn"),
    young("F8_E5M2", "float8_e5m2"),
    young("F8_E4M3FNUZ", "float8_e4m3fnuz"),
    young("F8_E5M2FNUZ", "float8_e5m2fnuz"),
    young("F8_E8M0", "float8_e8m0fnu"),
];

const OTHERS: [(&str, &str, Global); 7] = [
    ("collections", "OrderedDict", Global::OrderedDict),
    ("torch._utils", "_rebuild_tensor_v2", Global::Tensor),
    ("torch._utils", "_rebuild_tensor_v3", Global::TensorOfType),
    ("torch._utils", "_rebuild_parameter", Global::Parameter),
    ("torch.storage", "UntypedStorage", Global::Storage(None)),
    ("torch", "Size", Global::Size),
    ("torch", "device", Global::Device),
];

/// What a name stands for; `None` where it is not allowed.
pub fn find(module: &str, name: &str) -> Option<Global> {
    let of_dtype = |d: &'static Dtype| match () {
        () if d.storage == Some(name) => Some(Global::Storage(Some(d))),
        () if d.torch == name => Some(Global::Dtype(d)),
        () => None,
    };
    let other = OTHERS.iter().find(|(m, n, _)| (*m, *n) == (module, name)).map(|(_, _, global)| *global);
    other.or_else(|| DTYPES.iter().filter(|_| module == "torch").find_map(of_dtype))
}
