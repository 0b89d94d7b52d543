//! How far a student's distribution over the next token is from its teacher's, and
//! where its logits should go.
//!
//! Each divergence is a sum over tokens of a function of the teacher's probability p
//! and the student's q, given by their logarithms. With w = q · ∂D/∂q the gradient of
//! the logits is w − q Σ w, so that one line a divergence is all there is to derive,
//! and no graph of the vocabulary's size is kept.
//!
//! Sources: Hinton, Vinyals and Dean 2015, section 2 (temperature); Agarwal et al., "On-Policy
//! Distillation of Language Models" (GKD, 2024), section 3; Ko et al., "DistiLLM" (2024), section 3.1.

use crate::recipe::Divergence;
use tch::Tensor;

/// What a teacher says of some tokens.
pub enum Targets {
    /// Logits `[tokens, vocab]`.
    Logits(Tensor),
    /// The most likely ones, at the temperature they are asked for, and all others as one.
    Top {
        /// i64 `[tokens, k]`
        ids: Tensor,
        /// `[tokens, k]`
        log_probabilities: Tensor,
        /// Logarithm of what all others have together, `[tokens]`.
        log_rest: Tensor,
        /// Tokens that these are probabilities over.
        vocabulary: i64,
    },
}

impl Targets {
    /// Tokens that it knows.
    fn vocabulary(&self) -> i64 {
        match self {
            Targets::Logits(logits) => logits.size()[1],
            Targets::Top { vocabulary, .. } => *vocabulary,
        }
    }
}

/// A loss of each token, and its gradient.
pub struct Slope {
    /// `[tokens]`
    pub values: Tensor,
    /// With respect to the student's logits, `[tokens, vocab]`.
    pub gradient: Tensor,
}

impl Slope {
    /// With a gradient of 0 for the logits of tokens that were not compared.
    pub fn padded_to(self, vocabulary: i64) -> Self {
        let left_out = vocabulary - self.gradient.size()[1];
        let gradient = if left_out > 0 { self.gradient.constant_pad_nd([0, left_out]) } else { self.gradient };
        Self { gradient, ..self }
    }
}

/// Logits `[tokens, vocab]` of the first tokens.
pub fn first(logits: &Tensor, vocabulary: i64) -> Tensor {
    logits.narrow(-1, 0, vocabulary)
}

/// Divergence of student logits `[tokens, vocab]`, in their number format, times the
/// square of the temperature, so that gradients do not fade with it. Where the teacher knows
/// another number of tokens, both distributions are those over the tokens that both know.
pub fn divergence(kind: Divergence, logits: &Tensor, targets: &Targets, temperature: f64) -> Slope {
    let all = logits.size()[1];
    let common = targets.vocabulary().min(all);
    let log_q = log_softmax(&first(logits, common), temperature);
    let (value, gradient) = match targets {
        Targets::Logits(teacher) => {
            let (terms, mut w) = terms(kind, &log_softmax(&first(teacher, common).to_kind(log_q.kind()), temperature), &log_q);
            let total = w.sum_dim_intlist(-1, true, None);
            (terms, w.g_sub_(&log_q.exp().g_mul_(&total)))
        }
        Targets::Top { ids, log_probabilities, log_rest, .. } => {
            let log_top = log_q.gather(-1, ids, false);
            let log_others = log_of_rest(&log_top);
            let log_p = Tensor::cat(&[log_probabilities, &log_rest.unsqueeze(-1)], -1).to_kind(log_q.kind());
            let (terms, w) = terms(kind, &log_p, &Tensor::cat(&[&log_top, &log_others], -1));
            let (k, total) = (ids.size()[1], w.sum_dim_intlist(-1, true, None));
            // What all others have in common each of them has by its share.
            let share = w.narrow(-1, k, 1) / log_others.exp();
            let top = w.narrow(-1, 0, k) - log_top.exp() * &total;
            (terms, (log_q.exp() * (share - total)).scatter(-1, ids, &top))
        }
    };
    let mut gradient = gradient;
    if temperature != 1.0 {
        let _ = gradient.g_mul_scalar_(temperature);
    }
    Slope { values: value.sum_dim_intlist(-1, false, None) * temperature * temperature, gradient }.padded_to(all)
}

fn log_softmax(logits: &Tensor, temperature: f64) -> Tensor {
    if temperature == 1.0 { logits.log_softmax(-1, None) } else { (logits / temperature).log_softmax(-1, None) }
}

/// Cross-entropy of student logits `[tokens, vocab]` with one token each, i64 `[tokens]`.
pub fn cross_entropy(logits: &Tensor, tokens: &Tensor) -> Slope {
    let mut log_q = logits.log_softmax(-1, None);
    let tokens = tokens.unsqueeze(-1);
    let values = -log_q.gather(-1, &tokens, false).squeeze_dim(-1);
    let one = Tensor::full_like(&tokens, -1.0).to_kind(logits.kind());
    Slope { values, gradient: log_q.exp_().scatter_add_(-1, &tokens, &one) }
}

/// The smallest share that is told apart from none.
const LEAST: f64 = 1e-7;

/// log(1 − Σ exp), `[tokens, 1]`.
pub fn log_of_rest(log_probabilities: &Tensor) -> Tensor {
    let rest: Tensor = 1.0 - log_probabilities.exp().sum_dim_intlist(-1, true, None);
    rest.clamp_min(LEAST).log()
}

/// The terms of a divergence, and w = q · ∂D/∂q.
fn terms(kind: Divergence, log_p: &Tensor, log_q: &Tensor) -> (Tensor, Tensor) {
    let (mut p, q) = (log_p.exp(), || log_q.exp());
    // log(a p + b q)
    let mixture = |a: f64, b: f64| (log_p + a.ln()).logaddexp(&(log_q + b.ln()));
    match kind {
        Divergence::ForwardKl => {
            let terms = (log_p - log_q).g_mul_(&p);
            (terms, p.neg_())
        }
        Divergence::ReverseKl => {
            let q = q();
            let terms = (log_q - log_p).g_mul_(&q);
            let w = &terms + q;
            (terms, w)
        }
        Divergence::SymmetricKl => {
            let (q, difference) = (q(), log_q - log_p);
            ((&q - &p) * &difference * 0.5, (&q * (difference + 1.0) - p) * 0.5)
        }
        Divergence::JensenShannon(beta) => {
            let log_m = mixture(beta, 1.0 - beta);
            let away = q() * (log_q - &log_m) * (1.0 - beta);
            (p * (log_p - log_m) * beta + &away, away)
        }
        Divergence::SkewedForwardKl(alpha) => {
            let log_m = mixture(alpha, 1.0 - alpha);
            let w = (log_p + log_q - &log_m).exp() * (alpha - 1.0);
            (p * (log_p - log_m), w)
        }
        Divergence::SkewedReverseKl(alpha) => {
            let (q, log_m) = (q(), mixture(1.0 - alpha, alpha));
            let terms = &q * (log_q - &log_m);
            let w = &terms + &q - (log_q * 2.0 - log_m).exp() * alpha;
            (terms, w)
        }
        Divergence::TotalVariation => {
            let q = q();
            let difference = &q - p;
            (difference.abs() * 0.5, q * difference.sign() * 0.5)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;
    use tch::Kind;

    fn fixture() -> Value {
        serde_json::from_str(include_str!("../../../tests/data/losses.json")).unwrap()
    }

    fn matrix(value: &Value) -> Tensor {
        let rows: Vec<Vec<f64>> = serde_json::from_value(value.clone()).unwrap();
        Tensor::from_slice2(&rows)
    }

    fn vector(value: &Value) -> Tensor {
        let numbers: Vec<f64> = serde_json::from_value(value.clone()).unwrap();
        Tensor::from_slice(&numbers)
    }

    fn apart(a: &Tensor, b: &Tensor) -> f64 {
        (a - b).abs().max().double_value(&[])
    }

    fn targets(teacher: &Tensor, top: Option<i64>, temperature: f64) -> Targets {
        let Some(k) = top else { return Targets::Logits(teacher.shallow_clone()) };
        let (log_probabilities, ids) = (teacher / temperature).log_softmax(-1, None).topk(k, -1, true, true);
        let log_rest = log_of_rest(&log_probabilities).squeeze_dim(-1);
        Targets::Top { ids, log_probabilities, log_rest, vocabulary: teacher.size()[1] }
    }

    /// Values by the published formulas, and gradients by torch's own differentiation of
    /// them.
    #[test]
    fn losses_are_those_of_the_reference() {
        let found = fixture();
        let (student, teacher) = (matrix(&found["student"]), matrix(&found["teacher"]));
        let cases = found["divergences"].as_array().unwrap();
        assert_eq!(cases.len(), 44);
        for case in cases {
            let kind: Divergence = serde_json::from_value(case["divergence"].clone()).unwrap();
            let temperature = case["temperature"].as_f64().unwrap();
            let slope = divergence(kind, &student, &targets(&teacher, case["top"].as_i64(), temperature), temperature);
            assert!(apart(&slope.values, &vector(&case["values"])) < 1e-12, "{kind:?}: values");
            assert!(apart(&slope.gradient, &matrix(&case["gradient"])) < 1e-12, "{kind:?}: gradient");
        }
        let tokens: Vec<i64> = serde_json::from_value(found["tokens"].clone()).unwrap();
        let slope = cross_entropy(&student, &Tensor::from_slice(&tokens));
        assert!(apart(&slope.values, &vector(&found["hard"]["values"])) < 1e-12);
        assert!(apart(&slope.gradient, &matrix(&found["hard"]["gradient"])) < 1e-12);
    }

    /// Rows of padding, of the teacher or of the student, change nothing: values and gradients
    /// are those of torch's softmax over the tokens that both have.
    #[test]
    fn padding_is_left_out() {
        let found = fixture();
        let (student, teacher) = (matrix(&found["student"]), matrix(&found["teacher"]));
        let vocab = student.size()[1];
        let common = vocab - 3;
        let kinds = [Divergence::ForwardKl, Divergence::ReverseKl, Divergence::TotalVariation];
        // By the formula, differentiated by torch.
        let formula = |kind, temperature: f64| {
            let z = student.copy().set_requires_grad(true);
            let log_q = (first(&z, common) / temperature).log_softmax(-1, None);
            let log_p = (first(&teacher, common) / temperature).log_softmax(-1, None);
            let (p, q) = (log_p.exp(), log_q.exp());
            let terms = match kind {
                Divergence::ForwardKl => &p * (&log_p - &log_q),
                Divergence::ReverseKl => &q * (&log_q - &log_p),
                _ => (&q - &p).abs() * 0.5,
            };
            let values = terms.sum_dim_intlist(-1, false, None) * temperature * temperature;
            values.sum(None).backward();
            (values.detach(), z.grad())
        };
        for (kind, temperature) in kinds.into_iter().flat_map(|kind| [(kind, 1.0), (kind, 2.5)]) {
            let (values, gradient) = formula(kind, temperature);
            // The student has more rows than the teacher.
            let slope = divergence(kind, &student, &Targets::Logits(first(&teacher, common)), temperature);
            assert!(apart(&slope.values, &values) < 1e-12 && apart(&slope.gradient, &gradient) < 1e-12, "{kind:?} at {temperature}");
            assert_eq!(slope.gradient.size()[1], vocab);
            assert_eq!(slope.gradient.narrow(-1, common, 3).abs().max().double_value(&[]), 0.0);
            // The teacher has more rows than the student; what it says of all but one token.
            for top in [None, Some(common - 1)] {
                let cached = if top.is_some() { first(&teacher, common) } else { teacher.shallow_clone() };
                let slope = divergence(kind, &first(&student, common), &targets(&cached, top, temperature), temperature);
                assert!(apart(&slope.values, &values) < 1e-8, "{kind:?} at {temperature}, {top:?}");
                assert!(apart(&slope.gradient, &first(&gradient, common)) < 1e-8, "{kind:?} at {temperature}, {top:?}");
            }
        }
    }

    #[test]
    fn gradients_are_finite_differences() {
        let found = fixture();
        let (student, teacher) = (matrix(&found["student"]), matrix(&found["teacher"]));
        let kinds = [
            Divergence::ForwardKl,
            Divergence::ReverseKl,
            Divergence::SymmetricKl,
            Divergence::JensenShannon(0.3),
            Divergence::SkewedForwardKl(0.2),
            Divergence::SkewedReverseKl(0.2),
            Divergence::TotalVariation,
        ];
        let tokens = Tensor::from_slice(&[3i64, 0, 11, 5]);
        type Loss<'a> = Box<dyn Fn(&Tensor) -> Slope + 'a>;
        let mut losses: Vec<Loss> = vec![Box::new(|z| cross_entropy(z, &tokens))];
        for kind in kinds {
            for (top, temperature) in [(None, 1.0), (None, 3.0), (Some(4), 2.0)] {
                let teacher = &teacher;
                losses.push(Box::new(move |z| divergence(kind, z, &targets(teacher, top, temperature), temperature)));
            }
        }
        let (tokens, vocab) = student.size2().unwrap();
        const STEP: f64 = 1e-5;
        for (which, loss) in losses.iter().enumerate() {
            let gradient = loss(&student).gradient;
            for (i, j) in (0..tokens).flat_map(|i| (0..vocab).map(move |j| (i, j))) {
                let moved = |by: f64| {
                    let z = student.copy();
                    let _ = z.get(i).get(j).g_add_scalar_(by);
                    loss(&z).values.sum(Kind::Double).double_value(&[])
                };
                let difference = (moved(STEP) - moved(-STEP)) / (2.0 * STEP);
                let found = gradient.double_value(&[i, j]);
                assert!((difference - found).abs() < 1e-8, "loss {which} at {i}, {j}: {difference}, gradient {found}");
            }
        }
    }

    /// With all tokens but one among the most likely, nothing is lost.
    #[test]
    fn the_rest_of_one_token_is_that_token() {
        let found = fixture();
        let (student, teacher) = (matrix(&found["student"]), matrix(&found["teacher"]));
        let vocab = student.size()[1];
        let whole = divergence(Divergence::ReverseKl, &student, &targets(&teacher, None, 1.0), 1.0);
        let top = divergence(Divergence::ReverseKl, &student, &targets(&teacher, Some(vocab - 1), 1.0), 1.0);
        assert!(apart(&whole.values, &top.values) < 1e-8 && apart(&whole.gradient, &top.gradient) < 1e-8);
    }
}
