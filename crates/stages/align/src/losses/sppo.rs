//! Self-play preference optimization.

use burn::tensor::Tensor;

use crate::loss::{LossSettings, PairLogps, PairLoss};

/// `(ratio_w - 1/2β)² + (ratio_l + 1/2β)²`: the chosen answer is taken to win always (Wu et al. 2024, "SPPO", equation
/// 4.7 with probabilities 1 and 0).
pub struct SppoHard;

impl PairLoss for SppoHard {
    fn name(&self) -> &'static str {
        "sppo_hard"
    }

    fn about(&self) -> &'static str {
        "drives both ratios to fixed distances from the reference (Wu et al. 2024)"
    }

    fn keys(&self) -> &'static [&'static str] {
        &["beta"]
    }

    fn loss(&self, pairs: &PairLogps, settings: &LossSettings) -> Tensor<1> {
        let half = 0.5 / settings.beta;
        pairs.chosen_ratio().sub_scalar(half).square() + pairs.rejected_ratio().add_scalar(half).square()
    }
}
