//! The clipped objective of single tokens, weighed in four ways.

use burn::tensor::Tensor;

use crate::policy::{PolicyBatch, PolicyLoss, PolicySettings, Share, clipped_objective};

/// The clipped objective with a name and a share.
pub struct Clipped {
    name: &'static str,
    about: &'static str,
    share: Share,
    epsilon_high: f64,
}

/// Group-relative policy optimization.
pub const GRPO: Clipped = Clipped {
    name: "grpo",
    about: "each answer counts the same, whatever its length (Shao et al. 2024, equation 3)",
    share: Share::Answer,
    epsilon_high: 0.2,
};

/// The same with each token of a batch counting the same.
pub const BNPO: Clipped = Clipped {
    name: "bnpo",
    about: "each token of a batch counts the same (Xiao et al. 2025)",
    share: Share::Token,
    epsilon_high: 0.2,
};

/// Without the bias towards short good and long bad answers.
pub const DR_GRPO: Clipped = Clipped {
    name: "dr_grpo",
    about: "tokens count as if all answers were as long as they may be, which favours no length (Liu et al. 2025)",
    share: Share::Longest,
    epsilon_high: 0.2,
};

/// With a higher upper bound.
pub const DAPO: Clipped = Clipped {
    name: "dapo",
    about: "each token counts the same, and unlikely tokens may rise further (Yu et al. 2025, equation 8)",
    share: Share::Token,
    epsilon_high: 0.28,
};

impl PolicyLoss for Clipped {
    fn name(&self) -> &'static str {
        self.name
    }

    fn about(&self) -> &'static str {
        self.about
    }

    fn defaults(&self) -> PolicySettings {
        PolicySettings { epsilon_high: self.epsilon_high, ..PolicySettings::default() }
    }

    fn share(&self) -> Share {
        self.share
    }

    fn tokens(&self, batch: &PolicyBatch, settings: &PolicySettings) -> Tensor<1> {
        clipped_objective(batch.log_ratio(), batch.advantages.clone(), settings)
    }
}
