//! 1 for an answer that a regular expression matches.

use cupola_artifact::{Error, Result};
use regex::Regex;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::reward::{Answered, Kind, Making, Reward, Settings, settings};
use crate::stage::KIND;

/// Looks for a pattern.
pub struct Pattern;

/// Its settings.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Looking {
    /// The regular expression, anywhere in the answer unless it says `^` and `$`.
    pattern: String,
}

struct Found(Regex);

impl Kind for Pattern {
    fn name(&self) -> &'static str {
        "regex"
    }

    fn about(&self) -> &'static str {
        "1 where `pattern` matches the answer"
    }

    fn configure(&self, table: toml::Table) -> Result<Box<dyn Settings>> {
        let looking: Looking = settings(self.name(), table)?;
        if looking.pattern.is_empty() {
            return Err(Error::usage(format!("a reward of kind `regex` in [{KIND}] has no `pattern`")));
        }
        looking.regex()?;
        Ok(Box::new(looking))
    }
}

impl Looking {
    fn regex(&self) -> Result<Regex> {
        Regex::new(&self.pattern).map_err(|e| {
            Error::usage(format!("the `pattern` of a reward in [{KIND}] is no regular expression")).with_source(e)
        })
    }
}

impl Settings for Looking {
    fn effective(&self) -> Value {
        json!(self)
    }

    fn make(&self, _: &Making<'_>) -> Result<Box<dyn Reward>> {
        Ok(Box::new(Found(self.regex()?)))
    }
}

impl Reward for Found {
    fn score(&self, answers: &[Answered<'_>]) -> Result<Vec<Option<f64>>> {
        Ok(answers.iter().map(|a| Some(f64::from(u8::from(self.0.is_match(a.text))))).collect())
    }
}
