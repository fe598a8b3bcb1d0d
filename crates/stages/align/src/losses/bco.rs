//! Binary classifier optimization on pairs.

use burn::tensor::Tensor;
use burn::tensor::activation::log_sigmoid;

use crate::loss::{LossSettings, PairLogps, PairLoss};

/// `-log σ(r_w) - log σ(-r_l)` with `r = β·ratio` (Jung et al. 2024, with both answers of one prompt and no shift).
pub struct BcoPair;

impl PairLoss for BcoPair {
    fn name(&self) -> &'static str {
        "bco_pair"
    }

    fn about(&self) -> &'static str {
        "tells good answers from bad ones, each by itself (Jung et al. 2024)"
    }

    fn keys(&self) -> &'static [&'static str] {
        &["beta"]
    }

    fn loss(&self, pairs: &PairLogps, settings: &LossSettings) -> Tensor<1> {
        let (chosen, rejected) =
            (pairs.chosen_ratio().mul_scalar(settings.beta), pairs.rejected_ratio().mul_scalar(settings.beta));
        -log_sigmoid(chosen) - log_sigmoid(-rejected)
    }
}
