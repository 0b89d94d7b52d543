//! Learning rate and weight decay of each step.

use crate::recipe::{Decay, Training};

/// Of step `step` of `steps`, from 0: a linear rise over the warm-up, then the decay
/// down to the final share of the peak.
pub fn learning_rate(training: &Training, step: u64, steps: u64) -> f64 {
    let peak = training.learning_rate;
    let warm = (training.warmup * steps as f64).ceil();
    if (step as f64) < warm {
        return peak * (step + 1) as f64 / warm;
    }
    // 0 at the first step behind the warm-up, 1 at the last of all.
    let share = (step as f64 - warm) / (steps as f64 - warm - 1.0).max(1.0);
    let left = match training.schedule {
        Decay::Constant => return peak,
        Decay::Linear => 1.0 - share,
        Decay::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * share).cos()),
        Decay::TwoStage if is_second(step, steps) => SECOND * (1.0 - share),
        Decay::TwoStage => 1.0 - share,
    };
    peak * (training.min_lr_ratio + (1.0 - training.min_lr_ratio) * left)
}

/// Of step `step` of `steps`, from 0.
pub fn weight_decay(training: &Training, step: u64, steps: u64) -> f64 {
    match training.schedule {
        Decay::TwoStage if is_second(step, steps) => 0.0,
        Decay::Constant | Decay::Linear | Decay::Cosine | Decay::TwoStage => training.weight_decay,
    }
}

/// What is left of the learning rate in the second stage.
const SECOND: f64 = 2.0 / 3.0;

fn is_second(step: u64, steps: u64) -> bool {
    2 * step >= steps
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_rise_to_the_peak_and_fall_to_the_last() {
        let with = |schedule, warmup| Training { learning_rate: 2.0, warmup, schedule, min_lr_ratio: 0.1, ..Training::default() };
        let rate = |schedule, step| learning_rate(&with(schedule, 0.1), step, 100);
        for decay in [Decay::Linear, Decay::Cosine] {
            let rates: Vec<f64> = (0..100).map(|step| rate(decay, step)).collect();
            assert!((rates[0] - 0.2).abs() < 1e-12 && (rates[9] - 2.0).abs() < 1e-12 && (rates[10] - 2.0).abs() < 1e-12);
            assert!((rates[99] - 0.2).abs() < 1e-12 && rates[10..].is_sorted_by(|a, b| a > b));
        }
        assert!((rate(Decay::Linear, 54) - (0.2 + 1.8 * (1.0 - 44.0 / 89.0))).abs() < 1e-12);
        assert_eq!(rate(Decay::Constant, 99), 2.0);
        let two = |step| rate(Decay::TwoStage, step);
        assert!((0..50).all(|step| two(step) == rate(Decay::Linear, step)));
        assert!((two(49) - 0.1 * 2.0) * SECOND > two(50) - 0.1 * 2.0 && (two(99) - 0.2).abs() < 1e-12);
        let decays = [49, 50].map(|step| weight_decay(&with(Decay::TwoStage, 0.1), step, 100));
        assert_eq!(decays, [Training::default().weight_decay, 0.0]);
        // One step, and no warm-up.
        assert_eq!(learning_rate(&with(Decay::Cosine, 0.0), 0, 1), 2.0);
    }
}
