//! What a stage is: the contract between the stages and the program that runs a recipe.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::Result;

/// One kind of stage (`data`, `pretrain`, …): reads its part of a recipe.
pub trait Stage: Send + Sync {
    /// The first half of a recipe's section name, `pretrain` in `[pretrain.base]`.
    fn kind(&self) -> &'static str;

    /// One line of help.
    fn about(&self) -> &'static str;

    /// The version of the artifact's layout; a new one makes the stage run again.
    fn format_version(&self) -> u32 {
        1
    }

    /// Whether the device matters to the result; a stage that knows no tensors says no and is not run again for another.
    fn uses_device(&self) -> bool {
        true
    }

    /// Reads the section; unknown keys are errors that suggest the nearest known one.
    fn configure(&self, table: toml::Table) -> Result<Box<dyn Configured>>;
}

/// A stage with its settings.
pub trait Configured: Send + Sync {
    /// The settings that name earlier stages or paths.
    fn references(&self) -> Vec<Reference>;

    /// All settings with their defaults filled in; what decides whether the stage must run again.
    fn effective_config(&self) -> Value;

    /// Whether it is to run again though nothing that is known here has changed, e.g. to see whether something elsewhere has.
    fn looks_again(&self) -> bool {
        false
    }

    /// What running would cost, from the plans of the stages it refers to.
    fn plan(&self, inputs: &PlanInputs) -> Result<Plan>;

    /// Runs, writing the artifact's files into `context.dir`.
    fn run(&self, context: &StageContext<'_>) -> Result<Report>;
}

/// A setting that names an earlier stage or a path, e.g. `model = "base"`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    /// The setting's name (`model`); several references may share it (`models`).
    pub key: &'static str,
    /// What the recipe says.
    pub value: String,
}

/// A reference, resolved.
#[derive(Clone, Debug)]
pub struct Input {
    /// The setting's name.
    pub key: String,
    /// What the recipe says; the stage's name for an artifact.
    pub reference: String,
    /// The artifact's directory, or the file or directory itself.
    pub path: PathBuf,
    /// The stage kind for an artifact, `None` for a path.
    pub kind: Option<String>,
}

/// What a stage is given to run.
pub struct StageContext<'a> {
    /// The second half of the section name, `base` in `[pretrain.base]`.
    pub name: &'a str,
    /// The artifact under construction. Every file below it when `run` returns belongs to the artifact.
    pub dir: &'a Path,
    /// Beside `dir`, kept when a run is cut off and removed when the stage is done: checkpoints, caches.
    pub work: &'a Path,
    /// The folder that relative paths in the recipe start from.
    pub recipe_dir: &'a Path,
    /// The resolved references, in the order `references` gave them.
    pub inputs: &'a [Input],
    /// `cpu`, `vulkan`, `cuda`, `rocm` or `metal`.
    pub device: &'a str,
    /// Where all randomness starts.
    pub seed: u64,
    /// Where progress is shown.
    pub progress: &'a dyn Progress,
}

impl StageContext<'_> {
    /// The inputs given for one setting.
    pub fn inputs_for<'s>(&'s self, key: &'s str) -> impl Iterator<Item = &'s Input> {
        self.inputs.iter().filter(move |input| input.key == key)
    }

    /// The only input given for a setting; an error when there is none.
    pub fn input(&self, key: &str) -> Result<&Input> {
        self.inputs
            .iter()
            .find(|input| input.key == key)
            .ok_or_else(|| crate::Error::usage(format!("`{key}` is not set in the stage `{}`", self.name)))
    }
}

/// Shows what is going on: a bar on a terminal, plain lines elsewhere.
pub trait Progress: Send + Sync {
    /// A task begins; `total` counts `unit`s.
    fn begin(&self, task: &str, total: Option<u64>, unit: &str);
    /// The task has come to `position`; `message` holds its latest figures.
    fn update(&self, position: u64, message: &str);
    /// The task is over.
    fn end(&self);
    /// A line of its own.
    fn line(&self, text: &str);
    /// A line that asks for attention.
    fn warn(&self, text: &str);
}

/// Shows nothing; for tests and library use.
pub struct Silent;

impl Progress for Silent {
    fn begin(&self, _: &str, _: Option<u64>, _: &str) {}
    fn update(&self, _: u64, _: &str) {}
    fn end(&self) {}
    fn line(&self, _: &str) {}
    fn warn(&self, _: &str) {}
}

/// What a stage tells when it is done; kept in the manifest and shown in the run's table.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Report {
    /// What went in, for people: `1 file, 1.1 MB`.
    pub went_in: String,
    /// What came out, for people.
    pub came_out: String,
    /// Counts and measures by name (`documents`, `tokens`, `validation_loss`, `bits_per_byte`, `tokens_per_second`, …).
    pub metrics: Map<String, Value>,
    /// Rows for the comparison of models: model name, then score by measure. Only eval and compress give any.
    pub scores: Vec<(String, Map<String, Value>)>,
}

/// What a stage would cost; estimates.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// Facts for the stages after it: `vocab_size`, `bytes`, `documents`, `parameters`, `tokens`, `d_model`, ….
    pub facts: BTreeMap<String, f64>,
    /// Floating-point operations.
    pub flops: f64,
    /// Peak memory, bytes.
    pub memory_bytes: f64,
    /// Size of the artifact, bytes.
    pub disk_bytes: f64,
    /// Time, seconds.
    pub seconds: f64,
    /// What else is worth saying, e.g. derived settings with their rule.
    pub notes: Vec<String>,
}

/// What `plan` knows about a stage's inputs.
pub struct PlanInputs<'a> {
    /// Setting name, and the plan of the stage it names (`None` when it names a path, given resolved).
    pub inputs: Vec<(Input, Option<&'a Plan>)>,
    /// The folder that relative paths in the recipe start from.
    pub recipe_dir: &'a Path,
    /// The machine's peak, FLOP/s.
    pub peak_flops: f64,
}

impl PlanInputs<'_> {
    /// A fact of the stage that `key` names.
    pub fn fact(&self, key: &str, fact: &str) -> Option<f64> {
        self.inputs.iter().find(|(i, _)| i.key == key).and_then(|(_, plan)| plan.as_ref()?.facts.get(fact).copied())
    }
}
