//! Linear algebra that methods share, so that no method calls another.

pub mod cholesky;
pub mod columns;
pub mod least_squares;
pub mod mask;
pub mod optimal_brain;
pub mod relative_error;
