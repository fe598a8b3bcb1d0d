//! 1 for the right answer, 0 for any other.

use cupola_artifact::Result;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::reward::{Answered, Kind, Making, Reward, Settings, settings, text_of};

/// Compares answers with a field of their records.
pub struct ExactMatch;

/// Its settings.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Matching {
    /// The record's field with the right answer.
    field: String,
    /// Takes what stands between this text's last occurrence and the end of its line for the answer, as GSM8K has `####`;
    /// not set, the whole answer.
    after: Option<String>,
    /// Whether capitals are told apart.
    case: bool,
}

impl Default for Matching {
    fn default() -> Self {
        Self { field: "answer".into(), after: None, case: true }
    }
}

impl Kind for ExactMatch {
    fn name(&self) -> &'static str {
        "exact_match"
    }

    fn about(&self) -> &'static str {
        "1 where the answer is the record's, space around it apart"
    }

    fn configure(&self, table: toml::Table) -> Result<Box<dyn Settings>> {
        Ok(Box::new(settings::<Matching>(self.name(), table)?))
    }
}

impl Settings for Matching {
    fn effective(&self) -> Value {
        json!(self)
    }

    fn make(&self, _: &Making<'_>) -> Result<Box<dyn Reward>> {
        Ok(Box::new(self.clone()))
    }
}

impl Matching {
    fn cleaned(&self, text: &str) -> String {
        let found = self.after.as_ref().and_then(|after| text.rsplit_once(after.as_str()));
        let text = found.map_or(text, |(_, rest)| rest.lines().next().unwrap_or_default()).trim();
        if self.case { text.to_owned() } else { text.to_lowercase() }
    }
}

impl Reward for Matching {
    fn score(&self, answers: &[Answered<'_>]) -> Result<Vec<Option<f64>>> {
        let one = |answered: &Answered<'_>| {
            let right = self.cleaned(text_of(answered.record, &self.field)?);
            Ok(Some(f64::from(u8::from(self.cleaned(answered.text) == right))))
        };
        answers.iter().map(one).collect()
    }
}
