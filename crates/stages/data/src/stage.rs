//! The stage: reads, cleans, drops, divides, writes and reports.

use std::collections::BTreeMap;
use std::path::Path;

use cupola_artifact::stage::{Configured, Plan, PlanInputs, Reference, Report, Stage, StageContext};
use cupola_artifact::{Context, Result, human_bytes, human_count, parse_config, write_atomic};
use serde_json::{Map, Value};

use crate::collect::{self, Collection, Environment};
use crate::config::DataConfig;
use crate::report::DataReport;
use crate::step::{Setting, Step};
use crate::{pipeline, plan, report_page};

/// `[data.NAME]`: text in, documents out.
pub struct DataStage;

impl Stage for DataStage {
    fn kind(&self) -> &'static str {
        "data"
    }

    fn about(&self) -> &'static str {
        "reads, cleans, filters, deduplicates and splits text"
    }

    fn format_version(&self) -> u32 {
        2
    }

    fn uses_device(&self) -> bool {
        false
    }

    fn configure(&self, table: toml::Table) -> Result<Box<dyn Configured>> {
        let config: DataConfig = parse_config("data", table)?;
        let steps = config.steps()?;
        Ok(Box::new(ConfiguredData { config, steps }))
    }
}

struct ConfiguredData {
    config: DataConfig,
    steps: Vec<Step>,
}

impl Configured for ConfiguredData {
    fn references(&self) -> Vec<Reference> {
        // What lies elsewhere is brought here when the stage runs: it has no path before, and its address is a setting.
        let here = self.config.sources.iter().filter(|source| !collect::is_remote(source));
        let sources = here.map(|s| Reference { key: "sources", value: s.path().to_owned() });
        let of_steps = self.steps.iter().flat_map(Step::references).map(|value| Reference { key: "steps", value });
        sources.chain(of_steps).collect()
    }

    fn effective_config(&self) -> Value {
        self.config.effective(&self.steps)
    }

    fn looks_again(&self) -> bool {
        self.config.refresh
    }

    fn plan(&self, inputs: &PlanInputs) -> Result<Plan> {
        plan::plan(&self.config, inputs.recipe_dir)
    }

    fn run(&self, context: &StageContext<'_>) -> Result<Report> {
        let mut steps = self.config.steps()?;
        let setting = Setting { recipe_dir: context.recipe_dir, seed: context.seed };
        let collection = collect::collect(&self.config, context.recipe_dir, &Environment::read(), context.progress)?;
        forget_other_sources(&collection, context.work)?;
        for line in plan::mixture(&self.config, context.recipe_dir, &collection.files)? {
            context.progress.line(&line);
        }
        for (number, step) in steps.iter_mut().enumerate() {
            step.prepare(&setting, &context.work.join(format!("step-{number}")))?;
        }
        let mut outcome = pipeline::run(&self.config, &steps, context, &collection.files)?;
        outcome.report.collected = collection.sources;
        outcome.report.write(context.dir)?;
        let page = report_page::page(context.name, &outcome.report, &outcome.dropped);
        write_atomic(&context.dir.join("report.html"), page.as_bytes())?;
        Ok(summary(&outcome.report, outcome.files))
    }
}

/// Removes what a run that was cut off has made of other files than those that are in the cache now.
fn forget_other_sources(collection: &Collection, work: &Path) -> Result<()> {
    let path = work.join("collected.json");
    let now: BTreeMap<&str, &str> =
        collection.sources.iter().map(|source| (source.source.as_str(), source.sha256.as_str())).collect();
    let now = serde_json::to_vec(&now).context(|| "cannot write what was collected".to_owned())?;
    match std::fs::read(&path) {
        Ok(before) if before == now => return Ok(()),
        Ok(_) => {
            let cannot = || format!("cannot empty {}", work.display());
            for entry in std::fs::read_dir(work).context(cannot)? {
                let path = entry.context(cannot)?.path();
                if path.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) }
                    .context(cannot)?;
            }
        }
        Err(_) => {}
    }
    write_atomic(&path, &now)
}

fn summary(report: &DataReport, files: usize) -> Report {
    let (total, dropped) = (&report.total, report.total.dropped_documents());
    let made = (total.made.documents > 0).then_some(("documents_made", total.made.documents));
    let metrics = [
        ("documents_in", total.read.documents),
        ("documents_kept", total.kept.documents),
        ("documents_dropped", dropped),
        ("bytes_in", total.read.bytes),
        ("train_documents", report.train.documents),
        ("train_bytes", report.train.bytes),
        ("validation_documents", report.validation.documents),
        ("validation_bytes", report.validation.bytes),
        ("duplicate_clusters", report.clusters()),
    ];
    let plural = |n: u64, what: &str| format!("{} {what}{}", human_count(n as f64), if n == 1 { "" } else { "s" });
    let reasons = if dropped == 0 { String::new() } else { format!(" (dropped: {})", report.reasons()) };
    Report {
        went_in: format!(
            "{}, {}, {}",
            plural(files as u64, "file"),
            plural(total.read.documents, "document"),
            human_bytes(total.read.bytes as f64)
        ),
        came_out: format!(
            "{} to train on, {} held out{reasons}",
            human_bytes(report.train.bytes as f64),
            human_bytes(report.validation.bytes as f64)
        ),
        metrics: metrics
            .into_iter()
            .chain(made)
            .map(|(name, n)| (name.to_owned(), Value::from(n)))
            .chain(report.notes())
            .chain(report.collected_hashes())
            .collect::<Map<_, _>>(),
        scores: Vec::new(),
    }
}
