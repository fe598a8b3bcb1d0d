//! Learning from rewards: the model answers prompts, and what its answers are worth moves it.

mod config;
mod objective;
mod rollout;
mod stage;
#[cfg(test)]
mod tests;

use cupola_artifact::Result;
use cupola_artifact::stage::Configured;

use crate::algorithm::Algorithm;
use config::OnlineConfig;

/// What an answer's tokens are compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Baseline {
    /// A value function, by generalized advantage estimation.
    Value,
    /// The mean of the answers to the same prompt.
    Group,
    /// The mean of the other answers to the same prompt.
    Others,
    /// The mean over all tokens of the step, of what follows each.
    Batch,
}

/// A way of learning from rewards. All share one loop and differ by these numbers.
#[derive(Clone, Copy, Debug)]
pub struct Online {
    name: &'static str,
    about: &'static str,
    /// What rewards are compared with.
    pub baseline: Baseline,
    /// The loss.
    pub loss: &'static str,
    /// Answers to each prompt.
    pub group_size: usize,
    /// Times that the answers of a step are learned from.
    pub iterations: u64,
    /// How strongly the policy is held to the reference in the loss.
    pub beta: f64,
    /// How strongly it is by a reward.
    pub kl_coefficient: f64,
}

/// Proximal policy optimization (Schulman et al. 2017; on language models Ziegler et al. 2019, Ouyang et al. 2022).
pub const PPO: Online = Online {
    name: "ppo",
    about: "each token is compared with a value function (Schulman et al. 2017; Ouyang et al. 2022)",
    baseline: Baseline::Value,
    loss: "bnpo",
    group_size: 1,
    iterations: 4,
    beta: 0.0,
    kl_coefficient: 0.05,
};

/// REINFORCE with a leave-one-out baseline.
pub const RLOO: Online = Online {
    name: "rloo",
    about: "each answer is compared with the others to its prompt (Ahmadian et al. 2024)",
    baseline: Baseline::Others,
    loss: "rloo",
    group_size: 4,
    iterations: 1,
    beta: 0.0,
    kl_coefficient: 0.05,
};

/// REINFORCE with PPO's clipping and a baseline over the whole batch.
pub const REINFORCE_PP: Online = Online {
    name: "reinforce_pp",
    about: "REINFORCE++: each token is compared with the whole step (Hu et al. 2025)",
    baseline: Baseline::Batch,
    loss: "bnpo",
    group_size: 1,
    iterations: 1,
    beta: 0.0,
    kl_coefficient: 0.01,
};

/// Group-relative policy optimization, and by `loss` and `scale` its variants.
pub const GRPO: Online = Online {
    name: "grpo",
    about: "each answer is compared with its group (Shao et al. 2024); `loss` and `scale` give DAPO, Dr. GRPO, GSPO and others",
    baseline: Baseline::Group,
    loss: "grpo",
    group_size: 8,
    iterations: 1,
    beta: 0.04,
    kl_coefficient: 0.0,
};

impl Algorithm for Online {
    fn name(&self) -> &'static str {
        self.name
    }

    fn about(&self) -> &'static str {
        self.about
    }

    fn configure(&self, table: toml::Table) -> Result<Box<dyn Configured>> {
        Ok(Box::new(OnlineConfig::read(*self, table)?))
    }
}
