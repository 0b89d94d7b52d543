//! Writing the native file.

use super::{FIRST_VERSION, Notes, SCHEMES_KEY, SPEC_KEY, StoredScheme, TOKENIZER, VERSION, VERSION_KEY, hashes};
use crate::checkpoint::{Entry, write_tensors};
use crate::error::Result;
use crate::model::{ModelSpec, Parameter};
use crate::quant::{Codebook, Weight, WeightStore};
use safetensors::Dtype;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::path::Path;

/// Writes a whole model.
pub fn write_model(path: &Path, store: &dyn WeightStore, tokenizer: Option<&[u8]>, notes: &Notes) -> Result<()> {
    let weight = |p: Parameter| Ok((p.name.clone(), store.weight(&p.name)?));
    let weights = store.spec().parameters().into_iter().map(weight).collect::<Result<Vec<_>>>()?;
    write(path, store.spec(), &weights, tokenizer, notes)
}

/// Writes a file. `weights` are parameters of `spec` by canonical name: all of
/// them, or some for a part that [`super::NativeFile::open_part`] reads.
pub fn write(path: &Path, spec: &ModelSpec, weights: &[(String, Weight)], tokenizer: Option<&[u8]>, notes: &Notes) -> Result<()> {
    let mut schemes = Map::new();
    let mut entries: Vec<Entry<&[u8]>> = Vec::new();
    let mut shared: BTreeMap<&str, &[u32]> = BTreeMap::new();
    let mut codebooks: BTreeMap<String, &Codebook> = BTreeMap::new();
    for (name, weight) in weights {
        match weight {
            Weight::Dense(tensor) => entries.push(Entry {
                name: format!("{name}.dense"),
                dtype: tensor.float_type.safetensors(),
                shape: tensor.shape.clone(),
                bytes: &tensor.bytes,
            }),
            Weight::Packed(packed) => {
                let t = packed.tiling;
                let grid_shape = vec![t.tiles(), t.groups(), t.tile_rows()];
                let mut plane = |part, dtype, shape, bytes| entries.push(Entry { name: format!("{name}.{part}"), dtype, shape, bytes });
                plane("codes", Dtype::U8, vec![t.code_bytes()], &packed.codes[..]);
                plane("scales", Dtype::F16, grid_shape.clone(), &packed.scales[..]);
                if let Some(zeros) = &packed.zeros {
                    let dtype = if packed.codebook.is_some() { Dtype::F16 } else { Dtype::U8 };
                    plane("zeros", dtype, grid_shape, &zeros[..]);
                }
                if let Some(outliers) = &packed.outliers {
                    plane("outliers", Dtype::F16, vec![t.rows, outliers.width()], &outliers.values[..]);
                }
                if let Some(exponents) = &packed.exponents {
                    plane("exponents", Dtype::I8, vec![t.rows], &exponents[..]);
                }
                shared.extend(packed.shared());
                let stored = StoredScheme::of(name, packed);
                codebooks.extend(stored.codebook.clone().zip(packed.codebook.as_deref()));
                schemes.insert(name.clone(), serde_json::to_value(stored).expect("a scheme is JSON"));
            }
        }
    }
    for (name, places) in shared {
        let bytes = bytemuck::cast_slice(places);
        entries.push(Entry { name: name.to_owned(), dtype: Dtype::U32, shape: vec![places.len()], bytes });
    }
    for (name, codebook) in codebooks {
        let bytes = bytemuck::cast_slice(codebook.values());
        entries.push(Entry { name, dtype: Dtype::F32, shape: vec![codebook.values().len()], bytes });
    }
    if let Some(bytes) = tokenizer {
        entries.push(Entry { name: TOKENIZER.to_owned(), dtype: Dtype::U8, shape: vec![bytes.len()], bytes });
    }
    // Parts whose length is a multiple of more come first, so that every tensor
    // is aligned without gaps, which safetensors forbids.
    entries.sort_by_key(|e| order_of(e));

    let mut metadata = Map::new();
    let has_exponents = |(_, weight): &(String, Weight)| matches!(weight, Weight::Packed(packed) if packed.exponents.is_some());
    let version = if weights.iter().any(has_exponents) || spec.special.prefix.is_some() { VERSION } else { FIRST_VERSION };
    metadata.insert(VERSION_KEY.into(), version.to_string().into());
    metadata.insert(SPEC_KEY.into(), serde_json::to_string(spec).expect("a spec is JSON").into());
    metadata.insert(SCHEMES_KEY.into(), Value::Object(schemes).to_string().into());
    metadata.extend(notes.metadata());
    let hashes = hashes::of_entries(&entries, &metadata);
    metadata.insert(hashes::KEY.into(), hashes.into());
    write_tensors(path, entries, metadata)
}

fn order_of(entry: &Entry<&[u8]>) -> u8 {
    match (entry.name.rsplit('.').next(), entry.dtype) {
        (Some("codes"), _) => 0,
        (Some("scales"), _) => 1,
        (Some("zeros"), _) => 2,
        (_, Dtype::U32 | Dtype::F32) => 3,
        (_, Dtype::F16 | Dtype::BF16) => 4,
        _ => 5,
    }
}
