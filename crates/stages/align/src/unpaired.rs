//! Losses on single answers that are good or bad.

use burn::tensor::Tensor;

use crate::losses::kto::{ApoZeroUnpaired, Kto};

/// How likely the policy and the frozen reference find some answers: summed log-probabilities, `[A]` each.
#[derive(Clone, Debug)]
pub struct SingleLogps {
    /// Under the policy, on the tape.
    pub policy: Tensor<1>,
    /// Under the reference.
    pub reference: Tensor<1>,
    /// Which are good.
    pub desirable: Vec<bool>,
    /// The mean ratio of answers to other prompts, an estimate of the policy's divergence from the reference; 0 where a
    /// loss does not ask for it.
    pub divergence: f64,
}

impl SingleLogps {
    /// `log π(y|x) - log π_ref(y|x)`.
    pub fn ratio(&self) -> Tensor<1> {
        self.policy.clone() - self.reference.clone()
    }
}

/// What these losses are told.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SingleSettings {
    /// How strongly the policy is held to the reference.
    pub beta: f64,
    /// What a good answer counts.
    pub desirable_weight: f64,
    /// What a bad answer counts.
    pub undesirable_weight: f64,
}

/// A loss on single answers.
pub trait SingleLoss: Sync {
    /// Its name in recipes; TRL's.
    fn name(&self) -> &'static str;
    /// One line of help, with its source.
    fn about(&self) -> &'static str;
    /// Whether it asks for [`SingleLogps::divergence`].
    fn needs_divergence(&self) -> bool {
        false
    }
    /// The loss of each answer, `[A]`.
    fn loss(&self, answers: &SingleLogps, settings: &SingleSettings) -> Tensor<1>;
}

/// Every loss.
pub const ALL: &[&dyn SingleLoss] = &[&Kto, &ApoZeroUnpaired];
