//! The clipped objective of whole answers.

use burn::tensor::Tensor;

use crate::policy::{PolicyBatch, PolicyLoss, PolicySettings, Share, clipped_objective};

/// Group sequence policy optimization.
pub struct Gspo;

impl PolicyLoss for Gspo {
    fn name(&self) -> &'static str {
        "gspo"
    }

    fn about(&self) -> &'static str {
        "the ratio is the geometric mean over an answer's tokens (Zheng et al. 2025, equations 5 and 7)"
    }

    fn defaults(&self) -> PolicySettings {
        // Section 5.1 there.
        PolicySettings { epsilon_low: 3e-4, epsilon_high: 4e-4, ..PolicySettings::default() }
    }

    fn share(&self) -> Share {
        Share::Answer
    }

    fn tokens(&self, batch: &PolicyBatch, settings: &PolicySettings) -> Tensor<1> {
        let mean = batch.sums(batch.log_ratio()) * batch.of_answers(|len| 1.0 / len.max(1) as f64);
        batch.spread(clipped_objective(mean, batch.answer_advantages.clone(), settings))
    }
}

/// The ratio of the whole answer's probability.
pub struct Rloo;

impl PolicyLoss for Rloo {
    fn name(&self) -> &'static str {
        "rloo"
    }

    fn about(&self) -> &'static str {
        "an answer is one action: the ratio of its whole probability (Ahmadian et al. 2024, section 3.2)"
    }

    fn share(&self) -> Share {
        Share::Answer
    }

    fn tokens(&self, batch: &PolicyBatch, settings: &PolicySettings) -> Tensor<1> {
        batch.spread(clipped_objective(batch.sums(batch.log_ratio()), batch.answer_advantages.clone(), settings))
    }
}
