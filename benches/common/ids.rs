//! Ids for scripts in Python: a safetensors file with `ids`, i32 `[sequences, length]`.

use std::path::Path;

pub fn write<'a>(file: &Path, ids: impl Iterator<Item = &'a u32>, shape: [usize; 2]) {
    let flat: Vec<u8> = ids.flat_map(|&id| (id as i32).to_le_bytes()).collect();
    let view = safetensors::tensor::TensorView::new(safetensors::Dtype::I32, shape.to_vec(), &flat).unwrap();
    safetensors::serialize_to_file([("ids", view)], None, file).unwrap();
}
