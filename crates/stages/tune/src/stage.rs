//! The stage itself: it finds the task, which does the rest.

use cupola_artifact::stage::{Configured, Stage};
use cupola_artifact::{Error, Result, unknown_name};

use crate::task::ALL;

/// Teaches a finished model something new.
pub struct TuneStage;

/// The name of the stage in recipes.
pub(crate) const KIND: &str = "tune";

impl Stage for TuneStage {
    fn kind(&self) -> &'static str {
        KIND
    }

    fn about(&self) -> &'static str {
        "teaches a model to answer, or to label texts"
    }

    fn configure(&self, mut table: toml::Table) -> Result<Box<dyn Configured>> {
        let name = match table.remove("task") {
            None => ALL[0].name().to_owned(),
            Some(toml::Value::String(name)) => name,
            Some(other) => return Err(Error::usage(format!("`task` in [{KIND}] is {other}, not a name"))),
        };
        let known: Vec<&str> = ALL.iter().map(|task| task.name()).collect();
        let found = ALL.iter().copied().find(|task| task.name() == name);
        let unknown = || unknown_name(&format!("`task` in [{KIND}] cannot be `{name}`"), &name, "task", &known);
        found.ok_or_else(unknown)?.configure(table)
    }
}
