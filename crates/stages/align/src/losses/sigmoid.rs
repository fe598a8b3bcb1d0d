//! DPO as published.

use burn::tensor::Tensor;

use crate::loss::{LossSettings, PairLogps, PairLoss, logistic};

/// `-log σ(β·margin)` (Rafailov et al. 2023, equation 7); with label smoothing ε the mean of both orders' losses,
/// weighted by 1-ε and ε (Mitchell 2023, "cDPO").
pub struct Sigmoid;

impl PairLoss for Sigmoid {
    fn name(&self) -> &'static str {
        "sigmoid"
    }

    fn about(&self) -> &'static str {
        "DPO: the logistic loss of the margin (Rafailov et al. 2023); with label smoothing cDPO"
    }

    fn keys(&self) -> &'static [&'static str] {
        &["beta", "label_smoothing", "divergence"]
    }

    fn loss(&self, pairs: &PairLogps, settings: &LossSettings) -> Tensor<1> {
        logistic(pairs.score_margin(settings.divergence).mul_scalar(settings.beta), settings.label_smoothing)
    }
}
