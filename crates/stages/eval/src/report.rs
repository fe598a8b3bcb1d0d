//! What an evaluation writes: results.json, samples.jsonl, report.md.

use std::fmt::Write;
use std::path::Path;

use cupola_artifact::{Context, Result, human_count, human_seconds, write_atomic};
use serde_json::{Map, Value, json};

use crate::settings::Prepared;
use crate::task::{Measure, Outcome};

/// All that was found out about one model.
pub(crate) struct ModelResult {
    pub name: String,
    pub parameters: u64,
    /// In the order of the tasks, with the seconds each took.
    pub outcomes: Vec<(Outcome, f64)>,
}

/// The whole evaluation.
pub(crate) struct Results<'a> {
    pub tasks: &'a [Prepared],
    pub models: Vec<ModelResult>,
    pub seed: u64,
    pub device: &'a str,
}

impl Results<'_> {
    /// Writes all files.
    pub fn write(&self, dir: &Path) -> Result<()> {
        let json = serde_json::to_string_pretty(&self.json()).context(|| "cannot write results.json".into())?;
        write_atomic(&dir.join("results.json"), format!("{json}\n").as_bytes())?;
        write_atomic(&dir.join("samples.jsonl"), self.samples().as_bytes())?;
        write_atomic(&dir.join("report.md"), self.markdown().as_bytes())
    }

    fn json(&self) -> Value {
        let tasks: Map<String, Value> = self.tasks.iter().map(|t| (t.name.clone(), t.settings())).collect();
        let models: Map<String, Value> = self
            .models
            .iter()
            .map(|model| {
                let tasks: Map<String, Value> = self
                    .tasks
                    .iter()
                    .zip(&model.outcomes)
                    .map(|(task, (outcome, seconds))| (task.name.clone(), outcome_json(outcome, *seconds)))
                    .collect();
                (model.name.clone(), json!({ "parameters": model.parameters, "tasks": tasks }))
            })
            .collect();
        json!({
            "format": 1, "program": env!("CARGO_PKG_VERSION"), "device": self.device, "seed": self.seed,
            "tasks": tasks, "models": models,
        })
    }

    fn samples(&self) -> String {
        let mut out = String::new();
        for model in &self.models {
            for (task, (outcome, _)) in self.tasks.iter().zip(&model.outcomes) {
                for sample in &outcome.samples {
                    let line = json!({ "model": model.name, "task": task.name, "sample": sample });
                    out.push_str(&format!("{line}\n"));
                }
            }
        }
        out
    }

    /// The measures of all tasks, each with the name it has in the comparison: its own where only one task has it.
    fn columns(&self) -> Vec<(usize, &'static str, String)> {
        let Some(model) = self.models.first() else { return Vec::new() };
        let all: Vec<(usize, &'static str)> = model
            .outcomes
            .iter()
            .enumerate()
            .flat_map(|(task, (outcome, _))| outcome.measures.iter().map(move |(name, _)| (task, *name)))
            .collect();
        let alone = |name| all.iter().filter(|(_, other)| *other == name).count() == 1;
        all.iter()
            .map(|&(task, name)| {
                let shown = if alone(name) { name.to_owned() } else { format!("{}.{name}", self.tasks[task].name) };
                (task, name, shown)
            })
            .collect()
    }

    /// Each model's scores, for the run's table.
    pub fn scores(&self) -> Vec<(String, Map<String, Value>)> {
        let columns = self.columns();
        let row = |model: &ModelResult| {
            let scores = columns.iter().filter_map(|(task, name, shown)| {
                Some((shown.clone(), json!(measure(&model.outcomes[*task].0, name)?.value)))
            });
            (model.name.clone(), scores.collect())
        };
        self.models.iter().map(row).collect()
    }

    fn markdown(&self) -> String {
        let mut out = String::from("# Evaluation\n\n");
        let names: Vec<&str> = self.models.iter().map(|m| m.name.as_str()).collect();
        let sizes: Vec<String> = self.models.iter().map(|m| human_count(m.parameters as f64)).collect();
        row(&mut out, "task", "measure", &names);
        row(&mut out, "---", "---", &vec!["---:"; names.len()]);
        row(&mut out, "", "parameters", &sizes);
        for (task, name, _) in self.columns() {
            let cells: Vec<String> =
                self.models.iter().map(|m| measure(&m.outcomes[task].0, name).map_or(String::new(), cell)).collect();
            row(&mut out, &self.tasks[task].name, name, &cells);
            let clean = |model: &ModelResult| clean(&model.outcomes[task].0, name).map_or(String::new(), cell);
            if self.models.iter().any(|model| model.outcomes[task].0.clean.is_some()) {
                row(&mut out, "", &format!("{name}, clean items"), &self.models.iter().map(clean).collect::<Vec<_>>());
            }
        }
        out.push_str("\nA figure after ± is the standard error.\n\n## Tasks\n\n");
        for (i, task) in self.tasks.iter().enumerate() {
            let items = self.models.first().map_or(0, |m| m.outcomes[i].0.n);
            let seconds: f64 = self.models.iter().map(|m| m.outcomes[i].1).sum();
            let (name, about, took) = (&task.name, task.kind.about(), human_seconds(seconds));
            // Writing to a string does not fail.
            let _ = writeln!(out, "- **{name}**: {about}. Items: {items}; time for all models: {took}.");
            if let Some((clean, _)) = self.models.first().and_then(|m| m.outcomes[i].0.clean.as_ref()) {
                let _ = writeln!(out, "  Clean items, which were not found in the training data: {clean} of {items}.");
            }
            let _ = writeln!(out, "  Settings: `{}`", task.settings());
        }
        let _ = writeln!(
            out,
            "\nSeed {}, device {}. Every number is in `results.json`, samples are in `samples.jsonl`.",
            self.seed, self.device
        );
        out
    }
}

fn outcome_json(outcome: &Outcome, seconds: f64) -> Value {
    let metrics: Map<String, Value> = outcome.measures.iter().map(|(n, m)| ((*n).to_owned(), json!(m.value))).collect();
    let errors = outcome.measures.iter().filter_map(|(n, m)| Some(((*n).to_owned(), json!(m.stderr?))));
    let errors: Map<String, Value> = errors.collect();
    let mut json = json!({ "n": outcome.n, "metrics": metrics, "stderr": errors, "seconds": seconds });
    if let Some((n, measures)) = &outcome.clean {
        let metrics: Map<String, Value> = measures.iter().map(|(n, m)| ((*n).to_owned(), json!(m.value))).collect();
        json["clean"] = json!({ "n": n, "metrics": metrics });
    }
    json
}

fn measure(outcome: &Outcome, name: &str) -> Option<Measure> {
    outcome.measures.iter().find(|(n, _)| *n == name).map(|(_, m)| *m)
}

fn clean(outcome: &Outcome, name: &str) -> Option<Measure> {
    outcome.clean.as_ref()?.1.iter().find(|(n, _)| *n == name).map(|(_, m)| *m)
}

fn cell(measure: Measure) -> String {
    match measure.stderr {
        Some(stderr) => format!("{:.3} ± {stderr:.3}", measure.value),
        None => format!("{:.3}", measure.value),
    }
}

fn row(out: &mut String, task: &str, measure: &str, cells: &[impl AsRef<str>]) {
    let cells: Vec<&str> = cells.iter().map(AsRef::as_ref).collect();
    let _ = writeln!(out, "| {task} | {measure} | {} |", cells.join(" | "));
}
