//! Clipped importance sampling.

use burn::tensor::Tensor;

use crate::policy::{PolicyBatch, PolicyLoss, PolicySettings, Share};

/// `-min(ρ, ε_high)·A·log π` with the ratio taken as a constant: no token's gradient is cut off (MiniMax 2025,
/// "MiniMax-M1", equation 4).
pub struct Cispo;

impl PolicyLoss for Cispo {
    fn name(&self) -> &'static str {
        "cispo"
    }

    fn about(&self) -> &'static str {
        "the ratio is a bounded weight, and no token's gradient is cut off (MiniMax 2025)"
    }

    fn defaults(&self) -> PolicySettings {
        PolicySettings { epsilon_high: 5.0, ..PolicySettings::default() }
    }

    fn share(&self) -> Share {
        Share::Token
    }

    fn tokens(&self, batch: &PolicyBatch, settings: &PolicySettings) -> Tensor<1> {
        let weight = batch.log_ratio().detach().exp().clamp_max(settings.epsilon_high);
        -(weight * batch.advantages.clone() * batch.policy.clone() * batch.mask())
    }
}
