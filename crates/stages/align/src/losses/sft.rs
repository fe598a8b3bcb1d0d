//! The likelihood of the chosen answers alone.

use burn::tensor::Tensor;

use crate::loss::{LossSettings, PairLogps, PairLoss, Reward};

/// The mean negative log-likelihood of the chosen answers' tokens: what every preference loss should beat.
pub struct Sft;

impl PairLoss for Sft {
    fn name(&self) -> &'static str {
        "sft"
    }

    fn about(&self) -> &'static str {
        "the chosen answers' likelihood alone, to compare with"
    }

    fn keys(&self) -> &'static [&'static str] {
        &[]
    }

    fn reward(&self) -> Reward {
        Reward::Sum
    }

    fn loss(&self, pairs: &PairLogps, _: &LossSettings) -> Tensor<1> {
        pairs.chosen_nll()
    }
}
