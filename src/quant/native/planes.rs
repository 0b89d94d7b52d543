//! The planes of a weight in the native file, each checked against what its scheme says.

use super::{StoredScheme, own_codebook};
use crate::checkpoint::{Bytes, DenseTensor, FloatType};
use crate::error::{Error, Result};
use crate::quant::exponents::LEAST_EXPONENT;
use crate::quant::formats::tiled::{PackedTensor, Tiling};
use crate::quant::scheme::GROUP_MULTIPLE;
use crate::quant::{Codebook, Columns, PackedOutliers, Permutation};
use half::f16;
use safetensors::Dtype;
use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;

/// What weights share, by the name of its tensor.
#[derive(Default)]
pub(super) struct Shared {
    permutations: BTreeMap<String, Arc<Permutation>>,
    codebooks: BTreeMap<String, Arc<Codebook>>,
    outlier_columns: BTreeMap<String, Arc<Columns>>,
}

/// The tensors of a header, with checks.
pub(super) struct Planes<'a> {
    pub path: Arc<PathBuf>,
    pub bytes: &'a Bytes,
    pub start: usize,
    pub tensors: HashMap<String, &'a safetensors::tensor::TensorInfo>,
}

impl Planes<'_> {
    pub fn optional(&self, name: &str) -> Option<(&safetensors::tensor::TensorInfo, Bytes)> {
        let info = self.tensors.get(name)?;
        let (from, to) = info.data_offsets;
        Some((info, self.bytes.slice(self.start + from..self.start + to)))
    }

    pub fn mismatch(&self, name: &str, expected: String, found: String) -> Error {
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

    pub fn dense(&self, name: &str) -> Result<DenseTensor> {
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

    /// Exponents of rows, each of a power that is a normal f32.
    fn exponents(&self, name: String, rows: usize) -> Result<Bytes> {
        let plane = self.plane(&name, Dtype::I8, rows)?;
        match plane.iter().find(|&&exponent| (exponent as i8) < LEAST_EXPONENT) {
            None => Ok(plane),
            Some(&exponent) => Err(self.mismatch(&name, format!("exponents from {LEAST_EXPONENT}"), (exponent as i8).to_string())),
        }
    }

    pub fn packed(&self, name: &str, stored: &StoredScheme, shared: &mut Shared) -> Result<PackedTensor> {
        let [rows, columns] = stored.shape;
        let group = stored.scheme.group_size;
        if !group.is_multiple_of(GROUP_MULTIPLE) {
            return Err(self.mismatch(name, "a group size that is a multiple of 32, or 0".into(), group.to_string()));
        }
        let tiling = Tiling { scheme: stored.scheme, layout: stored.layout, rows, columns };
        let codebook = self.codebook(name, stored, &mut shared.codebooks)?;
        let codes = self.plane(&format!("{name}.codes"), Dtype::U8, tiling.code_bytes())?;
        let scales = self.numbers(format!("{name}.scales"), tiling.scale_count())?;
        let zeros = match (stored.scheme.symmetric, stored.scheme.code.has_codebook()) {
            (true, _) => None,
            (false, true) => Some(self.numbers(format!("{name}.zeros"), tiling.scale_count())?),
            (false, false) => Some(self.plane(&format!("{name}.zeros"), Dtype::U8, tiling.scale_count())?),
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
        let exponents = stored.exponents.then(|| self.exponents(format!("{name}.exponents"), rows)).transpose()?;
        Ok(PackedTensor { tiling, codes, scales, zeros, codebook, permutation, outliers, exponents })
    }

    /// The codebook of a weight whose codes are indices, with an entry for each code.
    fn codebook(
        &self,
        weight: &str,
        stored: &StoredScheme,
        codebooks: &mut BTreeMap<String, Arc<Codebook>>,
    ) -> Result<Option<Arc<Codebook>>> {
        let code = stored.scheme.code;
        let name = match &stored.codebook {
            None if !code.has_codebook() => return Ok(None),
            Some(name) if code.has_codebook() => name,
            other => {
                let expected = format!("{} codebook for its codes", if code.has_codebook() { "a" } else { "no" });
                return Err(self.mismatch(weight, expected, format!("{other:?}")));
            }
        };
        // Looked at anew for each width: the plane says how many numbers it has.
        let bytes = self.plane(name, Dtype::F32, 1 << code.bits())?;
        if let Some(codebook) = codebooks.get(name) {
            return Ok(Some(codebook.clone()));
        }
        let values = bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
        let own = *name == own_codebook(weight);
        let codebook = Codebook::new((!own).then(|| name.clone()), values);
        let codebook = Arc::new(codebook.map_err(|found| self.mismatch(name, Codebook::EXPECTED.into(), found))?);
        if !own {
            codebooks.insert(name.clone(), codebook.clone());
        }
        Ok(Some(codebook))
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
