//! The loss that a language model discovered.

use burn::tensor::Tensor;
use burn::tensor::activation::{log_sigmoid, sigmoid};

use crate::loss::{LossSettings, PairLogps, PairLoss};

/// `(1-s)·(-log σ(x)) + s·e^(-x)` with `x = β·margin` and `s = σ(x/τ)` (Lu et al. 2024, "DiscoPOP", equation 5).
pub struct DiscoPop;

impl PairLoss for DiscoPop {
    fn name(&self) -> &'static str {
        "discopop"
    }

    fn about(&self) -> &'static str {
        "a blend of the logistic and the exponential loss (Lu et al. 2024)"
    }

    fn keys(&self) -> &'static [&'static str] {
        &["beta", "tau", "divergence"]
    }

    fn loss(&self, pairs: &PairLogps, settings: &LossSettings) -> Tensor<1> {
        let logits = pairs.score_margin(settings.divergence).mul_scalar(settings.beta);
        let share = sigmoid(logits.clone().div_scalar(settings.tau));
        let exponential = (-logits.clone()).exp() * share.clone();
        exponential - log_sigmoid(logits) * (-share).add_scalar(1.0)
    }
}
