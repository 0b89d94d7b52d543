//! A model's [`parameters`] by canonical name, and the [`families`] that read other people's
//! checkpoints into them and into a [`ModelSpec`].

mod axes;
mod check;
mod dense;
mod describe;
mod error;
pub mod families;
mod kept;
mod layout;
mod leftover;
mod logit_source;
pub mod parameters;
mod scale_migration;
mod selection;
mod size;
mod source;
pub mod student;
mod sub_norms;
mod tying;
mod uneven;
mod unused;

pub use crate::spec::ModelSpec;
pub use axes::Axis;
pub use check::{MAX_BLOCKS, MAX_WIDTH};
pub use dense::{DenseModel, Held};
pub use describe::describe;
pub use error::SpecError;
pub use kept::{Kept, gather};
pub use layout::{FileLayout, FileTensor};
pub use logit_source::{LogitSource, OnLogits, ScoredPosition, Window, expect_finite, rows_at_a_time};
pub use parameters::{Parameter, ParameterKind, Part};
pub use selection::Selection;
pub use source::{Rows, Source};
pub use student::StudentShape;
