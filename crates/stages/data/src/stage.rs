//! The stage: reads, cleans, drops, divides, writes and reports.

use cupola_artifact::stage::{Configured, Plan, PlanInputs, Reference, Report, Stage, StageContext};
use cupola_artifact::{Result, human_bytes, human_count, parse_config, write_atomic};
use serde_json::{Map, Value};

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
        let sources = self.config.sources.iter().map(|s| Reference { key: "sources", value: s.path().to_owned() });
        let of_steps = self.steps.iter().flat_map(Step::references).map(|value| Reference { key: "steps", value });
        sources.chain(of_steps).collect()
    }

    fn effective_config(&self) -> Value {
        self.config.effective(&self.steps)
    }

    fn plan(&self, inputs: &PlanInputs) -> Result<Plan> {
        plan::plan(&self.config, inputs.recipe_dir)
    }

    fn run(&self, context: &StageContext<'_>) -> Result<Report> {
        let mut steps = self.config.steps()?;
        let setting = Setting { recipe_dir: context.recipe_dir, seed: context.seed };
        for (number, step) in steps.iter_mut().enumerate() {
            step.prepare(&setting, &context.work.join(format!("step-{number}")))?;
        }
        let outcome = pipeline::run(&self.config, &steps, context)?;
        outcome.report.write(context.dir)?;
        let page = report_page::page(context.name, &outcome.report, &outcome.dropped);
        write_atomic(&context.dir.join("report.html"), page.as_bytes())?;
        Ok(summary(&outcome.report, outcome.files))
    }
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
            .collect::<Map<_, _>>(),
        scores: Vec::new(),
    }
}
