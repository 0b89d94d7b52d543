//! Tensors whose numbers do not follow each other: transposed ones, and parts of
//! others. Sizes and strides count numbers, not bytes.

/// How many numbers a shape has; `None` where it cannot be counted.
pub fn len(shape: &[usize]) -> Option<usize> {
    // A zero anywhere makes it none, however large the rest.
    if shape.contains(&0) {
        return Some(0);
    }
    shape.iter().try_fold(1usize, |product, &n| product.checked_mul(n))
}

/// One behind the last number that is touched; `None` where it cannot be counted.
pub fn reach(offset: usize, shape: &[usize], strides: &[usize]) -> Option<usize> {
    if shape.contains(&0) {
        return Some(0);
    }
    let last = shape.iter().zip(strides).try_fold(offset, |at, (&n, &stride)| at.checked_add((n - 1).checked_mul(stride)?));
    last?.checked_add(1)
}

/// Whether the numbers follow each other, row by row.
pub fn is_contiguous(shape: &[usize], strides: &[usize]) -> bool {
    let mut expected = 1usize;
    shape.contains(&0)
        || shape.iter().zip(strides).rev().filter(|(n, _)| **n > 1).all(|(&n, &stride)| {
            let fits = stride == expected;
            expected = expected.saturating_mul(n);
            fits
        })
}

/// The numbers, of `size` bytes each, row by row. The caller has asked [`len`] and
/// [`reach`] whether they can be had.
pub fn gather(source: &[u8], size: usize, offset: usize, shape: &[usize], strides: &[usize]) -> Vec<u8> {
    let Some((&columns, rows)) = shape.split_last() else {
        return source[size * offset..][..size].to_vec();
    };
    let step = strides[rows.len()];
    let total = len(shape).expect("was asked");
    let mut gathered = Vec::with_capacity(total * size);
    // Where the row begins, and which it is.
    let (mut start, mut place) = (offset, vec![0; rows.len()]);
    while gathered.len() < total * size {
        for column in 0..columns {
            let at = size * (start + column * step);
            gathered.extend_from_slice(&source[at..at + size]);
        }
        for i in (0..rows.len()).rev() {
            if place[i] + 1 < rows[i] {
                place[i] += 1;
                start += strides[i];
                break;
            }
            start -= place[i] * strides[i];
            place[i] = 0;
        }
    }
    gathered
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transposed_part_is_gathered() {
        let source: Vec<u8> = (0..24).collect();
        // Of a 3 by 4 by 2 block: the middle column of each, its two numbers swapped in.
        assert_eq!(gather(&source, 1, 2, &[2, 3], &[1, 8]), [2, 10, 18, 3, 11, 19]);
        assert_eq!(gather(&source, 2, 1, &[2, 1, 2], &[4, 9, 2]), [2, 3, 6, 7, 10, 11, 14, 15]);
        assert_eq!(gather(&source, 4, 5, &[], &[]), [20, 21, 22, 23]);
        assert_eq!(gather(&source, 1, 7, &[3], &[0]), [7, 7, 7]);
        assert_eq!(gather(&source, 1, 1, &[1, 2], &[usize::MAX, 2]), [1, 3]);
    }

    #[test]
    fn what_reaches_beyond_counting_is_none() {
        assert_eq!(len(&[usize::MAX, 2]), None);
        assert_eq!(len(&[usize::MAX, 2, 0]), Some(0));
        assert_eq!(reach(3, &[2, 5], &[10, 1]), Some(18));
        assert_eq!(reach(0, &[3, 2], &[usize::MAX, 1]), None);
        assert_eq!(reach(usize::MAX, &[], &[]), None);
    }

    #[test]
    fn sizes_of_one_may_have_any_stride() {
        assert!(is_contiguous(&[2, 1, 3], &[3, 77, 1]));
        assert!(is_contiguous(&[], &[]));
        assert!(!is_contiguous(&[2, 3], &[1, 2]));
        assert!(!is_contiguous(&[2, 3], &[4, 1]));
    }
}
