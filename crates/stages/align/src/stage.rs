//! The stage itself: it finds the algorithm, which does the rest.

use cupola_artifact::stage::{Configured, Stage};
use cupola_artifact::{Error, Result, unknown_name};

use crate::algorithm::ALL;

/// Teaches a model what is better.
pub struct AlignStage;

/// The name of the stage in recipes.
pub(crate) const KIND: &str = "align";

impl Stage for AlignStage {
    fn kind(&self) -> &'static str {
        KIND
    }

    fn about(&self) -> &'static str {
        "teaches a model which answers are better, from preferences or rewards"
    }

    fn configure(&self, mut table: toml::Table) -> Result<Box<dyn Configured>> {
        let name = match table.remove("algorithm") {
            None => ALL[0].name().to_owned(),
            Some(toml::Value::String(name)) => name,
            Some(other) => return Err(Error::usage(format!("`algorithm` in [{KIND}] is {other}, not a name"))),
        };
        let known: Vec<&str> = ALL.iter().map(|algorithm| algorithm.name()).collect();
        let found = ALL.iter().copied().find(|algorithm| algorithm.name() == name);
        let unknown =
            || unknown_name(&format!("`algorithm` in [{KIND}] cannot be `{name}`"), &name, "algorithm", &known);
        found.ok_or_else(unknown)?.configure(table)
    }
}
