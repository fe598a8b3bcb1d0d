//! Anchored preference optimization.

use burn::tensor::Tensor;
use burn::tensor::activation::sigmoid;

use crate::loss::{LossSettings, PairLogps, PairLoss};

/// `1 - σ(r_w) + σ(r_l)` with `r = β·ratio` (D'Oosterlinck et al. 2024, equation 7): for answers better than the model's.
pub struct ApoZero;

impl PairLoss for ApoZero {
    fn name(&self) -> &'static str {
        "apo_zero"
    }

    fn about(&self) -> &'static str {
        "for chosen answers that are better than the model's own: raises them, lowers the others (D'Oosterlinck et al. 2024)"
    }

    fn keys(&self) -> &'static [&'static str] {
        &["beta"]
    }

    fn loss(&self, pairs: &PairLogps, settings: &LossSettings) -> Tensor<1> {
        let good = sigmoid(pairs.chosen_ratio().mul_scalar(settings.beta));
        sigmoid(pairs.rejected_ratio().mul_scalar(settings.beta)) - good.sub_scalar(1.0)
    }
}

/// `σ(r_w) + 1 - σ(r_w - r_l)` (the same, equation 8): for answers worse than the model's.
pub struct ApoDown;

impl PairLoss for ApoDown {
    fn name(&self) -> &'static str {
        "apo_down"
    }

    fn about(&self) -> &'static str {
        "for chosen answers that are worse than the model's own: lowers both, the rejected ones more (D'Oosterlinck et al. 2024)"
    }

    fn keys(&self) -> &'static [&'static str] {
        &["beta"]
    }

    fn loss(&self, pairs: &PairLogps, settings: &LossSettings) -> Tensor<1> {
        let good = sigmoid(pairs.chosen_ratio().mul_scalar(settings.beta));
        good - sigmoid(pairs.margin().mul_scalar(settings.beta)).sub_scalar(1.0)
    }
}
