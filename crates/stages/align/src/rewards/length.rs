//! Rewards and punishes length.

use cupola_artifact::{Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::reward::{Answered, Kind, Making, Reward, Settings, settings};
use crate::stage::KIND;

/// Judges answers by their tokens.
pub struct Length;

/// Its settings.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Bounds {
    /// The most tokens that cost nothing; not set, any number.
    most: Option<usize>,
    /// Tokens beyond that over which the reward falls from 0 to -1 (Yu et al. 2025, "DAPO", equation 13).
    margin: usize,
    /// The fewest tokens that cost nothing; a shorter answer is worth -1.
    least: usize,
    /// What an answer that does not end by itself is worth.
    unended: f64,
}

impl Kind for Length {
    fn name(&self) -> &'static str {
        "length"
    }

    fn about(&self) -> &'static str {
        "0 within bounds of tokens, down to -1 outside"
    }

    fn configure(&self, table: toml::Table) -> Result<Box<dyn Settings>> {
        let bounds: Bounds = settings(self.name(), table)?;
        if bounds.most.is_some_and(|most| bounds.least > most) || !bounds.unended.is_finite() {
            let message =
                format!("a reward of kind `length` in [{KIND}] has `least` above `most`, or `unended` is no number");
            return Err(Error::usage(message));
        }
        Ok(Box::new(bounds))
    }
}

impl Settings for Bounds {
    fn effective(&self) -> Value {
        json!(self)
    }

    fn make(&self, _: &Making<'_>) -> Result<Box<dyn Reward>> {
        Ok(Box::new(self.clone()))
    }
}

impl Reward for Bounds {
    fn score(&self, answers: &[Answered<'_>]) -> Result<Vec<Option<f64>>> {
        let one = |answer: &Answered<'_>| {
            let beyond = self.most.map_or(0, |most| answer.tokens.saturating_sub(most)) as f64;
            let length = match answer.tokens < self.least {
                true => -1.0,
                false if beyond == 0.0 => 0.0,
                false => -(beyond / self.margin.max(1) as f64).min(1.0),
            };
            length + if answer.ended { 0.0 } else { self.unended }
        };
        Ok(answers.iter().map(|answer| Some(one(answer))).collect())
    }
}
