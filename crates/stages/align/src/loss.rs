//! Losses on pairs of answers.

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

/// How likely the policy and the frozen reference find the answers of some pairs: summed log-probabilities, `[P]` each.
#[derive(Clone, Debug)]
pub struct PairLogps {
    /// The chosen answers under the policy, on the tape.
    pub chosen: Tensor<1>,
    /// The rejected answers under the policy, on the tape.
    pub rejected: Tensor<1>,
    /// The chosen answers under the reference.
    pub ref_chosen: Tensor<1>,
    /// The rejected answers under the reference.
    pub ref_rejected: Tensor<1>,
    /// Tokens of the chosen answers.
    pub chosen_tokens: Tensor<1>,
    /// Tokens of the rejected answers.
    pub rejected_tokens: Tensor<1>,
}

impl PairLogps {
    /// `log π(y_w|x) - log π_ref(y_w|x)`.
    pub fn chosen_ratio(&self) -> Tensor<1> {
        self.chosen.clone() - self.ref_chosen.clone()
    }

    /// `log π(y_l|x) - log π_ref(y_l|x)`.
    pub fn rejected_ratio(&self) -> Tensor<1> {
        self.rejected.clone() - self.ref_rejected.clone()
    }

    /// How much more the policy than the reference prefers the chosen answer.
    pub fn margin(&self) -> Tensor<1> {
        self.chosen_ratio() - self.rejected_ratio()
    }
}

/// What all losses are told.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct LossSettings {
    /// How strongly the policy is held to the reference; `τ` of IPO.
    pub beta: f64,
    /// The share of the pairs that are taken to be the wrong way round.
    pub label_smoothing: f64,
}

/// A loss on pairs.
pub trait PairLoss: Sync {
    /// Its name in recipes.
    fn name(&self) -> &'static str;
    /// One line of help.
    fn about(&self) -> &'static str;
    /// Whether it knows label smoothing.
    fn smooths(&self) -> bool {
        false
    }
    /// The loss of each pair, `[P]`.
    fn loss(&self, pairs: &PairLogps, settings: &LossSettings) -> Tensor<1>;
}

/// Every loss.
pub const ALL: &[&dyn PairLoss] = &[
    &crate::losses::sigmoid::Sigmoid,
    &crate::losses::ipo::Ipo,
    &crate::losses::hinge::Hinge,
    &crate::losses::robust::Robust,
];

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failing test should panic")]

    use burn::tensor::Device;
    use cupola_ops::from_vec;
    use cupola_testkit::{Golden, assert_close};

    use super::*;

    /// The loss and its gradient with respect to the log-probability of each token.
    fn compute(golden: &Golden, loss: &dyn PairLoss, settings: &LossSettings) -> (f32, Vec<f32>) {
        let plain = Device::flex();
        let (shape, logps) = golden.f32("in.policy_token_logps");
        let (_, mask) = golden.i64("in.completion_mask");
        let [rows, seq] = [shape[0], shape[1]];
        let logps = logps.iter().zip(&mask).map(|(l, m)| l * *m as f32).collect();
        let tape = Tensor::<2>::from_inner(from_vec(logps, [rows, seq], &plain)).require_grad();
        let counts: Vec<f32> = mask.chunks(seq).map(|row| row.iter().sum::<i64>() as f32).collect();
        // TRL has set the log-probabilities outside the completions to zero and differentiates the sum over the whole row.
        let sums = tape.clone().sum_dim(1).reshape([rows]);
        let constant = |data: Vec<f32>| {
            let n = data.len();
            from_vec::<1>(data, [n], &tape.device())
        };
        let half = rows / 2;
        let pairs = PairLogps {
            chosen: sums.clone().narrow(0, 0, half),
            rejected: sums.narrow(0, half, half),
            ref_chosen: constant(golden.f32("in.ref_chosen_logps").1),
            ref_rejected: constant(golden.f32("in.ref_rejected_logps").1),
            chosen_tokens: constant(counts[..half].to_vec()),
            rejected_tokens: constant(counts[half..].to_vec()),
        };
        let value = loss.loss(&pairs, settings).mean();
        let mut gradients = value.backward();
        let gradient = tape.grad_remove(&mut gradients).unwrap();
        (cupola_ops::scalar(&value), cupola_ops::into_vec(gradient))
    }

    #[test]
    fn losses_and_gradients_equal_trl() {
        let golden = Golden::load("loss-dpo");
        for loss in ALL {
            let case = &golden.info["settings"][loss.name()];
            let settings = LossSettings {
                beta: case["beta"].as_f64().unwrap(),
                label_smoothing: case["label_smoothing"].as_f64().unwrap_or(0.0),
            };
            let (value, gradient) = compute(&golden, *loss, &settings);
            golden.check(&format!("{}.loss", loss.name()), &[value]);
            golden.check(&format!("{}.grad.policy_token_logps", loss.name()), &gradient);
        }
    }

    #[test]
    fn smoothing_mixes_the_losses_of_both_orders() {
        // With smoothing 1/2 neither order is preferred, and the loss is symmetric in the margin; without it is not.
        let plain = Device::flex();
        let pairs = |chosen: f32| {
            let one = |x: f32| from_vec::<1>(vec![x], [1], &plain);
            let (zero, tokens) = (one(0.0), one(1.0));
            PairLogps {
                chosen: one(chosen),
                rejected: zero.clone(),
                ref_chosen: zero.clone(),
                ref_rejected: zero,
                chosen_tokens: tokens.clone(),
                rejected_tokens: tokens,
            }
        };
        let loss = |chosen: f32, label_smoothing: f64| {
            let settings = LossSettings { beta: 0.5, label_smoothing };
            cupola_ops::scalar(&crate::losses::sigmoid::Sigmoid.loss(&pairs(chosen), &settings))
        };
        assert_close("symmetric", &[loss(3.0, 0.5)], &[loss(-3.0, 0.5)], 1e-6, 0.0);
        let mixed = 0.9 * loss(3.0, 0.0) + 0.1 * loss(-3.0, 0.0);
        assert_close("mixed", &[loss(3.0, 0.1)], &[mixed], 1e-6, 0.0);
    }
}
