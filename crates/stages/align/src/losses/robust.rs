//! Robust DPO.

use burn::tensor::Tensor;
use burn::tensor::activation::log_sigmoid;

use crate::loss::{LossSettings, PairLogps, PairLoss};

/// `((1-ε)·ℓ(margin) - ε·ℓ(-margin)) / (1-2ε)` with DPO's `ℓ(m) = -log σ(β·m)`: an unbiased estimate of the loss on
/// clean pairs when a share ε of them is the wrong way round (Chowdhury et al. 2024).
pub struct Robust;

impl PairLoss for Robust {
    fn name(&self) -> &'static str {
        "robust"
    }

    fn about(&self) -> &'static str {
        "DPO that corrects for a known share of swapped pairs (Chowdhury et al. 2024)"
    }

    fn keys(&self) -> &'static [&'static str] {
        &["beta", "label_smoothing", "divergence"]
    }

    fn loss(&self, pairs: &PairLogps, settings: &LossSettings) -> Tensor<1> {
        let logits = pairs.score_margin(settings.divergence).mul_scalar(settings.beta);
        let (noise, scale) = (settings.label_smoothing, 1.0 - 2.0 * settings.label_smoothing);
        let kept = log_sigmoid(logits.clone()).mul_scalar((noise - 1.0) / scale);
        kept + log_sigmoid(-logits).mul_scalar(noise / scale)
    }
}
