//! McNemar's exact test on paired items (McNemar 1947; exact form: Fagerland,
//! Lydersen and Laake 2013, section 2.1).

/// Two-sided p-value for so many items that only one and only the other has right:
/// 2 · P(X ≤ min) for X binomial over all of these with ½, and 1 at most.
pub fn mcnemar(gained: usize, lost: usize) -> f64 {
    let (n, least) = (gained + lost, gained.min(lost));
    let mut log_term = -(n as f64) * std::f64::consts::LN_2;
    let mut sum = 0.0;
    for i in 0..=least {
        sum += log_term.exp();
        log_term += ((n - i) as f64).ln() - ((i + 1) as f64).ln();
    }
    (2.0 * sum).min(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use approx::assert_relative_eq;

    /// Pascal's triangle, in whole numbers.
    fn naive(gained: usize, lost: usize) -> f64 {
        let n = gained + lost;
        let mut row = vec![1u128];
        for _ in 0..n {
            row = (0..=row.len()).map(|i| i.checked_sub(1).map_or(0, |i| row[i]) + row.get(i).unwrap_or(&0)).collect();
        }
        let tail: u128 = row[..=gained.min(lost)].iter().sum();
        (2.0 * tail as f64 / 2f64.powi(n as i32)).min(1.0)
    }

    #[test]
    fn p_values_are_those_of_a_naive_sum() {
        for gained in 0..60 {
            for lost in 0..60 {
                assert_relative_eq!(mcnemar(gained, lost), naive(gained, lost), max_relative = 1e-11);
            }
        }
    }

    /// Where the powers of one half are below the smallest number.
    #[test]
    fn many_items_are_no_matter() {
        assert_relative_eq!(mcnemar(3_000, 3_000), 1.0);
        // The normal approximation with continuity: z = (|b − c| − 1) / √(b + c).
        let p = mcnemar(2_900, 3_100);
        assert!((0.0095..0.0105).contains(&p), "{p}");
        assert_eq!(mcnemar(0, 0), 1.0);
    }
}
