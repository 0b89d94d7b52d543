//! One position's loss and divergence, from logits. Logits are f32, sums f64.

/// A row of logits as log-probabilities: logit − `log_sum`.
fn log_sum_exp(logits: &[f32]) -> f64 {
    let greatest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|l| f64::from((l - greatest).exp())).sum();
    f64::from(greatest) + sum.ln()
}

/// Negative log-likelihood of a token, in nats.
pub fn loss(logits: &[f32], token: u32) -> f64 {
    log_sum_exp(logits) - f64::from(logits[token as usize])
}

/// KL(reference ‖ model) in nats: Σ p · (ln p − ln q).
pub fn kl(reference: &[f32], model: &[f32]) -> f64 {
    let (reference_log_sum, model_log_sum) = (log_sum_exp(reference), log_sum_exp(model));
    let term = |(r, m): (&f32, &f32)| {
        let log_p = f64::from(*r) - reference_log_sum;
        f64::from((log_p as f32).exp()) * (log_p - (f64::from(*m) - model_log_sum))
    };
    let sum = reference.iter().zip(model).map(term).sum::<f64>();
    // Rounding may give less than nothing; `max` would take NaN for 0.
    if sum < 0.0 { 0.0 } else { sum }
}

#[cfg(test)]
mod tests {
    use super::*;
    use approx::assert_abs_diff_eq;

    #[test]
    fn uniform_logits_cost_the_log_of_the_vocabulary() {
        assert_abs_diff_eq!(loss(&[3.0; 7], 2), 7f64.ln(), epsilon = 1e-7);
    }

    #[test]
    fn kl_of_two_known_distributions() {
        // p = (0.8, 0.2), q = (0.5, 0.5)
        let (p, q) = ([0.8f32.ln(), 0.2f32.ln()], [1.0, 1.0]);
        assert_abs_diff_eq!(kl(&p, &q), 0.8 * (0.8f64 / 0.5).ln() + 0.2 * (0.2f64 / 0.5).ln(), epsilon = 1e-6);
        assert_abs_diff_eq!(kl(&p, &p), 0.0);
    }

    #[test]
    fn logits_that_are_not_finite_are_not_taken_for_equal_ones() {
        let (sound, broken) = ([1.0, 2.0], [f32::NAN, 2.0]);
        assert!(kl(&sound, &broken).is_nan() && kl(&broken, &sound).is_nan() && loss(&broken, 1).is_nan());
    }
}
