//! EXO.

use burn::tensor::Tensor;
use burn::tensor::activation::{log_sigmoid, sigmoid};

use crate::loss::{LossSettings, PairLogps, PairLoss};

/// `KL(p ‖ q)` of the policy's preference `p = σ(±β·margin)` from labels `q = (1-ε, ε)` (Ji et al. 2024, equation 16).
pub struct ExoPair;

impl PairLoss for ExoPair {
    fn name(&self) -> &'static str {
        "exo_pair"
    }

    fn about(&self) -> &'static str {
        "the reverse KL from the smoothed labels to the policy's preference (Ji et al. 2024)"
    }

    fn keys(&self) -> &'static [&'static str] {
        &["beta", "label_smoothing", "divergence"]
    }

    fn defaults(&self) -> LossSettings {
        LossSettings { label_smoothing: 1e-3, ..LossSettings::default() }
    }

    fn loss(&self, pairs: &PairLogps, settings: &LossSettings) -> Tensor<1> {
        let logits = pairs.score_margin(settings.divergence).mul_scalar(settings.beta);
        let noise = settings.label_smoothing;
        let side = |logits: Tensor<1>, label: f64| sigmoid(logits.clone()) * log_sigmoid(logits).sub_scalar(label.ln());
        side(logits.clone(), 1.0 - noise) + side(-logits, noise)
    }
}
