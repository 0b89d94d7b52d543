//! Where a canonical parameter lies in a checkpoint, and how it is rearranged:
//! parts of fused matrices, transposed ones, rows in another order. Numbers are
//! moved as bytes and keep their format. `layout.rs` goes the other way.

use crate::checkpoint::{Bytes, Checkpoint, DenseTensor};
use crate::error::{Error, Result};

/// Where a parameter lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// Names in the file: one, or one a row of the parameter.
    pub tensors: Vec<String>,
    /// Whether the file holds a matrix `[in, out]`.
    pub transposed: bool,
    /// Which rows of the tensor are the parameter's.
    pub rows: Rows,
}

/// Rows of a tensor, in the order of the parameter's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rows {
    /// All as they are.
    All,
    /// Runs of `len` rows, the first at `start`, each `stride` behind the last.
    Runs {
        /// Where the first run begins.
        start: usize,
        /// Rows of a run.
        len: usize,
        /// From the beginning of a run to that of the next.
        stride: usize,
        /// Rows of the whole tensor.
        of: usize,
    },
    /// Rows of each head are rotary pairs side by side (2i, 2i + 1); canonical is
    /// half-split (i, i + head_dim/2).
    RotaryPairs {
        /// Rows of a head.
        head_dim: usize,
    },
}

impl Source {
    /// Sizes of each of its tensors, for a parameter of `shape`.
    pub fn stored_shape(&self, shape: &[usize]) -> Vec<usize> {
        let mut stored = shape.to_vec();
        if self.tensors.len() > 1 {
            stored.remove(0);
        }
        if let Rows::Runs { of, .. } = self.rows {
            stored[0] = of;
        }
        if self.transposed {
            stored.reverse();
        }
        stored
    }

    /// The tensor of a parameter, which is checked to have the shape that makes one
    /// of `shape`. Its numbers are not read.
    pub fn open(&self, checkpoint: &Checkpoint, shape: &[usize]) -> Result<Vec<DenseTensor>> {
        let expected = self.stored_shape(shape);
        let open = |name: &String| squeezed(checkpoint.tensor(name)?, &expected).expect_shape(&expected);
        let tensors = self.tensors.iter().map(open).collect::<Result<Vec<_>>>()?;
        let first = tensors[0].float_type;
        match tensors.iter().find(|tensor| tensor.float_type != first) {
            None => Ok(tensors),
            Some(other) => Err(Error::TensorMismatch {
                name: other.name.clone(),
                path: other.path.to_path_buf(),
                expected: format!("{first:?}, as {} is", tensors[0].name),
                found: format!("{:?}", other.float_type),
            }),
        }
    }

    /// From the tensors of [`Source::open`] to the parameter.
    pub fn read(&self, tensors: Vec<DenseTensor>, shape: &[usize]) -> DenseTensor {
        let mut tensor = joined(tensors, shape);
        if self.transposed {
            tensor = tensor.transposed();
        }
        match self.rows {
            Rows::All => tensor,
            Rows::Runs { start, len, .. } if shape[0] <= len => tensor.rows(start..start + shape[0]),
            rows => tensor.gather(shape[0], move |row| rows.at(row)),
        }
    }
}

impl Rows {
    /// The row of the tensor that a row of the parameter is.
    pub fn at(self, row: usize) -> usize {
        match self {
            Rows::All => row,
            Rows::Runs { start, len, stride, .. } => start + row / len * stride + row % len,
            Rows::RotaryPairs { head_dim } => {
                let (head, i, half) = (row / head_dim, row % head_dim, head_dim / 2);
                head * head_dim + i % half * 2 + i / half
            }
        }
    }
}

/// With as many leading dimensions of 1 as the expected shape has (RWKV's mixing
/// vectors are `[1, 1, hidden]`).
fn squeezed(mut tensor: DenseTensor, expected: &[usize]) -> DenseTensor {
    fn core(shape: &[usize]) -> &[usize] {
        &shape[shape.iter().take_while(|&&n| n == 1).count()..]
    }
    if core(&tensor.shape) == core(expected) {
        tensor.shape = expected.to_vec();
    }
    tensor
}

/// One tensor as it is, or the rows of many under each other.
fn joined(mut tensors: Vec<DenseTensor>, shape: &[usize]) -> DenseTensor {
    if tensors.len() == 1 {
        return tensors.remove(0);
    }
    let bytes = tensors.iter().flat_map(|t| t.bytes.iter().copied()).collect();
    DenseTensor { shape: shape.to_vec(), bytes: Bytes::from_vec(bytes), ..tensors.swap_remove(0) }
}
