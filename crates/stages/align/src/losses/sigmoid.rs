//! DPO as published.

use burn::tensor::Tensor;
use burn::tensor::activation::log_sigmoid;

use crate::loss::{LossSettings, PairLogps, PairLoss};

/// `-log σ(β·margin)` (Rafailov et al. 2023, equation 7); with label smoothing ε the mean of both orders' losses,
/// weighted by 1-ε and ε (Mitchell 2023, "cDPO").
pub struct Sigmoid;

impl PairLoss for Sigmoid {
    fn name(&self) -> &'static str {
        "sigmoid"
    }

    fn about(&self) -> &'static str {
        "DPO: the logistic loss of the margin"
    }

    fn smooths(&self) -> bool {
        true
    }

    fn loss(&self, pairs: &PairLogps, settings: &LossSettings) -> Tensor<1> {
        let logits = pairs.margin().mul_scalar(settings.beta);
        let smoothing = settings.label_smoothing;
        let kept = log_sigmoid(logits.clone()).mul_scalar(smoothing - 1.0);
        if smoothing == 0.0 {
            return kept;
        }
        kept - log_sigmoid(-logits).mul_scalar(smoothing)
    }
}
