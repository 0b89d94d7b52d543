//! Writing the native file.

use super::{FIRST_VERSION, Notes, SCHEMES_KEY, SPEC_KEY, StoredScheme, TOKENIZER, VERSION, VERSION_KEY, hashes};
use crate::checkpoint::{Bytes, Entry, write_tensors};
use crate::error::Result;
use crate::model::ModelSpec;
use crate::quant::{PackedTensor, Weight, WeightStore};
use safetensors::Dtype;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::path::Path;

/// Writes a whole model. Weights that a store makes when they are touched are made twice, to be
/// hashed and to be written, and not held meanwhile: memory follows the largest of them.
pub fn write_model(path: &Path, store: &dyn WeightStore, tokenizer: Option<&[u8]>, notes: &Notes) -> Result<()> {
    let names = || store.spec().parameters().into_iter().map(|parameter| parameter.name);
    let weight = |name: String| Ok((name.clone(), store.weight(&name)?));
    let mut hashes = BTreeMap::new();
    for name in names() {
        let content = Content::of([weight(name)?]);
        hashes.extend(content.entries.iter().map(hash));
    }
    let content = Content::of(names().map(weight).collect::<Result<Vec<_>>>()?);
    content.write(path, store.spec(), tokenizer, notes, hashes)
}

/// Writes a file. `weights` are parameters of `spec` by canonical name: all of
/// them, or some for a part that [`super::NativeFile::open_part`] reads.
pub fn write(path: &Path, spec: &ModelSpec, weights: &[(String, Weight)], tokenizer: Option<&[u8]>, notes: &Notes) -> Result<()> {
    let content = Content::of(weights.iter().cloned());
    let hashes = content.entries.iter().map(hash).collect();
    content.write(path, spec, tokenizer, notes, hashes)
}

/// Name and hash of a tensor.
fn hash(entry: &Entry<Bytes>) -> (String, String) {
    (entry.name.clone(), hashes::of_bytes(&entry.bytes))
}

/// Tensors that weights share: orders of columns by name, then codebooks by name.
type Shared = BTreeMap<(bool, String), Entry<Bytes>>;

/// Tensors of a file, and what its metadata say of them.
struct Content {
    entries: Vec<Entry<Bytes>>,
    schemes: Map<String, Value>,
    has_exponents: bool,
}

impl Content {
    fn of(weights: impl IntoIterator<Item = (String, Weight)>) -> Self {
        let mut content = Self { entries: Vec::new(), schemes: Map::new(), has_exponents: false };
        let mut shared = Shared::new();
        for (name, weight) in weights {
            match weight {
                Weight::Dense(tensor) => content.entries.push(Entry {
                    name: format!("{name}.dense"),
                    dtype: tensor.float_type.safetensors(),
                    shape: tensor.shape,
                    bytes: tensor.bytes,
                }),
                Weight::Packed(packed) => content.add_packed(&name, &packed, &mut shared),
            }
        }
        content.entries.extend(shared.into_values());
        content
    }

    fn add_packed(&mut self, name: &str, packed: &PackedTensor, shared: &mut Shared) {
        let t = packed.tiling;
        let grid_shape = vec![t.tiles(), t.groups(), t.tile_rows()];
        let mut plane = |part, dtype, shape, bytes: &Bytes| {
            self.entries.push(Entry { name: format!("{name}.{part}"), dtype, shape, bytes: bytes.clone() });
        };
        plane("codes", Dtype::U8, vec![t.code_bytes()], &packed.codes);
        plane("scales", Dtype::F16, grid_shape.clone(), &packed.scales);
        if let Some(zeros) = &packed.zeros {
            let dtype = if packed.codebook.is_some() { Dtype::F16 } else { Dtype::U8 };
            plane("zeros", dtype, grid_shape, zeros);
        }
        if let Some(outliers) = &packed.outliers {
            plane("outliers", Dtype::F16, vec![t.rows, outliers.width()], &outliers.values);
        }
        if let Some(exponents) = &packed.exponents {
            plane("exponents", Dtype::I8, vec![t.rows], exponents);
        }
        self.has_exponents |= packed.exponents.is_some();
        let stored = StoredScheme::of(name, packed);
        let mut share = |name: &str, dtype, bytes: &[u8]| {
            let entry = || {
                let bytes = Bytes::from_vec(bytes.to_vec());
                Entry { name: name.to_owned(), dtype, shape: vec![bytes.len() / size_of::<u32>()], bytes }
            };
            shared.entry((dtype == Dtype::F32, name.to_owned())).or_insert_with(entry);
        };
        packed.shared().for_each(|(name, places)| share(name, Dtype::U32, bytemuck::cast_slice(places)));
        if let Some((name, codebook)) = stored.codebook.as_ref().zip(packed.codebook.as_deref()) {
            share(name, Dtype::F32, bytemuck::cast_slice(codebook.values()));
        }
        self.schemes.insert(name.to_owned(), serde_json::to_value(stored).expect("a scheme is JSON"));
    }

    /// `hashes` are those of the entries, by name.
    fn write(
        mut self,
        path: &Path,
        spec: &ModelSpec,
        tokenizer: Option<&[u8]>,
        notes: &Notes,
        mut hashes: BTreeMap<String, String>,
    ) -> Result<()> {
        if let Some(bytes) = tokenizer {
            let bytes = Bytes::from_vec(bytes.to_vec());
            self.entries.push(Entry { name: TOKENIZER.to_owned(), dtype: Dtype::U8, shape: vec![bytes.len()], bytes });
            hashes.extend(self.entries.last().map(hash));
        }
        // Parts whose length is a multiple of more come first, so that every tensor
        // is aligned without gaps, which safetensors forbids.
        self.entries.sort_by_key(order_of);

        let mut metadata = Map::new();
        let version = if self.has_exponents || spec.special.prefix.is_some() { VERSION } else { FIRST_VERSION };
        metadata.insert(VERSION_KEY.into(), version.to_string().into());
        metadata.insert(SPEC_KEY.into(), serde_json::to_string(spec).expect("a spec is JSON").into());
        metadata.insert(SCHEMES_KEY.into(), Value::Object(self.schemes).to_string().into());
        metadata.extend(notes.metadata());
        let hashes = hashes::of_entries(&self.entries, &hashes, &metadata);
        metadata.insert(hashes::KEY.into(), hashes.into());
        write_tensors(path, self.entries, metadata)
    }
}

fn order_of(entry: &Entry<Bytes>) -> u8 {
    match (entry.name.rsplit('.').next(), entry.dtype) {
        (Some("codes"), _) => 0,
        (Some("scales"), _) => 1,
        (Some("zeros"), _) => 2,
        (_, Dtype::U32 | Dtype::F32) => 3,
        (_, Dtype::F16 | Dtype::BF16) => 4,
        _ => 5,
    }
}
