//! The stage: reads, cleans, drops, divides, writes and reports.

use std::borrow::Cow;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use cupola_artifact::stage::{Configured, Plan, PlanInputs, Reference, Report, Stage, StageContext};
use cupola_artifact::{Error, Result, human_bytes, human_count, parse_config};
use cupola_records::{Document, DocumentWriter, TRAIN_FILE, VALIDATION_FILE, total_bytes};
use rayon::prelude::*;
use serde_json::{Map, Value};

use crate::config::DataConfig;
use crate::filters::{Filter, Verdict, by_name, judge};
use crate::ingest::{Item, ingest};
use crate::report::{Count, DataReport};
use crate::{dedup, normalize, plan, split};

/// Documents between two updates of the progress bar.
const PROGRESS_EVERY: u64 = 1000;

/// `[data.NAME]`: text in, documents out.
pub struct DataStage;

impl Stage for DataStage {
    fn kind(&self) -> &'static str {
        "data"
    }

    fn about(&self) -> &'static str {
        "reads, cleans, filters, deduplicates and splits text"
    }

    fn uses_device(&self) -> bool {
        false
    }

    fn configure(&self, table: toml::Table) -> Result<Box<dyn Configured>> {
        let config: DataConfig = parse_config("data", table)?;
        config.validate()?;
        Ok(Box::new(ConfiguredData(config)))
    }
}

struct ConfiguredData(DataConfig);

impl Configured for ConfiguredData {
    fn references(&self) -> Vec<Reference> {
        self.0.sources.iter().map(|source| Reference { key: "sources", value: source.clone() }).collect()
    }

    fn effective_config(&self) -> Value {
        serde_json::to_value(&self.0).unwrap_or_default()
    }

    fn plan(&self, inputs: &PlanInputs) -> Result<Plan> {
        plan::plan(&self.0, inputs.recipe_dir)
    }

    fn run(&self, context: &StageContext<'_>) -> Result<Report> {
        let config = &self.0;
        let mut ingested = ingest(config, context.recipe_dir, context.progress)?;
        let near_duplicate_clusters = clean(&mut ingested.items, config, context)?;
        let mut report = DataReport { near_duplicate_clusters, ..Default::default() };
        let documents = tally(ingested.items, &mut report);
        if documents.is_empty() {
            return Err(nothing_left(&report, config));
        }
        let kept = documents.len() as u64;
        let (train, validation) = split::split(documents, config)?;
        report.train = write(&context.dir.join(TRAIN_FILE), &train)?;
        report.validation = write(&context.dir.join(VALIDATION_FILE), &validation)?;
        report.documents_cut_by_the_split = report.train.documents + report.validation.documents - kept;
        report.write(context.dir)?;
        Ok(summary(&report, ingested.files.len()))
    }
}

/// Everything that changes or drops documents; the number of clusters of near duplicates.
fn clean(items: &mut [Item], config: &DataConfig, context: &StageContext<'_>) -> Result<u64> {
    let filters: Vec<&dyn Filter> = config.filters.iter().map(|name| by_name(name)).collect::<Result<_>>()?;
    context.progress.begin("cleaning", Some(items.len() as u64), "documents");
    let done = AtomicU64::new(0);
    items.par_iter_mut().filter(|item| item.dropped.is_none()).for_each(|item| {
        if let Cow::Owned(text) = normalize(&item.document.text, &config.normalize) {
            item.document.text = text;
        }
        if item.document.text.trim().is_empty() {
            item.drop_for("empty");
        } else if let Verdict::Drop(reason) = judge(&filters, &item.document.text) {
            item.drop_for(reason);
        }
        let position = done.fetch_add(1, Ordering::Relaxed) + 1;
        if position.is_multiple_of(PROGRESS_EVERY) {
            context.progress.update(position, "");
        }
    });
    context.progress.end();
    context.progress.begin("finding duplicates", None, "documents");
    if config.dedup.exact {
        let is_copy = on_kept(items, dedup::exact_duplicates);
        is_copy.into_iter().filter(|(_, copy)| *copy).for_each(|(i, _)| items[i].drop_for("exact_duplicate"));
    }
    let mut clusters = 0;
    if config.dedup.near {
        let first = on_kept(items, |texts| {
            let found = dedup::near_duplicates(texts, &config.dedup);
            clusters = found.clusters as u64;
            found.first.into_iter().enumerate().map(|(i, first)| i != first).collect()
        });
        first.into_iter().filter(|(_, copy)| *copy).for_each(|(i, _)| items[i].drop_for("near_duplicate"));
    }
    context.progress.end();
    Ok(clusters)
}

/// Calls `judge` with the texts that are still there; its answers with the texts' positions in `items`.
fn on_kept(items: &[Item], judge: impl FnOnce(&[&str]) -> Vec<bool>) -> Vec<(usize, bool)> {
    let kept: Vec<usize> = (0..items.len()).filter(|&i| items[i].dropped.is_none()).collect();
    let texts: Vec<&str> = kept.iter().map(|&i| items[i].document.text.as_str()).collect();
    let answers = judge(&texts);
    kept.into_iter().zip(answers).collect()
}

/// Counts every item once, and gives back the documents that are left.
fn tally(items: Vec<Item>, report: &mut DataReport) -> Vec<Document> {
    let mut documents = Vec::new();
    for item in items {
        report.total.count(item.bytes, item.dropped);
        // The key is cloned only for a file's first document.
        match report.sources.get_mut(&item.document.source) {
            Some(tally) => tally.count(item.bytes, item.dropped),
            None => report.sources.entry(item.document.source.clone()).or_default().count(item.bytes, item.dropped),
        }
        if item.dropped.is_none() {
            report.bytes_removed_by_normalization += item.bytes as i64 - item.document.text.len() as i64;
            documents.push(item.document);
        }
    }
    documents
}

fn nothing_left(report: &DataReport, config: &DataConfig) -> Error {
    let sources = config.sources.join(", ");
    if report.total.read.documents == 0 {
        return Error::failed(format!("the corpus is empty: there is no record in {sources}"))
            .with_hint("check `sources`: the files exist but hold nothing");
    }
    let read = report.total.read.documents;
    let error = Error::failed(format!("nothing is left of the {read} documents in {sources}: {}", report.reasons()));
    let only = |reason: &str| report.total.dropped.contains_key(reason) && report.total.dropped.len() == 1;
    if only("empty") {
        error.with_hint("the corpus is empty: all its texts are blank")
    } else if only("no_text") {
        error.with_hint(format!("no record has a text in the field `{}`: set `text_field`", config.text_field))
    } else {
        error.with_hint("remove the filter that drops the most from `filters`, or repair the sources")
    }
}

fn write(path: &Path, documents: &[Document]) -> Result<Count> {
    let mut writer = DocumentWriter::create(path)?;
    documents.iter().try_for_each(|document| writer.write(document))?;
    writer.finish()?;
    Ok(Count { documents: documents.len() as u64, bytes: total_bytes(documents) })
}

fn summary(report: &DataReport, files: usize) -> Report {
    let (total, dropped) = (&report.total, report.total.dropped_documents());
    let metrics = [
        ("documents_in", total.read.documents),
        ("documents_kept", total.kept.documents),
        ("documents_dropped", dropped),
        ("bytes_in", total.read.bytes),
        ("train_documents", report.train.documents),
        ("train_bytes", report.train.bytes),
        ("validation_documents", report.validation.documents),
        ("validation_bytes", report.validation.bytes),
        ("near_duplicate_clusters", report.near_duplicate_clusters),
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
        metrics: metrics.into_iter().map(|(name, n)| (name.to_owned(), Value::from(n))).collect::<Map<_, _>>(),
        scores: Vec::new(),
    }
}
