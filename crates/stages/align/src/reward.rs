//! What an answer is worth: functions of its text, and models that judge it.

use std::path::Path;

use burn::tensor::Device;
use cupola_artifact::stage::Input;
use cupola_artifact::{Error, Result, parse_config, unknown_name};
use cupola_tokenizer::Message;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::rewards::{classifier, code, exact_match, judge, length, pattern, reward_model};
use crate::stage::KIND;

/// An answer that is to be judged.
pub struct Answered<'a> {
    /// What was asked.
    pub prompt: &'a [Message],
    /// The answer's text.
    pub text: &'a str,
    /// Its tokens.
    pub tokens: usize,
    /// Whether it ended by itself, not at the limit.
    pub ended: bool,
    /// The record that the prompt is from.
    pub record: &'a Value,
}

/// Judges answers.
pub trait Reward: Send + Sync {
    /// What each answer is worth, in order; `None` where that cannot be told.
    ///
    /// # Errors
    /// A record that lacks what the reward needs; a model that fails.
    fn score(&self, answers: &[Answered<'_>]) -> Result<Vec<Option<f64>>>;
}

/// What a reward is made with.
pub struct Making<'a> {
    /// The stage's inputs, among which its model is.
    pub inputs: &'a [Input],
    /// Where models run.
    pub device: &'a Device,
}

impl Making<'_> {
    /// The folder of the model that a recipe names.
    ///
    /// # Errors
    /// A name that is no input.
    pub fn model(&self, name: &str) -> Result<&Path> {
        let found = self.inputs.iter().find(|input| input.key == MODELS && input.reference == name);
        found.map(|input| input.path.as_path()).ok_or_else(|| Error::failed(format!("there is no model `{name}`")))
    }
}

/// The key under which rewards' models are inputs.
pub const MODELS: &str = "rewards";

/// A reward's settings.
pub trait Settings: Send + Sync {
    /// The model that it reads: a stage or a model directory.
    fn model(&self) -> Option<&str> {
        None
    }
    /// The settings as they are in effect.
    fn effective(&self) -> Value;
    /// The reward.
    ///
    /// # Errors
    /// A model that cannot be loaded.
    fn make(&self, making: &Making<'_>) -> Result<Box<dyn Reward>>;
}

/// A kind of reward.
pub trait Kind: Sync {
    /// Its name in recipes.
    fn name(&self) -> &'static str;
    /// One line of help.
    fn about(&self) -> &'static str;
    /// Reads its settings.
    ///
    /// # Errors
    /// A wrong setting.
    fn configure(&self, table: toml::Table) -> Result<Box<dyn Settings>>;
}

/// Every kind.
pub const ALL: &[&dyn Kind] = &[
    &exact_match::ExactMatch,
    &pattern::Pattern,
    &length::Length,
    &classifier::Classifier,
    &reward_model::RewardModelReward,
    &code::Code,
    &judge::Judge,
];

/// A reward of a recipe, with what it counts.
pub struct Weighed {
    /// Its kind.
    pub kind: &'static dyn Kind,
    /// What it counts beside the others.
    pub weight: f64,
    /// Its settings.
    pub settings: Box<dyn Settings>,
}

impl Weighed {
    /// Reads `{ kind = …, weight = …, … }`.
    ///
    /// # Errors
    /// An unknown kind, a wrong setting.
    pub fn read(mut table: toml::Table) -> Result<Self> {
        let Some(toml::Value::String(name)) = table.remove("kind") else {
            let known: Vec<&str> = ALL.iter().map(|kind| kind.name()).collect();
            return Err(Error::usage(format!("a reward in [{KIND}] does not say its `kind`"))
                .with_hint(format!("there are {}", known.join(", "))));
        };
        let known: Vec<&str> = ALL.iter().map(|kind| kind.name()).collect();
        let kind = ALL.iter().copied().find(|kind| kind.name() == name).ok_or_else(|| {
            unknown_name(&format!("the `kind` of a reward in [{KIND}] cannot be `{name}`"), &name, "kind", &known)
        })?;
        let weight = match table.remove("weight") {
            None => 1.0,
            Some(toml::Value::Float(weight)) if weight.is_finite() => weight,
            Some(toml::Value::Integer(weight)) => weight as f64,
            Some(other) => {
                return Err(Error::usage(format!("the `weight` of a reward in [{KIND}] is {other}, not a number")));
            }
        };
        Ok(Self { kind, weight, settings: kind.configure(table)? })
    }

    /// Its settings as they are in effect.
    pub fn effective(&self) -> Value {
        let mut config = self.settings.effective();
        if let Some(config) = config.as_object_mut() {
            config.insert("kind".into(), self.kind.name().into());
            config.insert("weight".into(), self.weight.into());
        }
        config
    }
}

/// Settings out of a table, with a kind's name in errors.
pub(crate) fn settings<T: DeserializeOwned + Serialize>(kind: &str, table: toml::Table) -> Result<T> {
    parse_config(&format!("{KIND}.rewards, kind {kind}"), table)
}

/// A text in a record.
///
/// # Errors
/// Where it is missing; the caller knows the place.
pub(crate) fn text_of<'a>(record: &'a Value, field: &str) -> Result<&'a str> {
    record.get(field).and_then(Value::as_str).ok_or_else(|| {
        Error::failed(format!("a record has no text `{field}`, which its reward compares answers with"))
            .with_hint("name another one with `field`, or add it to the records")
    })
}
