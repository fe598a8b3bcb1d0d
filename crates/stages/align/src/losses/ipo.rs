//! IPO.

use burn::tensor::Tensor;

use crate::loss::{LossSettings, PairLogps, PairLoss};

/// `(margin - 1 / 2β)²`, the ratios taken per token (Azar et al. 2023, equation 17; the division by the length is the
/// authors' correction, which TRL follows).
pub struct Ipo;

impl PairLoss for Ipo {
    fn name(&self) -> &'static str {
        "ipo"
    }

    fn about(&self) -> &'static str {
        "the squared distance of the margin per token from 1 / 2β (Azar et al. 2023)"
    }

    fn keys(&self) -> &'static [&'static str] {
        &["beta", "divergence"]
    }

    fn loss(&self, pairs: &PairLogps, settings: &LossSettings) -> Tensor<1> {
        let [chosen, rejected] = pairs.scores(settings.divergence);
        let margin = chosen / pairs.chosen_tokens.clone() - rejected / pairs.rejected_tokens.clone();
        margin.sub_scalar(0.5 / settings.beta).square()
    }
}
