//! The number that a reward model gives.

use cupola_arch::Model;
use cupola_artifact::{Error, Result};
use cupola_generate::load_model;
use cupola_nn::Task;
use cupola_tokenizer::{Message, Tokenizer};
use cupola_train::batching::groups;
use cupola_train::conversation::Example;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::reward::{Answered, Kind, Making, Reward, Settings, settings};
use crate::reward_model::padded_scores;
use crate::stage::KIND;

/// Asks a reward model.
pub struct RewardModelReward;

/// Its settings.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Asking {
    /// The reward model: a stage or a model directory.
    model: String,
}

struct Judge {
    model: Model,
    tokenizer: Tokenizer,
}

impl Kind for RewardModelReward {
    fn name(&self) -> &'static str {
        "reward_model"
    }

    fn about(&self) -> &'static str {
        "what a reward model says of the conversation"
    }

    fn configure(&self, table: toml::Table) -> Result<Box<dyn Settings>> {
        let asking: Asking = settings(self.name(), table)?;
        match asking.model.is_empty() {
            true => Err(Error::usage(format!("a reward of kind `reward_model` in [{KIND}] needs a `model`"))),
            false => Ok(Box::new(asking)),
        }
    }
}

impl Settings for Asking {
    fn model(&self) -> Option<&str> {
        Some(&self.model)
    }

    fn effective(&self) -> Value {
        json!({})
    }

    fn make(&self, making: &Making<'_>) -> Result<Box<dyn Reward>> {
        let (model, tokenizer) = load_model(making.model(&self.model)?, making.device)?;
        let spec = model.encoder().map_err(|e| e.wrap(format!("the model `{}` of a reward", self.model)))?.spec();
        if spec.head.is_none_or(|head| head.task != Task::Numbers) || spec.labels.len() != 1 {
            return Err(Error::usage(format!("the model `{}` of a reward is no reward model", self.model))
                .with_hint("one is trained by a stage `align` with `algorithm = \"reward_model\"`"));
        }
        Ok(Box::new(Judge { model, tokenizer }))
    }
}

impl Reward for Judge {
    fn score(&self, answers: &[Answered<'_>]) -> Result<Vec<Option<f64>>> {
        let encode = |answered: &Answered<'_>| {
            let answer = [Message::new("assistant", answered.text)];
            Ok(Example::completion(&self.tokenizer, answered.prompt, &answer)?.ids)
        };
        let texts: Vec<Vec<u32>> = answers.iter().map(encode).collect::<Result<_>>()?;
        Ok(scores(&self.model, &self.tokenizer, texts)?.iter().map(|row| Some(f64::from(row[0]))).collect())
    }
}

/// The scores of texts by a network with a head for whole texts, a row each; texts beyond its context lose their beginning.
pub(crate) fn scores(model: &Model, tokenizer: &Tokenizer, mut texts: Vec<Vec<u32>>) -> Result<Vec<Vec<f32>>> {
    let encoder = model.encoder()?;
    let (most, pad) = (encoder.spec().stack.max_seq_len, encoder.spec().pad.or(tokenizer.pad()).unwrap_or(0));
    for text in &mut texts {
        text.drain(..text.len().saturating_sub(most));
        if text.is_empty() {
            text.push(pad);
        }
    }
    let lengths: Vec<usize> = texts.iter().map(Vec::len).collect();
    let mut out = Vec::with_capacity(texts.len());
    for group in groups(&lengths, None) {
        let some: Vec<&[u32]> = texts[group].iter().map(Vec::as_slice).collect();
        let scores = padded_scores(encoder, &some, pad);
        let width = scores.dims()[1];
        out.extend(cupola_ops::to_vec(&scores).chunks(width).map(<[f32]>::to_vec));
    }
    Ok(out)
}
