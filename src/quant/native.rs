//! The native file, `model.thimble`: a safetensors file whose header is padded
//! so that the data begins at a multiple of 64, with all codes first (each a
//! multiple of 64 bytes), then scales, zero points or offsets, places of columns,
//! books, dense tensors and the tokenizer. What is not a tensor is JSON in the header's
//! metadata.
//!
//! | tensor | dtype, shape | content |
//! |---|---|---|
//! | `W.codes` | u8 `[bytes]` | see [`super::formats::tiled`] |
//! | `W.scales` | f16 `[tiles, groups, tile_rows]` | |
//! | `W.zeros` | u8, or f16 where there is a book, of the same shape | zero points, or what is added to `scale · book[code]`; absent where the scheme is symmetric |
//! | a name of its own | f32 `[2^bits]` | a book, ascending: the numbers that codes stand for; up to 16 of them whole and within ±127 |
//! | a name of its own | u32 `[in]` | an order of columns |
//! | `W.outliers` | f16 `[out, k]` | columns that are kept in 16 bits; the codes below them stand for nothing |
//! | a name of its own | u32 `[k]` | which columns those are, ascending |
//! | `W.dense` | f32, f16 or bf16 | a weight that is not quantised |
//!
//! Permutations, lists of columns and books are named by the schemes of all weights that share them
//! (`book.nf4`); a book that is a weight's own is `W.book`. A book says all that there
//! is to know about a data type: its name in the scheme is for people.
//!
//! One file is all that a device needs.

use super::formats::tiled::{Layout, PackedTensor, Tiling};
use super::{Book, Columns, PackedOutliers, Permutation, Scheme, Weight, WeightStore};
use crate::checkpoint::safetensors::read_header;
use crate::checkpoint::{Bytes, DenseTensor, Entry, FloatType, write_tensors};
use crate::error::{Error, Result};
use crate::model::{ModelSpec, Parameter};
use half::f16;
use safetensors::Dtype;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Name of the file in an output folder.
pub const FILE_NAME: &str = "model.thimble";
/// The version this reads and writes.
pub const VERSION: u64 = 1;

const VERSION_KEY: &str = "thimble.version";
const SPEC_KEY: &str = "thimble.spec";
const SCHEMES_KEY: &str = "thimble.schemes";
const TOKENIZER: &str = "tokenizer";

/// How one quantised weight is stored: an entry of `thimble.schemes`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoredScheme {
    /// Codes, group size, symmetry.
    #[serde(flatten)]
    pub scheme: Scheme,
    /// Gathering of rows.
    pub layout: Layout,
    /// `[out, in]`
    pub shape: [usize; 2],
    /// Name of the permutation's tensor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub perm: Option<String>,
    /// Name of the book's tensor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub book: Option<String>,
    /// Name of the tensor u32 `[k]` that says which columns are kept in 16 bits; they
    /// lie in `….outliers`, f16 `[out, k]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outlier_columns: Option<String>,
}

/// What the file says besides its tensors.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Notes {
    /// The resolved recipe.
    pub recipe: Value,
    /// What was measured.
    pub quality: Value,
    /// The chat template, where the model has one.
    pub chat_template: Value,
    /// What it was made from, and by what.
    pub provenance: Value,
}

/// What made a file: the note that files of other formats have too.
pub const PROVENANCE: &str = "thimble.provenance";
const RECIPE: &str = "thimble.recipe";
const QUALITY: &str = "thimble.quality";
const CHAT_TEMPLATE: &str = "thimble.chat_template";

impl Notes {
    /// Those that there are, as a file's metadata has them.
    pub fn metadata(&self) -> impl Iterator<Item = (String, Value)> {
        let fields =
            [(RECIPE, &self.recipe), (QUALITY, &self.quality), (CHAT_TEMPLATE, &self.chat_template), (PROVENANCE, &self.provenance)];
        fields.into_iter().filter(|(_, value)| !value.is_null()).map(|(key, value)| (key.to_owned(), value.to_string().into()))
    }
}

/// Writes a whole model.
pub fn write_model(path: &Path, store: &dyn WeightStore, tokenizer: Option<&[u8]>, notes: &Notes) -> Result<()> {
    let weight = |p: Parameter| Ok((p.name.clone(), store.weight(&p.name)?));
    let weights = store.spec().parameters().into_iter().map(weight).collect::<Result<Vec<_>>>()?;
    write(path, store.spec(), &weights, tokenizer, notes)
}

/// Writes a file. `weights` are parameters of `spec` by canonical name: all of
/// them, or some for a part that [`NativeFile::open_part`] reads.
pub fn write(path: &Path, spec: &ModelSpec, weights: &[(String, Weight)], tokenizer: Option<&[u8]>, notes: &Notes) -> Result<()> {
    let mut schemes = Map::new();
    let mut entries: Vec<Entry<&[u8]>> = Vec::new();
    let mut shared: BTreeMap<&str, &[u32]> = BTreeMap::new();
    let mut books: BTreeMap<String, &Book> = BTreeMap::new();
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
                    let dtype = if packed.book.is_some() { Dtype::F16 } else { Dtype::U8 };
                    plane("zeros", dtype, grid_shape, &zeros[..]);
                }
                if let Some(outliers) = &packed.outliers {
                    plane("outliers", Dtype::F16, vec![t.rows, outliers.width()], &outliers.values[..]);
                }
                let book = packed.book.as_ref().map(|book| (book.name.clone().unwrap_or_else(|| own_book(name)), &**book));
                shared.extend(packed.shared());
                let stored = StoredScheme {
                    scheme: t.scheme,
                    layout: t.layout,
                    shape: [t.rows, t.columns],
                    perm: packed.permutation.as_ref().map(|p| p.name.clone()),
                    book: book.as_ref().map(|(name, _)| name.clone()),
                    outlier_columns: packed.outliers.as_ref().map(|o| o.columns.name.clone()),
                };
                books.extend(book);
                schemes.insert(name.clone(), serde_json::to_value(stored).expect("a scheme is JSON"));
            }
        }
    }
    for (name, places) in shared {
        let bytes = bytemuck::cast_slice(places);
        entries.push(Entry { name: name.to_owned(), dtype: Dtype::U32, shape: vec![places.len()], bytes });
    }
    for (name, book) in books {
        let bytes = bytemuck::cast_slice(book.values());
        entries.push(Entry { name, dtype: Dtype::F32, shape: vec![book.values().len()], bytes });
    }
    if let Some(bytes) = tokenizer {
        entries.push(Entry { name: TOKENIZER.to_owned(), dtype: Dtype::U8, shape: vec![bytes.len()], bytes });
    }
    // Parts whose length is a multiple of more come first, so that every tensor
    // is aligned without gaps, which safetensors forbids.
    entries.sort_by_key(|e| order_of(e));

    let mut metadata = Map::new();
    metadata.insert(VERSION_KEY.into(), VERSION.to_string().into());
    metadata.insert(SPEC_KEY.into(), serde_json::to_string(spec).expect("a spec is JSON").into());
    metadata.insert(SCHEMES_KEY.into(), Value::Object(schemes).to_string().into());
    metadata.extend(notes.metadata());
    write_tensors(path, entries, metadata)
}

/// Name of the book that is a weight's own.
fn own_book(weight: &str) -> String {
    format!("{weight}.book")
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

/// An opened file; weights are views of its map.
pub struct NativeFile {
    path: Arc<PathBuf>,
    spec: ModelSpec,
    notes: Notes,
    weights: BTreeMap<String, Weight>,
    schemes: BTreeMap<String, StoredScheme>,
    tokenizer: Option<Bytes>,
    size_bytes: u64,
}

impl NativeFile {
    /// Whether bytes look like such a file (its header, not its version).
    pub fn recognises(bytes: &[u8]) -> bool {
        let Some(length) = bytes.get(..8).map(|b| u64::from_le_bytes(b.try_into().unwrap())) else { return false };
        let header = bytes.get(8..).map(|rest| &rest[..rest.len().min(usize::try_from(length).unwrap_or(usize::MAX))]);
        header.is_some_and(|h| h.first() == Some(&b'{') && h.windows(VERSION_KEY.len()).any(|w| w == VERSION_KEY.as_bytes()))
    }

    /// Maps and checks a file.
    pub fn open(path: &Path) -> Result<Self> {
        Self::from_bytes(Bytes::map(path)?, path)
    }

    /// The same over bytes from anywhere; `path` is for messages.
    pub fn from_bytes(bytes: Bytes, path: &Path) -> Result<Self> {
        Self::read(bytes, path, |_| true)
    }

    /// Reads the parameters that are `wanted`.
    fn read(bytes: Bytes, path: &Path, wanted: impl Fn(&Parameter) -> bool) -> Result<Self> {
        let (start, header) = read_header(&bytes, path)?;
        let empty = Default::default();
        let metadata = header.metadata().as_ref().unwrap_or(&empty);
        let version: u64 = parse(path, metadata, VERSION_KEY)?;
        if version > VERSION {
            let reason = format!("format version {version}: this build reads up to {VERSION}; a newer thimble is needed");
            return Err(Error::format(path, reason));
        }
        let spec: ModelSpec = parse(path, metadata, SPEC_KEY)?;
        spec.check().map_err(|reason| Error::format(path, format!("{SPEC_KEY}: {reason}")))?;
        let schemes: BTreeMap<String, StoredScheme> = parse(path, metadata, SCHEMES_KEY)?;
        let note = |key| metadata.get(key).and_then(|text| serde_json::from_str(text).ok()).unwrap_or(Value::Null);
        let mut file = Self {
            path: Arc::new(path.to_owned()),
            notes: Notes { recipe: note(RECIPE), quality: note(QUALITY), chat_template: note(CHAT_TEMPLATE), provenance: note(PROVENANCE) },
            weights: BTreeMap::new(),
            tokenizer: None,
            size_bytes: bytes.len() as u64,
            schemes,
            spec,
        };
        let planes = Planes { path: file.path.clone(), bytes: &bytes, start, tensors: header.tensors() };
        file.tokenizer = planes.optional(TOKENIZER).map(|(_, bytes)| bytes);
        let mut shared = Shared::default();
        for parameter in file.spec.parameters().into_iter().filter(|p| wanted(p)) {
            let weight = match file.schemes.get(&parameter.name) {
                None => Weight::Dense(planes.dense(&parameter.name)?.expect_shape(&parameter.shape)?),
                Some(stored) if stored.shape[..] == parameter.shape => {
                    // Products read tiles; rows by themselves are for look-ups alone.
                    if stored.layout == Layout::Rows && !file.spec.is_looked_up(&parameter) {
                        return Err(planes.mismatch(&parameter.name, "layout tiles".into(), "layout rows".into()));
                    }
                    Weight::Packed(planes.packed(&parameter.name, stored, &mut shared)?)
                }
                Some(stored) => {
                    return Err(planes.mismatch(&parameter.name, format!("shape {:?}", parameter.shape), format!("{:?}", stored.shape)));
                }
            };
            file.weights.insert(parameter.name, weight);
        }
        Ok(file)
    }

    /// Opens a file that holds only the parameters that are `wanted`: a part of a
    /// model in the making.
    pub fn open_part(path: &Path, wanted: impl Fn(&Parameter) -> bool) -> Result<Self> {
        Self::read(Bytes::map(path)?, path, wanted)
    }

    /// The weights it holds, by canonical name.
    pub fn into_weights(self) -> impl Iterator<Item = (String, Weight)> {
        self.weights.into_iter()
    }

    /// Recipe, quality and provenance.
    pub fn notes(&self) -> &Notes {
        &self.notes
    }

    /// How each quantised weight is stored.
    pub fn schemes(&self) -> &BTreeMap<String, StoredScheme> {
        &self.schemes
    }

    /// The bytes of its tokenizer's file.
    pub fn tokenizer(&self) -> Option<&[u8]> {
        self.tokenizer.as_deref()
    }

    /// Size of the file.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }
}

impl WeightStore for NativeFile {
    fn spec(&self) -> &ModelSpec {
        &self.spec
    }
    fn weight(&self, name: &str) -> Result<Weight> {
        Ok(self.weights[name].clone())
    }
    fn files(&self) -> Vec<Arc<PathBuf>> {
        vec![self.path.clone()]
    }
}

fn parse<T: serde::de::DeserializeOwned>(path: &Path, metadata: &std::collections::HashMap<String, String>, key: &str) -> Result<T> {
    let text = metadata.get(key).ok_or_else(|| Error::format(path, format!("no {key} in its metadata: not a thimble file")))?;
    serde_json::from_str(text).map_err(|e| Error::format(path, format!("{key}: {e}")))
}

/// What weights share, by the name of its tensor.
#[derive(Default)]
struct Shared {
    permutations: BTreeMap<String, Arc<Permutation>>,
    books: BTreeMap<String, Arc<Book>>,
    outlier_columns: BTreeMap<String, Arc<Columns>>,
}

/// The tensors of a header, with checks.
struct Planes<'a> {
    path: Arc<PathBuf>,
    bytes: &'a Bytes,
    start: usize,
    tensors: std::collections::HashMap<String, &'a safetensors::tensor::TensorInfo>,
}

impl Planes<'_> {
    fn optional(&self, name: &str) -> Option<(&safetensors::tensor::TensorInfo, Bytes)> {
        let info = self.tensors.get(name)?;
        let (from, to) = info.data_offsets;
        Some((info, self.bytes.slice(self.start + from..self.start + to)))
    }

    fn mismatch(&self, name: &str, expected: String, found: String) -> Error {
        Error::TensorMismatch { name: name.to_owned(), path: self.path.to_path_buf(), expected, found }
    }

    fn missing(&self, name: &str) -> Error {
        Error::MissingTensor { name: name.to_owned(), path: self.path.to_path_buf() }
    }

    /// A plane of a known type and number of elements.
    fn plane(&self, name: &str, dtype: Dtype, elements: usize) -> Result<Bytes> {
        let (info, bytes) = self.optional(name).ok_or_else(|| self.missing(name))?;
        if info.dtype != dtype || info.shape.iter().product::<usize>() != elements {
            return Err(self.mismatch(name, format!("{elements} × {dtype}"), format!("{:?} × {}", info.shape, info.dtype)));
        }
        Ok(bytes)
    }

    fn dense(&self, name: &str) -> Result<DenseTensor> {
        let name = format!("{name}.dense");
        let (info, bytes) = self.optional(&name).ok_or_else(|| self.missing(&name))?;
        let float_type = FloatType::from_safetensors(info.dtype)
            .ok_or_else(|| self.mismatch(&name, "f32, f16 or bf16".into(), info.dtype.to_string()))?;
        DenseTensor { name, path: self.path.clone(), float_type, shape: info.shape.clone(), bytes }.expect_finite()
    }

    /// A plane of f16, all finite.
    fn numbers(&self, name: String, elements: usize) -> Result<Bytes> {
        let plane = self.plane(&name, Dtype::F16, elements)?;
        let mut broken = plane.chunks_exact(2).enumerate().filter(|(_, b)| !f16::from_le_bytes([b[0], b[1]]).is_finite());
        match broken.next() {
            None => Ok(plane),
            Some((first, _)) => Err(Error::NonFinite { name, path: self.path.to_path_buf(), count: 1 + broken.count(), first }),
        }
    }

    fn packed(&self, name: &str, stored: &StoredScheme, shared: &mut Shared) -> Result<PackedTensor> {
        let [rows, columns] = stored.shape;
        let group = stored.scheme.group_size;
        if !group.is_multiple_of(super::scheme::GROUP_MULTIPLE) {
            return Err(self.mismatch(name, "a group size that is a multiple of 32, or 0".into(), group.to_string()));
        }
        let tiling = Tiling { scheme: stored.scheme, layout: stored.layout, rows, columns };
        let book = self.book(name, stored, &mut shared.books)?;
        let codes = self.plane(&format!("{name}.codes"), Dtype::U8, tiling.code_bytes())?;
        let scales = self.numbers(format!("{name}.scales"), tiling.grids())?;
        let zeros = match (stored.scheme.symmetric, stored.scheme.code.has_book()) {
            (true, _) => None,
            (false, true) => Some(self.numbers(format!("{name}.zeros"), tiling.grids())?),
            (false, false) => Some(self.plane(&format!("{name}.zeros"), Dtype::U8, tiling.grids())?),
        };
        let permutations = &mut shared.permutations;
        let permutation = match &stored.perm {
            None => None,
            Some(name) => {
                if !permutations.contains_key(name) {
                    permutations.insert(name.clone(), Arc::new(self.permutation(name, columns)?));
                }
                Some(permutations[name].clone())
            }
        };
        if let Some(other) = permutation.as_ref().filter(|p| p.order.len() != columns) {
            return Err(self.mismatch(name, format!("an order of {columns} columns"), format!("{} of {}", other.name, other.order.len())));
        }
        let outliers = self.outliers(name, stored, &mut shared.outlier_columns)?;
        Ok(PackedTensor { tiling, codes, scales, zeros, book, permutation, outliers })
    }

    /// The book of a weight whose codes are places in one, as long as codes reach.
    fn book(&self, weight: &str, stored: &StoredScheme, books: &mut BTreeMap<String, Arc<Book>>) -> Result<Option<Arc<Book>>> {
        let code = stored.scheme.code;
        let name = match &stored.book {
            None if !code.has_book() => return Ok(None),
            Some(name) if code.has_book() => name,
            other => {
                let expected = format!("{} book for its codes", if code.has_book() { "a" } else { "no" });
                return Err(self.mismatch(weight, expected, format!("{other:?}")));
            }
        };
        // Looked at anew for each width: the plane says how many numbers it has.
        let bytes = self.plane(name, Dtype::F32, 1 << code.bits())?;
        if let Some(book) = books.get(name) {
            return Ok(Some(book.clone()));
        }
        let values = bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
        let own = *name == own_book(weight);
        let book = Book::new((!own).then(|| name.clone()), values);
        let book = Arc::new(book.map_err(|found| self.mismatch(name, Book::EXPECTED.into(), found))?);
        if !own {
            books.insert(name.clone(), book.clone());
        }
        Ok(Some(book))
    }

    /// What is kept in 16 bits. Codes under it are not looked at: they meet activations
    /// of zero.
    fn outliers(&self, name: &str, stored: &StoredScheme, read: &mut BTreeMap<String, Arc<Columns>>) -> Result<Option<PackedOutliers>> {
        let Some(columns_name) = &stored.outlier_columns else { return Ok(None) };
        let [rows, width] = stored.shape;
        if !read.contains_key(columns_name) {
            let (info, bytes) = self.optional(columns_name).ok_or_else(|| self.missing(columns_name))?;
            if info.dtype != Dtype::U32 || info.shape.len() != 1 {
                return Err(self.mismatch(columns_name, "a list of U32".into(), format!("{:?} × {}", info.shape, info.dtype)));
            }
            let places = bytes.as_chunks().0.iter().map(|b| u32::from_le_bytes(*b)).collect();
            read.insert(columns_name.clone(), Arc::new(Columns { name: columns_name.clone(), places }));
        }
        let columns = read[columns_name].clone();
        // For each weight: one that is narrower may name the columns of another.
        let wrong = |found| self.mismatch(name, format!("ascending columns below {width} in {columns_name}"), found);
        columns.check(width).map_err(wrong)?;
        let values = self.numbers(format!("{name}.outliers"), rows * columns.places.len())?;
        Ok(Some(PackedOutliers { columns, values }))
    }

    fn permutation(&self, name: &str, columns: usize) -> Result<Permutation> {
        let bytes = self.plane(name, Dtype::U32, columns)?;
        let order: Vec<u32> = bytes.chunks_exact(4).map(|b| u32::from_le_bytes(b.try_into().unwrap())).collect();
        let mut seen = vec![false; columns];
        for &column in &order {
            match seen.get_mut(column as usize) {
                Some(seen @ false) => *seen = true,
                _ => return Err(self.mismatch(name, format!("each of 0 … {} once", columns - 1), format!("{column} again or outside"))),
            }
        }
        Ok(Permutation { name: name.to_owned(), order })
    }
}
