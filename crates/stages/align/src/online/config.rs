//! The settings of learning from rewards.

use cupola_artifact::{Error, Result, parse_config, unknown_name};
use cupola_train::finetune::{FineTune, split_keys};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Baseline, Online};
use crate::algorithm::Algorithm;
use crate::gae::Scale;
use crate::policy::{self, PolicyLoss, PolicySettings};
use crate::reward::Weighed;
use crate::stage::KIND;

/// The settings beside those of [`FineTune`], of which `batch_size` counts prompts.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Own {
    /// What answers are worth: a list of `{ kind = …, weight = …, … }`, added up.
    #[serde(skip_serializing)]
    pub rewards: Vec<toml::Table>,
    /// The loss, by its name.
    pub loss: Option<String>,
    /// Answers to each prompt.
    pub group_size: Option<usize>,
    /// The most tokens of an answer.
    pub max_tokens: Option<usize>,
    /// Divides the logits, in answering and in learning.
    pub temperature: Option<f64>,
    /// Whether prompts go through the chat template; not set, where the tokenizer has one.
    pub chat: Option<bool>,
    /// Times that the answers of a step are learned from.
    pub iterations: Option<u64>,
    /// Optimizer steps in which the answers of a step are learned from once.
    pub minibatches: Option<u64>,
    /// How strongly the policy is held to the reference in the loss.
    pub beta: Option<f64>,
    /// What a nat of divergence from the reference costs in the reward of a token.
    pub kl_coefficient: Option<f64>,
    /// The divergence of an answer that `kl_coefficient` is steered to (Ziegler et al. 2019, section 2.2), nats.
    pub kl_target: Option<f64>,
    /// How far a ratio counts below 1.
    pub epsilon_low: Option<f64>,
    /// How far it counts above.
    pub epsilon_high: Option<f64>,
    /// What the rewards of a group are divided by.
    pub scale: Option<Scale>,
    /// What a later reward is worth, for each token.
    pub gamma: Option<f64>,
    /// How far the value function is trusted.
    pub lambda: Option<f64>,
    /// The weight of the value function's loss.
    pub value_coefficient: Option<f64>,
    /// How far the value function may move in a step.
    pub value_clip: Option<f64>,
    /// Whether groups of equal rewards are left out and others asked for in their place (Yu et al. 2025, "DAPO").
    pub replace_dead_groups: Option<bool>,
}

const KEYS: &[&str] = &[
    "rewards",
    "loss",
    "group_size",
    "max_tokens",
    "temperature",
    "chat",
    "iterations",
    "minibatches",
    "beta",
    "kl_coefficient",
    "kl_target",
    "epsilon_low",
    "epsilon_high",
    "scale",
    "gamma",
    "lambda",
    "value_coefficient",
    "value_clip",
    "replace_dead_groups",
];

/// All settings, in effect.
pub(super) struct OnlineConfig {
    pub algorithm: Online,
    pub shared: FineTune,
    pub rewards: Vec<Weighed>,
    pub loss: &'static dyn PolicyLoss,
    pub policy: PolicySettings,
    pub group_size: usize,
    pub temperature: f64,
    pub chat: Option<bool>,
    pub iterations: u64,
    pub minibatches: u64,
    pub kl_coefficient: f64,
    pub kl_target: Option<f64>,
    pub scale: Scale,
    pub gamma: f64,
    pub lambda: f64,
    pub value_coefficient: f64,
    pub value_clip: f64,
    pub replace_dead_groups: bool,
}

impl OnlineConfig {
    /// Reads a section.
    ///
    /// # Errors
    /// A wrong setting.
    pub fn read(algorithm: Online, table: toml::Table) -> Result<Self> {
        let (own, shared) = split_keys(KIND, table, KEYS)?;
        let own: Own = parse_config(KIND, own)?;
        let shared = FineTune::read(KIND, shared, 1.0)?;
        let name = own.loss.as_deref().unwrap_or(algorithm.loss);
        let known: Vec<&str> = policy::ALL.iter().map(|loss| loss.name()).collect();
        let loss = policy::ALL.iter().copied().find(|loss| loss.name() == name).ok_or_else(|| {
            let what = format!("`loss` in [{KIND}] with `algorithm = \"{}\"` cannot be `{name}`", algorithm.name());
            unknown_name(&what, name, "loss", &known)
        })?;
        let defaults = loss.defaults();
        let config = Self {
            rewards: own.rewards.iter().cloned().map(Weighed::read).collect::<Result<_>>()?,
            policy: PolicySettings {
                beta: own.beta.unwrap_or(algorithm.beta),
                epsilon_low: own.epsilon_low.unwrap_or(defaults.epsilon_low),
                epsilon_high: own.epsilon_high.unwrap_or(defaults.epsilon_high),
                max_tokens: own.max_tokens.unwrap_or(128),
            },
            group_size: own.group_size.unwrap_or(algorithm.group_size),
            temperature: own.temperature.unwrap_or(1.0),
            chat: own.chat,
            iterations: own.iterations.unwrap_or(algorithm.iterations),
            minibatches: own.minibatches.unwrap_or(1),
            kl_coefficient: own.kl_coefficient.unwrap_or(algorithm.kl_coefficient),
            kl_target: own.kl_target,
            scale: own.scale.unwrap_or_default(),
            gamma: own.gamma.unwrap_or(1.0),
            lambda: own.lambda.unwrap_or(0.95),
            value_coefficient: own.value_coefficient.unwrap_or(0.1),
            value_clip: own.value_clip.unwrap_or(0.2),
            replace_dead_groups: own.replace_dead_groups.unwrap_or(false),
            algorithm,
            shared,
            loss,
        };
        config.check(&own)?;
        Ok(config)
    }

    fn check(&self, own: &Own) -> Result<()> {
        let name = self.algorithm.name();
        let wrong =
            |what: String, hint: &str| Err(Error::usage(format!("in [{KIND}], {what}")).with_hint(hint.to_owned()));
        if self.rewards.is_empty() {
            return wrong(
                format!("`algorithm = \"{name}\"` has no `rewards`"),
                "add e.g. rewards = [{ kind = \"exact_match\", field = \"answer\" }]",
            );
        }
        let least = if matches!(self.algorithm.baseline, Baseline::Group | Baseline::Others) { 2 } else { 1 };
        if self.group_size < least {
            return wrong(
                format!("`group_size` of `{name}` must be at least {least}"),
                "an answer is compared with the others to its prompt",
            );
        }
        if self.policy.max_tokens == 0 || self.iterations == 0 || self.minibatches == 0 {
            return wrong(
                "`max_tokens`, `iterations` and `minibatches` must be at least 1".into(),
                "leave them out for the defaults",
            );
        }
        let answers = (self.shared.batch_size * self.group_size) as u64;
        if self.minibatches > answers {
            return wrong(
                format!("`minibatches = {}`, but a step has {answers} answers", self.minibatches),
                "raise `batch_size` or `group_size`",
            );
        }
        let not_negative = [
            self.policy.beta,
            self.kl_coefficient,
            self.policy.epsilon_low,
            self.policy.epsilon_high,
            self.value_coefficient,
            self.value_clip,
        ];
        if !not_negative.into_iter().all(|x| x.is_finite() && x >= 0.0) {
            return wrong("a coefficient or an epsilon is negative".into(), "they are 0 or above");
        }
        if !(self.temperature.is_finite() && self.temperature > 0.0) {
            return wrong("`temperature` must be above 0".into(), "an answer without chance teaches nothing");
        }
        if ![self.gamma, self.lambda].into_iter().all(|x| (0.0..=1.0).contains(&x))
            || !self.kl_target.is_none_or(|t| t > 0.0)
        {
            return wrong("`gamma` and `lambda` must be from 0 to 1, and `kl_target` above 0".into(), "see the manual");
        }
        let value_only = [
            ("lambda", own.lambda.is_some()),
            ("value_coefficient", own.value_coefficient.is_some()),
            ("value_clip", own.value_clip.is_some()),
        ];
        if let Some((key, _)) = value_only.iter().find(|(_, set)| *set && self.algorithm.baseline != Baseline::Value) {
            return wrong(
                format!("`{key}` is not for `{name}`, which has no value function"),
                "leave it out, or use `ppo`",
            );
        }
        if own.scale.is_some() && self.algorithm.baseline != Baseline::Group {
            return wrong(format!("`scale` is not for `{name}`"), "leave it out, or use `grpo`");
        }
        if self.replace_dead_groups && self.group_size < 2 {
            return wrong("`replace_dead_groups` needs groups".into(), "raise `group_size`");
        }
        Ok(())
    }

    /// The settings as they are in effect.
    pub fn effective(&self) -> Value {
        let mut config = json!(self.shared);
        let own = json!({
            "algorithm": self.algorithm.name(),
            "rewards": self.rewards.iter().map(Weighed::effective).collect::<Vec<_>>(),
            "loss": self.loss.name(),
            "group_size": self.group_size,
            "max_tokens": self.policy.max_tokens,
            "temperature": self.temperature,
            "chat": self.chat,
            "iterations": self.iterations,
            "minibatches": self.minibatches,
            "beta": self.policy.beta,
            "kl_coefficient": self.kl_coefficient,
            "kl_target": self.kl_target,
            "epsilon_low": self.policy.epsilon_low,
            "epsilon_high": self.policy.epsilon_high,
            "scale": self.scale,
            "gamma": self.gamma,
            "lambda": self.lambda,
            "value_coefficient": self.value_coefficient,
            "value_clip": self.value_clip,
            "replace_dead_groups": self.replace_dead_groups,
        });
        if let (Some(config), Value::Object(own)) = (config.as_object_mut(), own) {
            config.extend(own);
        }
        config
    }

    /// Optimizer steps for each step's answers.
    pub fn updates(&self) -> u64 {
        self.iterations * self.minibatches
    }

    /// Whether a frozen copy of the model is asked.
    pub fn needs_reference(&self) -> bool {
        self.policy.beta > 0.0 || self.kl_coefficient > 0.0
    }
}
