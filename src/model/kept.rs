//! The part of a tensor that is left when some indices of each of its axes are kept.

/// Indices of an axis that are kept, in their new order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Size of the axis.
    pub of: usize,
    /// Which of it; each below `of`.
    pub indices: Vec<usize>,
}

/// The kept numbers of a tensor, row-major along its axes, outermost first.
pub fn gather(numbers: &[f32], axes: &[Kept]) -> Vec<f32> {
    assert_eq!(numbers.len(), axes.iter().map(|axis| axis.of).product::<usize>());
    let (inner, outer) = axes.split_last().expect("a tensor has a dimension");
    let rows = outer
        .iter()
        .fold(vec![0], |rows, axis| rows.iter().flat_map(|row| axis.indices.iter().map(move |index| row * axis.of + index)).collect());
    let mut kept = Vec::with_capacity(rows.len() * inner.indices.len());
    for row in rows {
        let row = &numbers[row * inner.of..][..inner.of];
        kept.extend(inner.indices.iter().map(|&index| row[index]));
    }
    kept
}
