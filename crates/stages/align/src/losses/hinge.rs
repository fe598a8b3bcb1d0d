//! The hinge loss.

use burn::tensor::Tensor;
use burn::tensor::activation::relu;

use crate::loss::{LossSettings, PairLogps, PairLoss};

/// `max(0, 1 - β·margin)` (SLiC, Zhao et al. 2023, on DPO's margin as in Liu et al. 2023, "RSO").
pub struct Hinge;

impl PairLoss for Hinge {
    fn name(&self) -> &'static str {
        "hinge"
    }

    fn about(&self) -> &'static str {
        "SLiC: the hinge loss of the margin (Zhao et al. 2023)"
    }

    fn keys(&self) -> &'static [&'static str] {
        &["beta", "divergence"]
    }

    fn loss(&self, pairs: &PairLogps, settings: &LossSettings) -> Tensor<1> {
        relu(pairs.score_margin(settings.divergence).mul_scalar(-settings.beta).add_scalar(1.0))
    }
}
