//! Losses on pairs of answers.

use std::f64::consts::LN_2;

use burn::tensor::Tensor;
use burn::tensor::activation::log_sigmoid;
use serde::{Deserialize, Serialize};

use crate::losses::{
    aot, apo, bco, cpo, discopop, exo, hinge, ipo, nca, orpo, robust, sft, sigmoid, sigmoid_norm, simpo, sppo,
};

/// How likely the policy and the frozen reference find the answers of some pairs: summed log-probabilities, `[P]` each.
/// A loss that needs no reference must not read the reference's.
#[derive(Clone, Debug)]
pub struct PairLogps {
    /// The chosen answers under the policy, on the tape.
    pub chosen: Tensor<1>,
    /// The rejected answers under the policy, on the tape.
    pub rejected: Tensor<1>,
    /// The chosen answers under the reference.
    pub ref_chosen: Tensor<1>,
    /// The rejected answers under the reference.
    pub ref_rejected: Tensor<1>,
    /// Tokens of the chosen answers.
    pub chosen_tokens: Tensor<1>,
    /// Tokens of the rejected answers.
    pub rejected_tokens: Tensor<1>,
    /// Tokens of a chosen answer, on average over the whole step.
    pub mean_chosen_tokens: f64,
}

impl PairLogps {
    /// `log π(y_w|x) - log π_ref(y_w|x)`.
    pub fn chosen_ratio(&self) -> Tensor<1> {
        self.chosen.clone() - self.ref_chosen.clone()
    }

    /// `log π(y_l|x) - log π_ref(y_l|x)`.
    pub fn rejected_ratio(&self) -> Tensor<1> {
        self.rejected.clone() - self.ref_rejected.clone()
    }

    /// How much more the policy than the reference prefers the chosen answer.
    pub fn margin(&self) -> Tensor<1> {
        self.chosen_ratio() - self.rejected_ratio()
    }

    /// Both answers' ratios as the divergence sees them.
    pub fn scores(&self, divergence: Divergence) -> [Tensor<1>; 2] {
        [divergence.score(self.chosen_ratio()), divergence.score(self.rejected_ratio())]
    }

    /// How much higher the chosen answer scores.
    pub fn score_margin(&self, divergence: Divergence) -> Tensor<1> {
        let [chosen, rejected] = self.scores(divergence);
        chosen - rejected
    }

    /// The mean log-probability of the answers' tokens.
    pub fn per_token(&self) -> [Tensor<1>; 2] {
        [self.chosen.clone() / self.chosen_tokens.clone(), self.rejected.clone() / self.rejected_tokens.clone()]
    }

    /// The chosen answers' negative log-likelihood, so that its mean over the step's pairs is the mean over their tokens.
    pub fn chosen_nll(&self) -> Tensor<1> {
        self.chosen.clone().div_scalar(-self.mean_chosen_tokens.max(1.0))
    }
}

/// The divergence that holds the policy to the reference: its derivative takes the place of the logarithm of the ratio
/// (Wang et al. 2023, "Beyond Reverse KL", table 1). With `t = π / π_ref`:
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Divergence {
    /// `log t`, DPO as published.
    #[default]
    ReverseKl,
    /// `1 - 1/t`.
    ForwardKl,
    /// Jensen and Shannon's: `log(2t / (1 + t))`.
    JsDivergence,
    /// `(t^(α-1) - 1) / (α-1)` with α = 1/2.
    AlphaDivergence,
}

/// α of [`Divergence::AlphaDivergence`].
const ALPHA: f64 = 0.5;

/// The largest exponent that is raised to: e^80 is still a 32-bit float.
const MAX_EXPONENT: f64 = 80.0;

impl Divergence {
    /// What it makes of the logarithms of ratios.
    pub fn score(self, ratio: Tensor<1>) -> Tensor<1> {
        match self {
            Divergence::ReverseKl => ratio,
            Divergence::ForwardKl => -ratio.neg().clamp_max(MAX_EXPONENT).exp().sub_scalar(1.0),
            Divergence::JsDivergence => log_sigmoid(ratio).add_scalar(LN_2),
            Divergence::AlphaDivergence => {
                let power = ratio.mul_scalar(ALPHA - 1.0).clamp_max(MAX_EXPONENT).exp();
                power.sub_scalar(1.0).div_scalar(ALPHA - 1.0)
            }
        }
    }
}

/// What losses are told. Which of them a loss heeds, and its defaults, it says itself.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LossSettings {
    /// How strongly the policy is held to the reference; `τ` of IPO, a temperature where there is no reference.
    pub beta: f64,
    /// The share of the pairs that are taken to be the wrong way round.
    pub label_smoothing: f64,
    /// What holds the policy to the reference.
    pub divergence: Divergence,
    /// The margin that is asked for (SimPO's γ).
    pub gamma: f64,
    /// The curve of AlphaPO's reward; 0 is the logarithm.
    pub alpha: f64,
    /// DiscoPOP's temperature.
    pub tau: f64,
    /// The weight of the chosen answers' negative log-likelihood beside the loss.
    pub nll_weight: f64,
}

impl Default for LossSettings {
    fn default() -> Self {
        Self {
            beta: 0.1,
            label_smoothing: 0.0,
            divergence: Divergence::ReverseKl,
            gamma: 0.5,
            alpha: 0.0,
            tau: 0.05,
            nll_weight: 0.0,
        }
    }
}

/// Which log-probability an answer's reward is `β` times of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reward {
    /// How much likelier it has become than under the reference (Rafailov et al. 2023, section 4).
    Ratio,
    /// Its own.
    Sum,
    /// Its tokens' mean.
    Mean,
}

/// A loss on pairs.
pub trait PairLoss: Sync {
    /// Its name in recipes; TRL's where it has one.
    fn name(&self) -> &'static str;
    /// One line of help, with its source.
    fn about(&self) -> &'static str;
    /// The settings that it heeds.
    fn keys(&self) -> &'static [&'static str];
    /// Their values where a recipe does not give them.
    fn defaults(&self) -> LossSettings {
        LossSettings::default()
    }
    /// What an answer's reward is; those of [`Reward::Ratio`] need a reference.
    fn reward(&self) -> Reward {
        Reward::Ratio
    }
    /// Whether a pair's loss depends on the other pairs of its step, so that they have to be computed together.
    fn compares_pairs(&self) -> bool {
        false
    }
    /// The loss of each pair, `[P]`.
    fn loss(&self, pairs: &PairLogps, settings: &LossSettings) -> Tensor<1>;
}

/// Every loss.
pub const ALL: &[&dyn PairLoss] = &[
    &sigmoid::Sigmoid,
    &ipo::Ipo,
    &hinge::Hinge,
    &robust::Robust,
    &sigmoid_norm::SigmoidNorm,
    &exo::ExoPair,
    &nca::NcaPair,
    &bco::BcoPair,
    &sppo::SppoHard,
    &aot::Aot,
    &aot::AotUnpaired,
    &apo::ApoZero,
    &apo::ApoDown,
    &discopop::DiscoPop,
    &orpo::Orpo,
    &simpo::SimPo,
    &cpo::Cpo,
    &cpo::CpoHinge,
    &sft::Sft,
];

/// The losses' settings by name, for recipes.
pub const KEYS: &[&str] = &["beta", "label_smoothing", "divergence", "gamma", "alpha", "tau", "nll_weight"];

/// `-(1-ε)·log σ(x) - ε·log σ(-x)` (Mitchell 2023, "cDPO").
pub fn logistic(x: Tensor<1>, smoothing: f64) -> Tensor<1> {
    let kept = log_sigmoid(x.clone()).mul_scalar(smoothing - 1.0);
    if smoothing == 0.0 {
        return kept;
    }
    kept - log_sigmoid(-x).mul_scalar(smoothing)
}
