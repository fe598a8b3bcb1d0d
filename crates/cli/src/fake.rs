//! Stages that do next to nothing, to test the executor with.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use cupola_artifact::stage::{Configured, Plan, PlanInputs, Reference, Report, Stage, StageContext};
use cupola_artifact::{Context, Error, Result, parse_config};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

/// The names of the stages that ran.
pub type Log = Arc<Mutex<Vec<String>>>;

/// A stage that joins what its inputs hold.
pub struct Fake {
    kind: &'static str,
    log: Log,
}

/// `data`, `pretrain` and `eval`.
pub fn all(log: &Log) -> Vec<Fake> {
    ["data", "pretrain", "eval"].into_iter().map(|kind| Fake { kind, log: Arc::clone(log) }).collect()
}

#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Config {
    /// What it adds to its inputs.
    text: String,
    /// A number.
    depth: i64,
    /// What it needs.
    data: Option<String>,
    models: Vec<String>,
    sources: Vec<String>,
}

struct Ready {
    kind: &'static str,
    log: Log,
    config: Config,
}

impl Stage for Fake {
    fn kind(&self) -> &'static str {
        self.kind
    }

    fn about(&self) -> &'static str {
        "joins texts"
    }

    fn uses_device(&self) -> bool {
        self.kind != "data"
    }

    fn configure(&self, table: toml::Table) -> Result<Box<dyn Configured>> {
        let config = parse_config(self.kind, table)?;
        Ok(Box::new(Ready { kind: self.kind, log: Arc::clone(&self.log), config }))
    }
}

impl Configured for Ready {
    fn references(&self) -> Vec<Reference> {
        let of = |key, values: &[String]| -> Vec<Reference> {
            values.iter().map(|value| Reference { key, value: value.clone() }).collect()
        };
        let mut references = of("sources", &self.config.sources);
        references.extend(of("data", self.config.data.as_slice()));
        references.extend(of("models", &self.config.models));
        references
    }

    fn effective_config(&self) -> Value {
        serde_json::to_value(&self.config).unwrap_or_default()
    }

    fn plan(&self, inputs: &PlanInputs<'_>) -> Result<Plan> {
        let parameters = 1000.0 * self.config.depth as f64 + inputs.fact("data", "parameters").unwrap_or(0.0);
        let notes = vec![format!("depth {} as the recipe says", self.config.depth)];
        Ok(Plan {
            facts: [("parameters".into(), parameters)].into(),
            flops: 1e9,
            seconds: 2.0,
            notes,
            ..Plan::default()
        })
    }

    /// A file `fail` in the recipe's folder makes the stage that it names fail, half-way, with a full disk.
    fn run(&self, context: &StageContext<'_>) -> Result<Report> {
        let name = format!("{}.{}", self.kind, context.name);
        let mut steps = Vec::new();
        for step in ["first", "second"] {
            let mark = context.work.join(step);
            if mark.exists() {
                steps.push(format!("{name} skips {step}"));
                continue;
            }
            let fails = std::fs::read_to_string(context.recipe_dir.join("fail")).is_ok_and(|stage| stage == name);
            if step == "second" && fails {
                let full = std::io::Error::from(std::io::ErrorKind::StorageFull);
                return Err(full).context(|| "cannot write out.txt".into());
            }
            std::fs::write(&mark, "").context(|| "mark".into())?;
        }
        let mut text = String::new();
        for input in context.inputs {
            let path: PathBuf = if input.kind.is_some() { input.path.join("out.txt") } else { input.path.clone() };
            text.push_str(&std::fs::read_to_string(&path).context(|| format!("cannot read {}", path.display()))?);
        }
        text.push_str(&self.config.text);
        if text.is_empty() {
            return Err(Error::failed("there is no text"));
        }
        std::fs::write(context.dir.join("out.txt"), &text).context(|| "out.txt".into())?;
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        log.extend(steps);
        log.push(name);
        let scores = match self.kind {
            "eval" => {
                context.inputs.iter().map(|i| (i.reference.clone(), Map::from_iter([("acc".into(), json!(0.5))])))
            }
            _ => return Ok(Report { came_out: text, ..Report::default() }),
        };
        Ok(Report { came_out: text, scores: scores.collect(), ..Report::default() })
    }
}
