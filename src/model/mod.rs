//! What a model is: [`spec`] as data, [`parameters`] by canonical name, and the
//! [`families`] that read other people's checkpoints into both.

mod axes;
mod check;
mod dense;
mod describe;
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
pub mod spec;
pub mod student;
mod sub_norms;
mod tying;
mod uneven;
mod unused;

pub use axes::{Axis, Inner};
pub use check::{MAX_BLOCKS, MAX_WIDTH};
pub use dense::{DenseModel, Held};
pub use describe::describe;
pub use kept::{Kept, gather};
pub use layout::{FileLayout, FileTensor};
pub use logit_source::{LogitSource, OnLogits, ScoredPosition, Window, expect_finite, rows_at_a_time};
pub use parameters::{InputGroup, Linear, Parameter, ParameterKind, Part, inputs, roles};
pub use scale_migration::{Producer, ScaleMigration};
pub use selection::Selection;
pub use source::{Rows, Source};
pub use spec::ModelSpec;
pub use student::StudentShape;
