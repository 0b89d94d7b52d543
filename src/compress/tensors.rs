//! Between mapped weights, ndarray and libtorch.

use super::straight_through::Blend;
use crate::checkpoint::{DenseTensor, FloatType};
use crate::error::Result;
use crate::model::{ModelSpec, ParameterKind};
use crate::quant::{Weight, WeightStore};
use half::bf16;
use ndarray::Array2;
use std::cell::{Ref, RefCell};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use tch::{Device, Kind, Tensor};

/// Where and in what libtorch computes.
#[derive(Clone, Copy, Debug)]
pub struct Compute {
    /// CPU or GPU.
    pub device: Device,
    /// `Float` or `BFloat16`.
    pub kind: Kind,
}

impl Compute {
    /// f32 on the CPU.
    pub const CPU: Self = Self { device: Device::Cpu, kind: Kind::Float };
}

/// A weight for libtorch. Where it can, it borrows the mapped file; the tensor
/// is only lent out by reference, and is never written to.
pub struct Parameter {
    tensor: Tensor,
    /// Keeps the map alive for as long as the tensor may point into it.
    weight: Option<Weight>,
}

impl Parameter {
    /// Loads, in the number format of `compute`.
    pub fn load(weight: Weight, compute: Compute) -> Self {
        let shape: Vec<i64> = weight.shape().iter().map(|&n| n as i64).collect();
        let tensor = match &weight {
            Weight::Dense(dense) => view(dense, &shape).to_kind(compute.kind).to_device(compute.device),
            Weight::Packed(_) => Tensor::from_slice(&weight.to_f32()).view(&shape[..]).to_kind(compute.kind).to_device(compute.device),
        };
        Self { tensor, weight: Some(weight) }
    }

    /// From a tensor in memory, in the number format of `compute`.
    pub fn of_tensor(tensor: &Tensor, compute: Compute) -> Self {
        Self { tensor: tensor.to_kind(compute.kind).to_device(compute.device), weight: None }
    }

    /// The numbers. Not to be cloned beyond the life of `self`, whence private to
    /// this crate.
    pub(crate) fn tensor(&self) -> &Tensor {
        &self.tensor
    }
}

/// A view of mapped numbers, or a copy where they are not aligned.
fn view(dense: &DenseTensor, shape: &[i64]) -> Tensor {
    let kind = match dense.float_type {
        FloatType::F32 => Kind::Float,
        FloatType::F16 => Kind::Half,
        FloatType::Bf16 => Kind::BFloat16,
    };
    assert_eq!(dense.bytes.len() as i64, shape.iter().product::<i64>() * dense.float_type.size_bytes() as i64, "bytes of a shape");
    let start = dense.bytes.as_ptr();
    if start.align_offset(dense.float_type.size_bytes()) != 0 {
        return Tensor::from_data_size(&dense.bytes, shape, kind);
    }
    let strides: Vec<i64> = (0..shape.len()).map(|i| shape[i + 1..].iter().product()).collect();
    // SAFETY: the bytes are as long as the shape says (checked when they were
    // read, and above) and aligned. `Parameter` holds the map and the tensor; the tensor is
    // lent out inside this crate alone, where results of operations, but no
    // shallow clones or views of it, outlive the parameter, and nothing writes to
    // it in place.
    unsafe { Tensor::from_blob(start, shape, &strides, kind, Device::Cpu) }
}

/// The parameters of a part of a model, by name inside that part. One may be replaced while
/// the part is computed, by an observer of its input.
pub struct Parameters {
    by_role: RefCell<BTreeMap<String, Parameter>>,
    blend: Blend,
}

impl Parameters {
    /// Those of a block, under names such as `attn.q`.
    pub fn block(store: &dyn WeightStore, block: usize, compute: Compute) -> Result<Self> {
        Self::of_block(store.spec(), block, |name| store.weight(name), compute)
    }

    /// The same from where `weight` finds parameters by canonical name; some may be
    /// another block's.
    pub fn of_block(spec: &ModelSpec, block: usize, weight: impl Fn(&str) -> Result<Weight>, compute: Compute) -> Result<Self> {
        let load = |(role, ..): (String, Vec<usize>, ParameterKind)| {
            let weight = weight(&spec.block_name(block, &role))?;
            Ok((role, Parameter::load(weight, compute)))
        };
        spec.roles(block).into_iter().map(load).collect::<Result<_>>().map(Self::plain)
    }

    /// From weights at hand.
    pub fn new(weights: impl IntoIterator<Item = (String, Weight)>, compute: Compute) -> Self {
        Self::plain(weights.into_iter().map(|(role, weight)| (role, Parameter::load(weight, compute))).collect())
    }

    /// From tensors in memory, which may be differentiated.
    pub fn of_tensors(tensors: impl IntoIterator<Item = (String, Tensor)>) -> Self {
        Self::plain(tensors.into_iter().map(|(role, tensor)| (role, Parameter { tensor, weight: None })).collect())
    }

    fn plain(by_role: BTreeMap<String, Parameter>) -> Self {
        Self { by_role: RefCell::new(by_role), blend: Blend::default() }
    }

    /// The same, which do something to what they meet.
    pub fn blending(self, blend: Blend) -> Self {
        Self { blend, ..self }
    }

    /// What is done to what they meet.
    pub(crate) fn blend(&self) -> &Blend {
        &self.blend
    }

    /// Whether a weight had to be decoded, which is worth doing once.
    pub fn any_packed(&self) -> bool {
        self.by_role.borrow().values().any(|p| matches!(p.weight, Some(Weight::Packed(_))))
    }

    /// Bytes of all tensors.
    pub fn len_bytes(&self) -> usize {
        let bytes = |p: &Parameter| p.tensor.numel() * p.tensor.kind().elt_size_in_bytes();
        self.by_role.borrow().values().map(bytes).sum()
    }

    /// Puts a parameter in the place of that name; none may be lent out.
    pub fn put(&self, role: &str, parameter: Parameter) {
        self.by_role.borrow_mut().insert(role.to_owned(), parameter);
    }

    /// Lets go of a parameter that nothing will ask for again.
    pub fn drop(&self, role: &str) {
        self.by_role.borrow_mut().remove(role);
    }

    /// A parameter that must be there.
    pub(crate) fn get(&self, role: &str) -> Ref<'_, Tensor> {
        self.find(role).unwrap_or_else(|| panic!("{role} is among the parameters"))
    }

    /// A parameter that may be there.
    pub(crate) fn find(&self, role: &str) -> Option<Ref<'_, Tensor>> {
        Ref::filter_map(self.by_role.borrow(), |parameters| parameters.get(role).map(Parameter::tensor)).ok()
    }
}

/// A matrix as ndarray, in f32 on the CPU.
pub fn to_array(matrix: &Tensor) -> Array2<f32> {
    let (rows, columns) = matrix.size2().expect("a matrix");
    Array2::from_shape_vec((rows as usize, columns as usize), to_vec(matrix)).expect("the sizes agree")
}

/// A matrix of ndarray on the CPU.
pub fn from_array(matrix: &Array2<f32>) -> Tensor {
    let (rows, columns) = matrix.dim();
    Tensor::from_slice(matrix.as_slice().expect("standard layout")).view([rows as i64, columns as i64])
}

/// A weight in f32, of a name that messages give.
pub fn dense(name: &str, tensor: &Tensor) -> Weight {
    let shape = tensor.size().iter().map(|&n| n as usize).collect();
    Weight::from_f32(name, shape, &to_vec(tensor))
}

/// In single precision where it is in less.
pub fn wide(tensor: &Tensor) -> Tensor {
    match tensor.kind() {
        Kind::Half | Kind::BFloat16 => tensor.to_kind(Kind::Float),
        _ => tensor.shallow_clone(),
    }
}

/// The numbers of a tensor, to be changed in place; `None` unless it is a contiguous f32 tensor
/// on the CPU.
///
/// # Safety
///
/// While the slice lives, the storage of the tensor must be neither read nor written through
/// another handle of it (a shallow clone, a view, a gradient that shares it, an operation of
/// libtorch on another thread): the exclusive borrow covers this handle alone.
pub unsafe fn in_place(tensor: &mut Tensor) -> Option<&mut [f32]> {
    if !is_plain(tensor, Kind::Float) {
        return None;
    }
    let count = tensor.numel();
    // SAFETY: a contiguous f32 tensor on the CPU has `count` aligned numbers behind its pointer
    // for as long as it lives, and it is borrowed for as long as they are. The caller keeps other
    // handles of the storage away.
    Some(unsafe { std::slice::from_raw_parts_mut(tensor.data_ptr().cast::<f32>(), count) })
}

/// The numbers of a tensor; `None` unless it is a contiguous f32 tensor on the CPU.
///
/// # Safety
///
/// While the slice lives, nothing may write to the storage of the tensor, through this handle
/// (operations in place take `&Tensor` too) or another.
pub unsafe fn lent_f32(tensor: &Tensor) -> Option<&[f32]> {
    // SAFETY: the same condition.
    unsafe { lent(tensor, Kind::Float) }
}

/// The numbers of a tensor; `None` unless it is a contiguous bf16 tensor on the CPU.
///
/// # Safety
///
/// As for [`lent_f32`].
pub unsafe fn lent_bf16(tensor: &Tensor) -> Option<&[bf16]> {
    // SAFETY: the same condition.
    unsafe { lent(tensor, Kind::BFloat16) }
}

/// # Safety
///
/// As for [`lent_f32`].
unsafe fn lent<T: bytemuck::Pod>(tensor: &Tensor, kind: Kind) -> Option<&[T]> {
    assert_eq!(kind.elt_size_in_bytes(), size_of::<T>());
    // SAFETY: a contiguous tensor on the CPU has that many aligned numbers of that size behind
    // its pointer for as long as it lives, and it is borrowed for as long as they are; every bit
    // pattern is a number. The caller keeps writers away.
    is_plain(tensor, kind).then(|| unsafe { std::slice::from_raw_parts(tensor.data_ptr().cast::<T>().cast_const(), tensor.numel()) })
}

/// True for a contiguous tensor of a kind on the CPU.
fn is_plain(tensor: &Tensor, kind: Kind) -> bool {
    // An empty tensor may have no storage.
    tensor.device() == Device::Cpu && tensor.kind() == kind && tensor.is_contiguous() && tensor.numel() > 0
}

/// Gives the system back what freed tensors have left behind: the allocator keeps it in case it
/// is asked for again, and what is asked for next may be of another size.
pub fn give_back() {
    // SAFETY: it touches free memory alone, under the allocator's own locks.
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    unsafe {
        libc::malloc_trim(0);
    }
}

/// glibc keeps freed memory while a value of this type is alive, in the whole process. A step of
/// training allocates the same tensors as the step before it, large ones among them, which the
/// system would otherwise map again, page by page and zeroed, at each step: a seventh of its time.
/// With another allocator than glibc's the value has no effect.
///
/// Dropping the last value returns the kept memory to the system; tensors must be freed before.
pub struct MallocTuning;

/// Count of living values.
static MALLOC_TUNINGS: AtomicUsize = AtomicUsize::new(0);

impl MallocTuning {
    /// Allocations up to here: larger ones are few, and worth their pages.
    const LARGE: i32 = 1 << 30;
    /// The greatest that glibc comes to by itself (`DEFAULT_MMAP_THRESHOLD_MAX`).
    const USUAL: i32 = 32 << 20;

    /// From now on.
    pub fn begin() -> Self {
        if MALLOC_TUNINGS.fetch_add(1, Ordering::AcqRel) == 0 {
            Self::keep(Self::LARGE);
        }
        Self
    }

    /// Up to so many bytes at a time, and twice as many when all is free.
    #[allow(unused_variables)] // where the allocator is another one
    fn keep(bytes: i32) {
        // SAFETY: it sets numbers of the allocator, under its own locks; one that it refuses
        // is left as it was.
        #[cfg(all(target_os = "linux", target_env = "gnu"))]
        unsafe {
            libc::mallopt(libc::M_MMAP_THRESHOLD, bytes);
            libc::mallopt(libc::M_TRIM_THRESHOLD, bytes.saturating_mul(2));
        }
    }
}

impl Drop for MallocTuning {
    fn drop(&mut self) {
        if MALLOC_TUNINGS.fetch_sub(1, Ordering::AcqRel) == 1 {
            Self::keep(Self::USUAL);
            give_back();
        }
    }
}

/// Σ x · gradient: what is differentiated in place of a loss whose gradient with respect
/// to `x` is known.
pub fn along(x: &Tensor, gradient: &Tensor) -> Tensor {
    x.flatten(0, -1).dot(&gradient.to_kind(x.kind()).flatten(0, -1))
}

/// All numbers, in f64 on the CPU.
pub fn to_vec64(tensor: &Tensor) -> Vec<f64> {
    let flat = tensor.to_device(Device::Cpu).to_kind(Kind::Double).contiguous().view(-1);
    Vec::try_from(&flat).expect("f64 on the CPU")
}

/// All numbers, in f32 on the CPU.
pub fn to_vec(tensor: &Tensor) -> Vec<f32> {
    let flat = tensor.to_device(Device::Cpu).to_kind(Kind::Float).contiguous().view(-1);
    Vec::try_from(&flat).expect("f32 on the CPU")
}
