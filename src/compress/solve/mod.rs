//! Linear algebra that methods share, so that no method calls another.

pub mod cholesky;
pub mod columns;
pub mod least_squares;
pub mod mask;
pub mod optimal_brain;
pub mod relative_error;

/// Stretches `(start, count)` of a symmetric matrix of this width that are computed from
/// their diagonal on: nearly half of it is the other half's.
pub(crate) fn panels(width: i64) -> impl Iterator<Item = (i64, i64)> {
    const PANEL: i64 = 512;
    (0..width).step_by(PANEL as usize).map(move |start| (start, PANEL.min(width - start)))
}
