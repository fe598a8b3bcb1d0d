//! The stage `eval`.

use std::path::Path;
use std::time::Instant;

use cupola_artifact::stage::{Configured, Input, Plan, PlanInputs, Reference, Report, Stage, StageContext};
use cupola_artifact::{Result, human_seconds, parse_config};
use serde_json::{Map, Value, json};

use crate::contamination::Contamination;
use crate::items::Pick;
use crate::report::{ModelResult, Results};
use crate::settings::{EvalConfig, Prepared};
use crate::subject::Subject;
use crate::task::{Outcome, TaskInput};

/// Measures models.
pub struct EvalStage;

impl Stage for EvalStage {
    fn kind(&self) -> &'static str {
        "eval"
    }

    fn about(&self) -> &'static str {
        "measures models on tasks, side by side"
    }

    fn configure(&self, table: toml::Table) -> Result<Box<dyn Configured>> {
        let config: EvalConfig = parse_config(self.kind(), table)?;
        let tasks = config.prepare()?;
        Ok(Box::new(Evaluation { config, tasks }))
    }
}

struct Evaluation {
    config: EvalConfig,
    tasks: Vec<Prepared>,
}

/// Tokens of an item, for plans.
const TOKENS_PER_ITEM: f64 = 200.0;
/// Items of a task, for plans, when nothing limits them.
const ITEMS: f64 = 1000.0;
/// The share of the machine's peak that scoring reaches, for plans.
const UTILIZATION: f64 = 0.4;

impl Evaluation {
    /// The file or folder with a task's data.
    fn data<'a>(&self, task: &Prepared, context: &'a StageContext<'_>) -> Result<&'a Path> {
        if task.data.is_none() {
            return Ok(&context.input("text")?.path);
        }
        let before = self.tasks.iter().take_while(|t| t.name != task.name).filter(|t| t.data.is_some()).count();
        match context.inputs_for("data").nth(before) {
            Some(input) => Ok(&input.path),
            // There is one input for each task with data; this is the error for none.
            None => Ok(&context.input("data")?.path),
        }
    }

    fn evaluate(
        &self,
        name: &str,
        input: &Input,
        found: Option<&Contamination>,
        context: &StageContext<'_>,
    ) -> Result<ModelResult> {
        let subject = Subject::load(name, &input.path, context.device)?;
        let mut outcomes = Vec::new();
        for task in &self.tasks {
            let started = Instant::now();
            let limit = task.limit.or(self.config.limit);
            let pick = Pick { last: task.last, limit, seed: self.config.seed.unwrap_or(context.seed) };
            context.progress.begin(&format!("{} on {name}", task.name), None, "items");
            let outcome = task.task.run(
                &subject,
                &TaskInput {
                    data: self.data(task, context)?,
                    pick,
                    max_gen_tokens: self.config.max_gen_tokens,
                    progress: context.progress,
                },
            );
            context.progress.end();
            let mut outcome = outcome.map_err(|e| e.wrap(format!("the task `{}` failed on {name}", task.name)))?;
            let data = self.data(task, context)?;
            match found.map(|found| found.items(data)) {
                Some(Some(items)) => outcome.leave_out(items),
                Some(None) if outcome.items.is_some() => context.progress.warn(&format!(
                    "{} was not looked for in the training data: the task `{}` has no clean score",
                    data.display(),
                    task.name
                )),
                _ => {}
            }
            context.progress.line(&format!(
                "{name}: {} ({})",
                summary(task, &outcome),
                human_seconds(started.elapsed().as_secs_f64())
            ));
            outcomes.push((outcome, started.elapsed().as_secs_f64()));
        }
        Ok(ModelResult { name: name.to_owned(), parameters: subject.model.spec().parameters(), outcomes })
    }
}

fn summary(task: &Prepared, outcome: &Outcome) -> String {
    let measures: Vec<String> = outcome.measures.iter().map(|(name, m)| format!("{name} {:.3}", m.value)).collect();
    format!("{} of {} items: {}", task.name, outcome.n, measures.join(", "))
}

/// What the models are called: a stage by its name, a folder by the last part of its path unless two share it.
fn model_names(inputs: &[&Input]) -> Vec<String> {
    let short = |input: &Input| match (&input.kind, Path::new(&input.reference).file_name()) {
        (None, Some(name)) => name.to_string_lossy().into_owned(),
        _ => input.reference.clone(),
    };
    let names: Vec<String> = inputs.iter().map(|input| short(input)).collect();
    let unique = |name: &String| names.iter().filter(|other| *other == name).count() == 1;
    inputs.iter().zip(&names).map(|(i, name)| if unique(name) { name.clone() } else { i.reference.clone() }).collect()
}

impl Configured for Evaluation {
    fn references(&self) -> Vec<Reference> {
        let models = self.config.models.iter().map(|value| ("models", value));
        let text = self.config.text.iter().map(|value| ("text", value));
        let data = self.tasks.iter().filter_map(|task| Some(("data", task.data.as_ref()?)));
        let contamination = self.config.contamination.iter().map(|value| ("contamination", value));
        models
            .chain(text)
            .chain(data)
            .chain(contamination)
            .map(|(key, value)| Reference { key, value: value.clone() })
            .collect()
    }

    fn effective_config(&self) -> Value {
        let EvalConfig { models, text, contamination, limit, seed, max_gen_tokens, .. } = &self.config;
        let tasks: Vec<Value> = self.tasks.iter().map(Prepared::settings).collect();
        json!({
            "models": models, "text": text, "contamination": contamination, "limit": limit, "seed": seed, "max_gen_tokens": max_gen_tokens, "tasks": tasks,
        })
    }

    fn plan(&self, inputs: &PlanInputs<'_>) -> Result<Plan> {
        // About four bytes to a token, and a tenth of the text is held out.
        let text_tokens = inputs.fact("text", "bytes").unwrap_or(1e6) * 0.1 / 4.0;
        let limit = |task: &Prepared| task.limit.or(self.config.limit).map_or(ITEMS, |n| n as f64);
        let tokens: f64 = self
            .tasks
            .iter()
            .map(|task| if task.data.is_none() { text_tokens } else { limit(task) * TOKENS_PER_ITEM })
            .sum();
        let models = inputs.inputs.iter().filter(|(input, _)| input.key == "models");
        let parameters: Vec<f64> =
            models.map(|(_, plan)| plan.and_then(|p| p.facts.get("parameters").copied()).unwrap_or(0.0)).collect();
        let flops = 2.0 * tokens * parameters.iter().sum::<f64>();
        Ok(Plan {
            flops,
            memory_bytes: 4.0 * parameters.iter().copied().fold(0.0, f64::max) + 5e8,
            disk_bytes: 1e5,
            seconds: flops / (UTILIZATION * inputs.peak_flops.max(1.0)) + 0.5 * parameters.len() as f64,
            notes: vec![format!("about {tokens:.0} tokens for each of {} models", parameters.len())],
            ..Plan::default()
        })
    }

    fn run(&self, context: &StageContext<'_>) -> Result<Report> {
        let inputs: Vec<&Input> = context.inputs_for("models").collect();
        let names = model_names(&inputs);
        let found = match context.inputs_for("contamination").next() {
            Some(input) => Some(Contamination::read(&input.path, context.recipe_dir)?),
            None => None,
        };
        let mut models = Vec::new();
        for (name, input) in names.iter().zip(&inputs) {
            models.push(self.evaluate(name, input, found.as_ref(), context)?);
        }
        let seed = self.config.seed.unwrap_or(context.seed);
        let results = Results { tasks: &self.tasks, models, seed, device: context.device };
        results.write(context.dir)?;
        let items: usize = results.models.iter().flat_map(|m| &m.outcomes).map(|(outcome, _)| outcome.n).sum();
        Ok(Report {
            went_in: format!("{} models, {} tasks", names.len(), self.tasks.len()),
            came_out: "report.md".into(),
            metrics: Map::from_iter([
                ("models".to_owned(), json!(names.len())),
                ("tasks".to_owned(), json!(self.tasks.len())),
                ("items".to_owned(), json!(items)),
            ]),
            scores: results.scores(),
        })
    }
}

#[cfg(test)]
#[path = "stage_tests.rs"]
mod tests;
