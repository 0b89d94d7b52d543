//! llama2.c checkpoints, version 0 (later ones are told apart, and refused): seven little-endian i32 (dim, hidden, layers,
//! heads, kv heads, vocabulary, context; a negative vocabulary says that the
//! classifier is a tensor of its own), then f32 weights in a fixed order.
//!
//! Source: karpathy/llama2.c, `export.py` (`legacy_export`) and `run.c`
//! (`memory_map_weights`).

use super::{Bytes, Checkpoint, DenseTensor, FloatType};
use crate::error::{Error, Result};
use std::path::Path;
use std::sync::Arc;

/// The seven numbers at the start, as sizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Width of the residual stream.
    pub dim: usize,
    /// Width of the feed-forward.
    pub hidden_dim: usize,
    /// Number of blocks.
    pub n_layers: usize,
    /// Query heads.
    pub n_heads: usize,
    /// Key and value heads.
    pub n_kv_heads: usize,
    /// Tokens in the vocabulary.
    pub vocab_size: usize,
    /// Longest sequence.
    pub seq_len: usize,
    /// Whether the embedding is the classifier too.
    pub shared_classifier: bool,
}

const HEADER_BYTES: usize = 28;

/// Whether a file begins as those of versions 1 and 2 do, which are not read (`export.py`,
/// `version1_export`: 0x616b3432).
pub fn is_versioned(bytes: &[u8]) -> bool {
    bytes.starts_with(b"24ka")
}

impl Header {
    /// Reads the header; `None` where the numbers make no sense, that is, where
    /// this is no such file.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let field = |i: usize| Some(i32::from_le_bytes(bytes.get(4 * i..4 * i + 4)?.try_into().unwrap()));
        let size = |i: usize| field(i).filter(|&v| 0 < v && v < 1 << 24).map(|v| v as usize);
        let header = Self {
            dim: size(0)?,
            hidden_dim: size(1)?,
            n_layers: size(2).filter(|&n| n < 1 << 12)?,
            n_heads: size(3)?,
            n_kv_heads: size(4)?,
            vocab_size: field(5)?.unsigned_abs() as usize,
            seq_len: size(6)?,
            shared_classifier: field(5)? > 0,
        };
        let divides = header.dim.is_multiple_of(header.n_heads)
            && header.n_heads.is_multiple_of(header.n_kv_heads)
            && (1..1 << 24).contains(&header.vocab_size);
        divides.then_some(header)
    }

    /// Names and shapes in the file's order. `rope.cos` and `rope.sin` are tables
    /// that follow from the rest.
    fn layout(&self) -> Vec<(String, Vec<usize>)> {
        let head_dim = self.dim / self.n_heads;
        let kv_dim = self.n_kv_heads * head_dim;
        let mut layout = vec![("tok_embeddings".to_owned(), vec![self.vocab_size, self.dim])];
        let per_layer: [(&str, Vec<usize>); 9] = [
            ("attention_norm", vec![self.dim]),
            ("wq", vec![self.dim, self.dim]),
            ("wk", vec![kv_dim, self.dim]),
            ("wv", vec![kv_dim, self.dim]),
            ("wo", vec![self.dim, self.dim]),
            ("ffn_norm", vec![self.dim]),
            ("w1", vec![self.hidden_dim, self.dim]),
            ("w2", vec![self.dim, self.hidden_dim]),
            ("w3", vec![self.hidden_dim, self.dim]),
        ];
        for (name, shape) in per_layer {
            layout.extend((0..self.n_layers).map(|i| (format!("layers.{i}.{name}"), shape.clone())));
        }
        layout.push(("norm".to_owned(), vec![self.dim]));
        layout.push(("rope.cos".to_owned(), vec![self.seq_len, head_dim / 2]));
        layout.push(("rope.sin".to_owned(), vec![self.seq_len, head_dim / 2]));
        if !self.shared_classifier {
            layout.push(("output".to_owned(), vec![self.vocab_size, self.dim]));
        }
        layout
    }

    /// Length of the whole file; `None` where it cannot be counted.
    fn file_bytes(&self) -> Option<usize> {
        let sizes = self.layout();
        let numbers =
            sizes.iter().try_fold(0usize, |sum, (_, shape)| sum.checked_add(shape.iter().try_fold(1usize, |p, &n| p.checked_mul(n))?))?;
        numbers.checked_mul(4)?.checked_add(HEADER_BYTES)
    }
}

/// Opens a `.bin`. Names are those of Meta's and llama2.c's own modules
/// (`layers.0.wq`).
pub fn open(path: &Path) -> Result<(Header, Checkpoint)> {
    let bytes = Bytes::map(path)?;
    let header =
        Header::read(&bytes).ok_or_else(|| Error::format(path, "not a llama2.c checkpoint of version 0: its header makes no sense"))?;
    if header.file_bytes() != Some(bytes.len()) {
        let expected = header.file_bytes().map_or("more bytes than there can be".to_owned(), |n| format!("{n} bytes"));
        let reason = format!("truncated, or no llama2.c checkpoint of version 0: its header asks for {expected}, found {}", bytes.len());
        return Err(Error::truncated(path, reason));
    }
    let mut checkpoint = Checkpoint::new(path);
    let owner = Arc::new(path.to_owned());
    let mut offset = HEADER_BYTES;
    for (name, shape) in header.layout() {
        let end = offset + 4 * shape.iter().product::<usize>();
        checkpoint.insert(DenseTensor { name, path: owner.clone(), float_type: FloatType::F32, shape, bytes: bytes.slice(offset..end) })?;
        offset = end;
    }
    Ok((header, checkpoint))
}
