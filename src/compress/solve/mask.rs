//! Which weights go: those of the lowest scores among the ones they are compared with.

use crate::quant::quant_params::Real;
use crate::recipe::Sparsity;
use rayon::prelude::*;

/// Marks the lowest `count` scores; of equal ones the first.
pub fn mark_lowest<T: Real>(scores: &[T], count: usize, marks: &mut [bool]) {
    if count == 0 {
        return;
    }
    let mut order: Vec<usize> = (0..scores.len()).collect();
    let by_score = |&a: &usize, &b: &usize| scores[a].to_f64().total_cmp(&scores[b].to_f64()).then(a.cmp(&b));
    order.select_nth_unstable_by(count - 1, by_score);
    order[..count].iter().for_each(|&i| marks[i] = true);
}

/// How many of so many weights go.
pub fn share_of(share: f64, weights: usize) -> usize {
    (share * weights as f64) as usize
}

/// How many of a group go, of which `n` stay; the last of a row may be narrower than
/// the others, as if zeros followed.
pub fn beyond(n: usize, group: usize) -> usize {
    group.saturating_sub(n)
}

/// The weights that go, by their scores `[rows, columns]`: a share of each stretch of
/// `compared` scores, or of each group of neighbours in a row.
pub fn lowest<T: Real>(scores: &[T], columns: usize, compared: usize, sparsity: Sparsity) -> Vec<bool> {
    let mut marks = vec![false; scores.len()];
    match sparsity {
        Sparsity::Unstructured(share) => {
            let stretches = marks.par_chunks_mut(compared).zip(scores.par_chunks(compared));
            stretches.for_each(|(marks, scores)| mark_lowest(scores, share_of(share, scores.len()), marks));
        }
        Sparsity::Pattern { n, m } => {
            let rows = marks.par_chunks_mut(columns).zip(scores.par_chunks(columns));
            rows.for_each(|(marks, scores)| {
                let groups = marks.chunks_mut(m).zip(scores.chunks(m));
                groups.for_each(|(marks, scores)| mark_lowest(scores, beyond(n, scores.len()), marks));
            });
        }
    }
    marks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_are_compared_with_those_they_are_told_to_be() {
        let scores = [5.0f32, 1.0, 4.0, 4.0, 2.0, 0.5, 0.0, 0.25, 0.75, 0.1];
        let gone = |compared, sparsity| {
            let marks = lowest(&scores, 5, compared, sparsity);
            (0..scores.len()).filter(|&i| marks[i]).collect::<Vec<_>>()
        };
        assert_eq!(gone(10, Sparsity::Unstructured(0.5)), [5, 6, 7, 8, 9]);
        assert_eq!(gone(5, Sparsity::Unstructured(0.5)), [1, 4, 6, 9]);
        // Of equal ones the first; the last group of a row is one column wide.
        assert_eq!(gone(5, Sparsity::Pattern { n: 2, m: 4 }), [1, 2, 6, 7]);
        assert_eq!(gone(10, Sparsity::Pattern { n: 1, m: 2 }), [1, 2, 6, 7]);
        assert!(gone(10, Sparsity::Unstructured(0.0)).is_empty() && gone(10, Sparsity::Unstructured(0.99)).len() == 9);
    }
}
