//! Noise contrastive alignment.

use burn::tensor::Tensor;
use burn::tensor::activation::log_sigmoid;

use crate::loss::{LossSettings, PairLogps, PairLoss};

/// `-log σ(r_w) - ½·log σ(-r_w) - ½·log σ(-r_l)` with `r = β·ratio` (Chen et al. 2024, "Noise Contrastive Alignment",
/// equation 11 for pairs).
pub struct NcaPair;

impl PairLoss for NcaPair {
    fn name(&self) -> &'static str {
        "nca_pair"
    }

    fn about(&self) -> &'static str {
        "raises the chosen answer's own likelihood instead of the margin alone (Chen et al. 2024)"
    }

    fn keys(&self) -> &'static [&'static str] {
        &["beta"]
    }

    fn loss(&self, pairs: &PairLogps, settings: &LossSettings) -> Tensor<1> {
        let (chosen, rejected) =
            (pairs.chosen_ratio().mul_scalar(settings.beta), pairs.rejected_ratio().mul_scalar(settings.beta));
        let noise = log_sigmoid(-chosen.clone()) + log_sigmoid(-rejected);
        -log_sigmoid(chosen) - noise.mul_scalar(0.5)
    }
}
