//! Soft adaptive policy optimization.

use burn::tensor::Tensor;
use burn::tensor::activation::sigmoid;

use crate::policy::{PolicyBatch, PolicyLoss, PolicySettings, Share};

/// How sharply good and bad tokens' ratios are bounded (Gao et al. 2025, section 4).
const TEMPERATURES: [f64; 2] = [1.0, 1.05];

/// `-(4/τ)·σ(τ·(ρ-1))·A`: a soft gate in place of clipping, τ by the sign of the advantage (Gao et al. 2025, equation 6).
pub struct Sapo;

impl PolicyLoss for Sapo {
    fn name(&self) -> &'static str {
        "sapo"
    }

    fn about(&self) -> &'static str {
        "a soft gate in place of clipping (Gao et al. 2025)"
    }

    fn share(&self) -> Share {
        Share::Answer
    }

    fn tokens(&self, batch: &PolicyBatch, _: &PolicySettings) -> Tensor<1> {
        let advantages = batch.advantages.clone();
        let [good, bad] = TEMPERATURES;
        let positive = advantages.clone().greater_elem(0.0).float();
        let temperature = positive.mul_scalar(good - bad).add_scalar(bad);
        let gate = sigmoid(batch.log_ratio().exp().sub_scalar(1.0) * temperature.clone());
        -(gate.mul_scalar(4.0) / temperature) * advantages
    }
}
