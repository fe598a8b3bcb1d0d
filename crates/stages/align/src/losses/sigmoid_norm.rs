//! DPO per token.

use burn::tensor::Tensor;

use crate::loss::{LossSettings, PairLogps, PairLoss, logistic};

/// `-log σ(β·margin)` with the ratios divided by the answers' lengths (Meng et al. 2024, section 2.2, with a reference).
pub struct SigmoidNorm;

impl PairLoss for SigmoidNorm {
    fn name(&self) -> &'static str {
        "sigmoid_norm"
    }

    fn about(&self) -> &'static str {
        "DPO with the answers' ratios per token, so that length is worth nothing (Meng et al. 2024)"
    }

    fn keys(&self) -> &'static [&'static str] {
        &["beta", "divergence"]
    }

    fn loss(&self, pairs: &PairLogps, settings: &LossSettings) -> Tensor<1> {
        let [chosen, rejected] = pairs.scores(settings.divergence);
        let margin = chosen / pairs.chosen_tokens.clone() - rejected / pairs.rejected_tokens.clone();
        logistic(margin.mul_scalar(settings.beta), 0.0)
    }
}
