//! Linear algebra that methods share, so that no method calls another.

pub mod cholesky;
pub mod least_squares;
pub mod optimal_brain;
