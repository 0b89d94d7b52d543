//! What is not quantised ships in 16 bits.

use crate::checkpoint::{Bytes, DenseTensor, FloatType};
use crate::error::Result;
use crate::model::ParameterKind;
use crate::quant::{Assembled, Weight, WeightStore};
use half::{bf16, f16};

/// A model as it ships.
pub fn model(store: &dyn WeightStore) -> Result<Assembled> {
    let spec = store.spec();
    let weight = |p: crate::model::Parameter| Ok((p.name.clone(), kept(store.weight(&p.name)?, p.kind)));
    Ok(Assembled::new(spec.clone(), spec.parameters().into_iter().map(weight).collect::<Result<Vec<_>>>()?))
}

/// What is not quantised: vectors as they are, matrices in 16 bits.
pub fn kept(weight: Weight, kind: ParameterKind) -> Weight {
    match weight {
        Weight::Dense(tensor) if kind != ParameterKind::Vector && tensor.float_type == FloatType::F32 => Weight::Dense(narrowed(&tensor)),
        other => other,
    }
}

/// In f16, or in bf16 where the range of f16 is too small.
fn narrowed(tensor: &DenseTensor) -> DenseTensor {
    let values = tensor.to_f32();
    let fits = values.iter().all(|v| f16::from_f32(*v).is_finite());
    let bits = |v: &f32| if fits { f16::from_f32(*v).to_bits() } else { bf16::from_f32(*v).to_bits() };
    let bytes: Vec<u8> = values.iter().flat_map(|v| bits(v).to_le_bytes()).collect();
    let float_type = if fits { FloatType::F16 } else { FloatType::Bf16 };
    DenseTensor { float_type, bytes: Bytes::from_vec(bytes), ..tensor.clone() }
}
