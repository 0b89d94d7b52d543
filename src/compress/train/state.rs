//! Everything that a run needs to go on as if it had never stopped, in one file.
//!
//! The order of the data, and all that is random, follow from the recipe's seed and the
//! number of the step, so that what is left are tensors and a few numbers.

use crate::checkpoint::safetensors::read_header;
use crate::checkpoint::{Bytes, Entry, write_tensors};
use crate::error::{Error, Result};
use safetensors::Dtype;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::path::Path;
use tch::{Kind, Tensor};

const NOTES: &str = "thimble.training";

/// Writes f32 tensors and notes, atomically.
pub fn save(path: &Path, tensors: &BTreeMap<String, Tensor>, notes: &impl Serialize) -> Result<()> {
    let entry = |(name, tensor): (&String, &Tensor)| {
        let shape: Vec<usize> = tensor.size().iter().map(|&n| n as usize).collect();
        let numbers = tensor.detach();
        let fill = move || crate::compress::to_vec(&numbers).into_iter().flat_map(f32::to_le_bytes).collect();
        Entry { name: name.clone(), dtype: Dtype::F32, bytes: Bytes::made_late(4 * shape.iter().product::<usize>(), fill), shape }
    };
    let mut metadata = Map::new();
    metadata.insert(NOTES.into(), Value::String(serde_json::to_string(notes).expect("notes are JSON")));
    write_tensors(path, tensors.iter().map(entry).collect(), metadata)
}

/// Reads a file into tensors that are there, in place, and gives the notes.
pub fn restore<N: DeserializeOwned>(path: &Path, tensors: &mut BTreeMap<String, Tensor>) -> Result<N> {
    let _no_grad = tch::no_grad_guard();
    let bytes = Bytes::map(path)?;
    let (start, header) = read_header(&bytes, path)?;
    let found = header.tensors();
    for (name, tensor) in tensors.iter_mut() {
        let info = found.get(name).ok_or_else(|| Error::MissingTensor { name: name.clone(), path: path.to_owned() })?;
        let size: Vec<i64> = info.shape.iter().map(|&n| n as i64).collect();
        if size != tensor.size() || info.dtype != Dtype::F32 {
            return Err(Error::format(path, format!("tensor {name} is not of this run")));
        }
        let (from, to) = info.data_offsets;
        tensor.copy_(&Tensor::from_data_size(&bytes[start + from..start + to], &size, Kind::Float));
    }
    let notes = header.metadata().as_ref().and_then(|metadata| metadata.get(NOTES));
    let notes = notes.ok_or_else(|| Error::format(path, "it is no state of a training run"))?;
    serde_json::from_str(notes).map_err(|e| Error::format(path, format!("its notes: {e}")))
}
