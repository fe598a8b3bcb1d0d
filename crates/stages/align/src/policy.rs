//! Losses on answers that the policy gave itself.

use burn::tensor::Tensor;

use crate::policies::{cispo, clipped, sapo, sequence};

/// Some answers of a step, token by token: `[N]` each, with places that belong to no answer among them.
#[derive(Clone, Debug)]
pub struct PolicyBatch {
    /// The tokens' log-probabilities under the policy, on the tape.
    pub policy: Tensor<1>,
    /// Under the policy that gave the answers.
    pub old: Tensor<1>,
    /// Under the frozen reference; only where it holds the policy.
    pub reference: Option<Tensor<1>>,
    /// How much better than expected a token is, 0 outside answers.
    pub advantages: Tensor<1>,
    /// The same for whole answers, `[A]`.
    pub answer_advantages: Tensor<1>,
    /// 1 where a token of an answer is, `[A, N]`.
    pub members: Tensor<2>,
    /// Tokens of each answer.
    pub lengths: Vec<usize>,
    /// Answers of the whole step.
    pub step_answers: usize,
    /// Tokens in the answers of the whole step.
    pub step_tokens: usize,
}

impl PolicyBatch {
    /// The sum over each answer's tokens, `[A]`.
    pub fn sums(&self, values: Tensor<1>) -> Tensor<1> {
        let [answers, n] = self.members.dims();
        self.members.clone().matmul(values.reshape([n, 1])).reshape([answers])
    }

    /// What each answer has, for each of its tokens, `[N]`; 0 outside.
    pub fn spread(&self, values: Tensor<1>) -> Tensor<1> {
        let [answers, n] = self.members.dims();
        values.reshape([1, answers]).matmul(self.members.clone()).reshape([n])
    }

    /// Numbers for the answers, `[A]`.
    pub fn of_answers(&self, value: impl Fn(usize) -> f64) -> Tensor<1> {
        let values = self.lengths.iter().map(|len| value(*len) as f32).collect();
        cupola_ops::from_vec(values, [self.lengths.len()], &self.members.device())
    }

    /// `log π / π_old` of each token; 0 outside answers.
    pub fn log_ratio(&self) -> Tensor<1> {
        (self.policy.clone() - self.old.clone()) * self.mask()
    }

    /// 1 at tokens of answers, `[N]`.
    pub fn mask(&self) -> Tensor<1> {
        self.spread(self.of_answers(|_| 1.0))
    }

    /// The estimate `π_ref/π - log(π_ref/π) - 1` of each token's divergence from the reference (Schulman 2020, "k3"); 0
    /// outside answers.
    pub fn divergence(&self) -> Option<Tensor<1>> {
        let reference = self.reference.clone()?;
        let log = (reference - self.policy.clone()) * self.mask();
        Some(log.clone().exp() - log.add_scalar(1.0))
    }
}

/// What the tokens of a step are worth against each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Share {
    /// Each answer the same, divided among its tokens (GRPO).
    Answer,
    /// Each token the same (DAPO).
    Token,
    /// Each token the same, in answers as if all were as long as they may be (Dr. GRPO).
    Longest,
}

/// What these losses are told.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PolicySettings {
    /// How strongly the policy is held to the reference in the loss.
    pub beta: f64,
    /// How far a ratio counts below 1.
    pub epsilon_low: f64,
    /// How far it counts above; CISPO's is the bound itself.
    pub epsilon_high: f64,
    /// The longest an answer may be, tokens.
    pub max_tokens: usize,
}

impl Default for PolicySettings {
    fn default() -> Self {
        Self { beta: 0.0, epsilon_low: 0.2, epsilon_high: 0.2, max_tokens: 256 }
    }
}

/// A loss on the policy's own answers.
pub trait PolicyLoss: Sync {
    /// Its name in recipes; TRL's.
    fn name(&self) -> &'static str;
    /// One line of help, with its source.
    fn about(&self) -> &'static str;
    /// The settings where a recipe does not give them.
    fn defaults(&self) -> PolicySettings {
        PolicySettings::default()
    }
    /// What a token is worth.
    fn share(&self) -> Share;
    /// What is to be lowered at each token, `[N]`, before it is weighed; anything outside answers.
    fn tokens(&self, batch: &PolicyBatch, settings: &PolicySettings) -> Tensor<1>;
}

/// Every loss.
pub const ALL: &[&dyn PolicyLoss] = &[
    &clipped::GRPO,
    &clipped::BNPO,
    &clipped::DR_GRPO,
    &clipped::DAPO,
    &sequence::Gspo,
    &sequence::Rloo,
    &sapo::Sapo,
    &cispo::Cispo,
];

/// The loss of these answers, `[1]`; the losses of a step's parts add up to the step's.
pub fn policy_loss(loss: &dyn PolicyLoss, batch: &PolicyBatch, settings: &PolicySettings) -> Tensor<1> {
    let mut tokens = loss.tokens(batch, settings);
    if settings.beta > 0.0
        && let Some(divergence) = batch.divergence()
    {
        tokens = tokens + divergence.mul_scalar(settings.beta);
    }
    let weight = |len: usize| match loss.share() {
        Share::Answer => 1.0 / (batch.step_answers.max(1) * len.max(1)) as f64,
        Share::Token => 1.0 / batch.step_tokens.max(1) as f64,
        Share::Longest => 1.0 / (batch.step_answers.max(1) * settings.max_tokens.max(1)) as f64,
    };
    (tokens * batch.spread(batch.of_answers(weight))).sum()
}

/// `-min(ρ·A, clip(ρ, 1-ε_low, 1+ε_high)·A)` with `ρ = e^log_ratio` (Schulman et al. 2017, equation 7).
pub fn clipped_objective(log_ratio: Tensor<1>, advantages: Tensor<1>, settings: &PolicySettings) -> Tensor<1> {
    let ratio = log_ratio.exp();
    let clipped = ratio.clone().clamp(1.0 - settings.epsilon_low, 1.0 + settings.epsilon_high);
    -(ratio * advantages.clone()).min_pair(clipped * advantages)
}
