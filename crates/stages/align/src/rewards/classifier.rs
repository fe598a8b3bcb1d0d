//! How likely a classifier finds a label.

use cupola_arch::Model;
use cupola_artifact::{Error, Result, unknown_name};
use cupola_generate::load_model;
use cupola_nn::Task;
use cupola_tokenizer::Tokenizer;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::reward::{Answered, Kind, Making, Reward, Settings, settings};
use crate::rewards::reward_model::scores;
use crate::stage::KIND;

/// Asks a classifier of texts.
pub struct Classifier;

/// Its settings.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Asking {
    /// The classifier: a stage or a model directory.
    model: String,
    /// The label whose log-odds or probability is the reward.
    label: String,
    /// Whether the prompt is read with the answer.
    with_prompt: bool,
    /// Whether the reward is the label's probability, not its log-odds.
    probability: bool,
}

impl Default for Asking {
    fn default() -> Self {
        Self { model: String::new(), label: String::new(), with_prompt: true, probability: false }
    }
}

struct Judge {
    asking: Asking,
    model: Model,
    tokenizer: Tokenizer,
    label: usize,
}

impl Kind for Classifier {
    fn name(&self) -> &'static str {
        "classifier"
    }

    fn about(&self) -> &'static str {
        "the log-odds of `label` by a classifier of texts, or its probability"
    }

    fn configure(&self, table: toml::Table) -> Result<Box<dyn Settings>> {
        let asking: Asking = settings(self.name(), table)?;
        if asking.model.is_empty() || asking.label.is_empty() {
            let message = format!("a reward of kind `classifier` in [{KIND}] needs `model` and `label`");
            return Err(Error::usage(message));
        }
        Ok(Box::new(asking))
    }
}

impl Settings for Asking {
    fn model(&self) -> Option<&str> {
        Some(&self.model)
    }

    fn effective(&self) -> Value {
        let mut config = json!(self);
        // What the model is, the input's hash says.
        config.as_object_mut().map(|config| config.remove("model"));
        config
    }

    fn make(&self, making: &Making<'_>) -> Result<Box<dyn Reward>> {
        let (model, tokenizer) = load_model(making.model(&self.model)?, making.device)?;
        let spec = model.encoder().map_err(|e| e.wrap(format!("the model `{}` of a reward", self.model)))?.spec();
        if spec.head.is_none_or(|head| head.task != Task::Label) {
            return Err(Error::usage(format!("the model `{}` of a reward is no classifier of texts", self.model))
                .with_hint("one is trained by a stage `tune` with `task = \"classification\"`"));
        }
        let names: Vec<&str> = spec.labels.iter().map(String::as_str).collect();
        let label = names.iter().position(|name| *name == self.label).ok_or_else(|| {
            unknown_name(
                &format!("the classifier `{}` has no label `{}`", self.model, self.label),
                &self.label,
                "label",
                &names,
            )
        })?;
        Ok(Box::new(Judge { asking: self.clone(), model, tokenizer, label }))
    }
}

impl Reward for Judge {
    fn score(&self, answers: &[Answered<'_>]) -> Result<Vec<Option<f64>>> {
        let texts: Vec<String> = answers
            .iter()
            .map(|answered| {
                let asked = answered.prompt.iter().map(|m| m.content.as_str()).filter(|_| self.asking.with_prompt);
                asked.chain([answered.text]).collect()
            })
            .collect();
        let texts: Vec<Vec<u32>> =
            texts.iter().map(|text| self.tokenizer.encode_framed(text, None)).collect::<Result<_>>()?;
        let of_label = |row: &[f32]| {
            let row: Vec<f64> = row.iter().map(|score| f64::from(*score)).collect();
            let most = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let others: f64 = (0..row.len()).filter(|i| *i != self.label).map(|i| (row[i] - most).exp()).sum();
            let odds = row[self.label] - most - others.ln();
            if self.asking.probability { 1.0 / (1.0 + (-odds).exp()) } else { odds }
        };
        Ok(scores(&self.model, &self.tokenizer, texts)?.iter().map(|row| Some(of_label(row))).collect())
    }
}
