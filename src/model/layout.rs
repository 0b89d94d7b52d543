//! What a file holds for a spec: the way back from canonical parameters to a
//! family's tensors, as the source's own files have them. Parts of fused tensors
//! are scattered into them, matrices are turned, rotary pairs put side by side.

use super::families::Names;
use super::{ModelSpec, Parameter, Part, Rows};
use crate::checkpoint::{Bytes, DenseTensor};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

/// How files of one model hold parameters. It says so for any spec of the same
/// family, so that a smaller model lies in its file as the larger one did.
#[derive(Clone)]
pub struct FileLayout {
    names: &'static Names,
    /// By role: which of the family's places the files use, and with how many
    /// dimensions (RWKV's mixing vectors are `[1, 1, hidden]`).
    learnt: BTreeMap<String, (usize, usize)>,
}

/// One tensor of a file.
pub struct FileTensor {
    /// Its name there.
    pub name: String,
    /// Sizes, as the file has them.
    pub shape: Vec<usize>,
    /// Whether `shape` is of the transposed matrix.
    transposed: bool,
    /// What lies in it, in the order of the model's parameters.
    pieces: Vec<Piece>,
}

/// Rows of a parameter in a tensor.
struct Piece {
    parameter: String,
    rows: Rows,
    /// The one row of it that the tensor holds, where each has a tensor of its own.
    only: Option<usize>,
}

impl FileLayout {
    /// A family's usual layout.
    pub fn new(names: &'static Names) -> Self {
        Self { names, learnt: BTreeMap::new() }
    }

    /// Notes where a file has a parameter.
    pub(super) fn learn(&mut self, parameter: &Parameter, candidate: usize, dimensions: usize) {
        self.learnt.insert(role(parameter).to_owned(), (candidate, dimensions));
    }

    /// All tensors of a file that holds a model of this spec, in the order of its
    /// parameters.
    pub fn tensors(&self, spec: &ModelSpec) -> Vec<FileTensor> {
        let mut all: Vec<FileTensor> = Vec::new();
        let mut places: BTreeMap<String, usize> = BTreeMap::new();
        for parameter in spec.parameters() {
            let learnt = self.learnt.get(role(&parameter));
            let source = self.names.sources(spec, &parameter).swap_remove(learnt.map_or(0, |(candidate, _)| *candidate));
            let shape = source.stored_shape(&parameter.shape);
            let shape = learnt.map_or(shape.clone(), |(_, dimensions)| with_dimensions(shape, *dimensions));
            let has_tensor_a_row = source.tensors.len() > 1;
            for (row, name) in source.tensors.into_iter().enumerate() {
                let at = *places.entry(name.clone()).or_insert_with(|| {
                    all.push(FileTensor { name, shape: shape.clone(), transposed: source.transposed, pieces: Vec::new() });
                    all.len() - 1
                });
                let only = has_tensor_a_row.then_some(row);
                all[at].pieces.push(Piece { parameter: parameter.name.clone(), rows: source.rows, only });
            }
        }
        all
    }
}

/// What names a parameter in every block.
fn role(parameter: &Parameter) -> &str {
    match parameter.part {
        Part::Block(_) => parameter.role(),
        Part::Start | Part::End => &parameter.name,
    }
}

/// The same sizes with leading ones added, or taken off as far as there are any.
fn with_dimensions(mut shape: Vec<usize>, dimensions: usize) -> Vec<usize> {
    while shape.len() > dimensions && shape[0] == 1 {
        shape.remove(0);
    }
    let missing = dimensions.saturating_sub(shape.len());
    shape.splice(0..0, std::iter::repeat_n(1, missing));
    shape
}

impl FileTensor {
    /// The parameters that lie in it, by canonical name.
    pub fn parameters(&self) -> impl Iterator<Item = &str> {
        self.pieces.iter().map(|piece| piece.parameter.as_str())
    }

    /// The tensor, of its [`parameters`](Self::parameters) in their order, which are of
    /// one number format. Rows that none of them has are zeros (the first two of OPT's
    /// positions). Its bytes are made when they are first touched.
    pub fn filled(&self, parameters: Vec<DenseTensor>) -> DenseTensor {
        assert_eq!(parameters.len(), self.pieces.len(), "parameters of {}", self.name);
        let first = &parameters[0];
        assert!(parameters.iter().all(|p| p.float_type == first.float_type), "number formats in {}", self.name);
        let new = |bytes, shape: &[usize]| DenseTensor {
            name: self.name.clone(),
            path: Arc::<PathBuf>::default(),
            float_type: first.float_type,
            shape: shape.to_vec(),
            bytes,
        };
        let mut turned = self.shape.clone();
        if self.transposed {
            turned.reverse();
        }
        let bytes = match &self.pieces[..] {
            [Piece { rows: Rows::All, only: None, .. }] => first.bytes.clone(),
            [Piece { only: Some(row), .. }] => first.rows(*row..*row + 1).bytes,
            pieces => {
                let len = self.shape.iter().product::<usize>() * first.float_type.size_bytes();
                let row_bytes = first.len() / first.shape[0] * first.float_type.size_bytes();
                let pieces: Vec<_> = pieces.iter().map(|piece| piece.rows).zip(parameters.iter().map(|p| p.bytes.clone())).collect();
                Bytes::made_late(len, move || scattered(len, row_bytes, &pieces))
            }
        };
        let tensor = new(bytes, &turned);
        if self.transposed { tensor.transposed() } else { tensor }
    }
}

/// Rows of parameters at their places in `len` bytes.
fn scattered(len: usize, row_bytes: usize, pieces: &[(Rows, Bytes)]) -> Vec<u8> {
    let mut all = vec![0; len];
    for (rows, bytes) in pieces {
        for (row, numbers) in bytes.chunks_exact(row_bytes).enumerate() {
            all[rows.at(row) * row_bytes..][..row_bytes].copy_from_slice(numbers);
        }
    }
    all
}
