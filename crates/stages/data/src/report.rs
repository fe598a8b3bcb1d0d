//! What came of every document: counts that add up to the input.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use cupola_artifact::{Context, Result, write_atomic};
use cupola_records::Document;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::collect::CollectedSource;
use crate::step::Notes;

/// A number of documents and the bytes of their texts, as read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Count {
    /// Documents; a broken record or container counts as one.
    pub documents: u64,
    /// Bytes of text before any step; 0 for what could not be read.
    pub bytes: u64,
}

impl Count {
    /// Counts a document.
    pub fn add(&mut self, bytes: u64) {
        self.documents += 1;
        self.bytes += bytes;
    }

    fn is_zero(&self) -> bool {
        *self == Self::default()
    }

    fn merge(&mut self, other: Self) {
        self.documents += other.documents;
        self.bytes += other.bytes;
    }
}

/// `read + made = kept + dropped`, in documents and in bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// All that was read.
    pub read: Count,
    /// What steps made of it; bytes as made.
    #[serde(default, skip_serializing_if = "Count::is_zero")]
    pub made: Count,
    /// What was left.
    pub kept: Count,
    /// What was dropped, by reason.
    pub dropped: BTreeMap<String, Count>,
}

impl Tally {
    /// Documents dropped, whatever the reason.
    pub fn dropped_documents(&self) -> u64 {
        self.dropped.values().map(|count| count.documents).sum()
    }

    fn drop_for(&mut self, reason: &str, bytes: u64) {
        match self.dropped.get_mut(reason) {
            Some(count) => count.add(bytes),
            None => self.dropped.entry(reason.to_owned()).or_default().add(bytes),
        }
    }

    fn merge(&mut self, other: &Self) {
        self.read.merge(other.read);
        self.made.merge(other.made);
        self.kept.merge(other.kept);
        for (reason, count) in &other.dropped {
            self.dropped.entry(reason.clone()).or_default().merge(*count);
        }
    }
}

/// What a step did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepTally {
    /// What came to it.
    pub came: Count,
    /// What it made of that.
    #[serde(default, skip_serializing_if = "Count::is_zero")]
    pub made: Count,
    /// What it dropped of both, by reason.
    pub dropped: BTreeMap<String, Count>,
    /// What it counted beside that.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub notes: BTreeMap<String, u64>,
}

/// Lengths, languages and sites of a set of documents.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Profile {
    /// Documents whose text has `2^i` to `2^(i+1) - 1` bytes, by `i`.
    pub lengths: BTreeMap<u32, u64>,
    /// Documents by language, where it is known.
    pub languages: BTreeMap<String, u64>,
    /// Documents by host name, where an address is known; the rarest are left out above [`MAX_SITES`].
    pub sites: BTreeMap<String, u64>,
}

/// Reasons that a line tells.
const REASONS: usize = 4;

/// Host names that a profile keeps.
pub const MAX_SITES: usize = 1000;

impl Profile {
    /// Counts a document.
    pub fn add(&mut self, document: &Document) {
        *self.lengths.entry(document.text.len().max(1).ilog2()).or_default() += 1;
        if let Some(language) = document.field("language") {
            count(&mut self.languages, language, 1);
        }
        if let Some(site) = document.field("url").and_then(host) {
            count(&mut self.sites, site, 1);
        }
    }

    fn merge(&mut self, other: &Self) {
        for (length, n) in &other.lengths {
            *self.lengths.entry(*length).or_default() += n;
        }
        other.languages.iter().for_each(|(language, n)| count(&mut self.languages, language, *n));
        other.sites.iter().for_each(|(site, n)| count(&mut self.sites, site, *n));
        if self.sites.len() > 2 * MAX_SITES {
            self.cut_sites();
        }
    }

    /// Leaves the most frequent host names.
    pub fn cut_sites(&mut self) {
        let mut sites: Vec<(String, u64)> = std::mem::take(&mut self.sites).into_iter().collect();
        sites.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        sites.truncate(MAX_SITES);
        self.sites = sites.into_iter().collect();
    }
}

fn count(counts: &mut BTreeMap<String, u64>, name: &str, n: u64) {
    match counts.get_mut(name) {
        Some(count) => *count += n,
        None => drop(counts.insert(name.to_owned(), n)),
    }
}

/// The host name of an address.
fn host(url: &str) -> Option<&str> {
    let rest = url.split_once("://")?.1;
    let authority = rest.split(['/', '?', '#']).next()?;
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    Some(host.split(':').next().unwrap_or(host)).filter(|host| !host.is_empty())
}

/// What happened to the documents of one part, or of all parts together.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartReport {
    /// By file.
    pub sources: BTreeMap<String, Tally>,
    /// By the step's number in the pipeline.
    pub steps: BTreeMap<usize, StepTally>,
    /// As read.
    pub before: Profile,
    /// As kept in the end.
    pub after: Profile,
    /// Bytes of the kept texts, after all steps.
    pub kept_text_bytes: u64,
    /// What the files held beside documents, by kind.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub skipped: BTreeMap<String, u64>,
}

impl PartReport {
    /// A document, or what should have been one, was read.
    pub fn read(&mut self, source: &str, bytes: u64) {
        self.source(source).read.add(bytes);
    }

    /// A step made a document.
    pub fn made(&mut self, source: &str, step: usize, bytes: u64) {
        self.source(source).made.add(bytes);
        self.steps.entry(step).or_default().made.add(bytes);
    }

    /// A document was dropped.
    pub fn drop_for(&mut self, source: &str, step: Option<usize>, reason: &str, bytes: u64) {
        self.source(source).drop_for(reason, bytes);
        if let Some(step) = step {
            self.steps.entry(step).or_default().dropped.entry(reason.to_owned()).or_default().add(bytes);
        }
    }

    /// A document was left after the last step.
    pub fn keep(&mut self, document: &Document, bytes: u64) {
        self.source(&document.source).kept.add(bytes);
        self.after.add(document);
        self.kept_text_bytes += document.text.len() as u64;
    }

    /// What a file held beside documents.
    pub fn skip(&mut self, counts: &BTreeMap<String, u64>) {
        counts.iter().for_each(|(kind, n)| count(&mut self.skipped, kind, *n));
    }

    /// What a step counted.
    pub fn note(&mut self, step: usize, notes: &Notes) {
        let into = &mut self.steps.entry(step).or_default().notes;
        notes.counts().iter().for_each(|(name, n)| count(into, name, *n));
    }

    fn source(&mut self, source: &str) -> &mut Tally {
        // The name is cloned only for a file's first document.
        if !self.sources.contains_key(source) {
            self.sources.insert(source.to_owned(), Tally::default());
        }
        self.sources.entry(source.to_owned()).or_default()
    }

    /// Adds another part's report.
    pub fn merge(&mut self, other: &Self) {
        for (source, tally) in &other.sources {
            self.source(source).merge(tally);
        }
        for (step, tally) in &other.steps {
            let into = self.steps.entry(*step).or_default();
            into.came.merge(tally.came);
            into.made.merge(tally.made);
            for (reason, n) in &tally.dropped {
                into.dropped.entry(reason.clone()).or_default().merge(*n);
            }
            tally.notes.iter().for_each(|(name, n)| count(&mut into.notes, name, *n));
        }
        self.before.merge(&other.before);
        self.after.merge(&other.after);
        self.kept_text_bytes += other.kept_text_bytes;
        self.skip(&other.skipped);
    }
}

/// `report.json`.
#[derive(Clone, Debug, Default, Serialize)]
pub struct DataReport {
    /// Everything together.
    pub total: Tally,
    /// The same for each file.
    pub sources: BTreeMap<String, Tally>,
    /// What each step did, in the order of the pipeline.
    pub steps: Vec<NamedStep>,
    /// What the files held beside documents, by kind; not among what was read.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub skipped: BTreeMap<String, u64>,
    /// The documents as read.
    pub before: Profile,
    /// The documents as kept.
    pub after: Profile,
    /// What the steps took from the kept texts, bytes; negative where they made them longer.
    pub bytes_removed_from_kept_texts: i64,
    /// What was written for training, with repetitions; bytes after all steps.
    pub train: Count,
    /// What was written for validation.
    pub validation: Count,
    /// Documents that the split cut in two, and that count on both sides.
    pub documents_cut_by_the_split: u64,
    /// What was brought here from elsewhere.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub collected: Vec<CollectedSource>,
}

/// A step's tally under its name.
#[derive(Clone, Debug, Serialize)]
pub struct NamedStep {
    /// The step's name.
    pub step: &'static str,
    /// What it did.
    #[serde(flatten)]
    pub tally: StepTally,
    /// Clusters of duplicates, for a step that compares documents.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clusters: Option<Clusters>,
}

/// The duplicates that a step found.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Clusters {
    /// Clusters of at least two documents.
    pub count: u64,
    /// The largest ones.
    pub largest: Vec<Cluster>,
}

/// A document and its copies.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Cluster {
    /// Documents in it, the first one counted.
    pub documents: u64,
    /// The first document, and the first of its copies: name and beginning of the text.
    pub examples: Vec<(String, String)>,
}

impl DataReport {
    /// The report of a whole run; `steps` are the steps' names and clusters in the order of the pipeline.
    pub fn new(all: PartReport, steps: Vec<(&'static str, Option<Clusters>)>) -> Self {
        let mut total = Tally::default();
        all.sources.values().for_each(|tally| total.merge(tally));
        let mut tallies = all.steps;
        let steps = steps
            .into_iter()
            .enumerate()
            .map(|(i, (step, clusters))| NamedStep { step, tally: tallies.remove(&i).unwrap_or_default(), clusters })
            .collect();
        let bytes_removed_from_kept_texts = total.kept.bytes as i64 - all.kept_text_bytes as i64;
        let (mut before, mut after) = (all.before, all.after);
        before.cut_sites();
        after.cut_sites();
        Self {
            total,
            sources: all.sources,
            steps,
            skipped: all.skipped,
            before,
            after,
            bytes_removed_from_kept_texts,
            ..Default::default()
        }
    }

    /// Writes `report.json` and `report.md`.
    pub fn write(&self, dir: &Path) -> Result<()> {
        let json = serde_json::to_vec_pretty(self).context(|| "cannot write the data report".to_owned())?;
        write_atomic(&dir.join("report.json"), &json)?;
        write_atomic(&dir.join("report.md"), self.markdown().as_bytes())
    }

    fn markdown(&self) -> String {
        let mut out = String::from("# Data report\n\n| | documents | bytes |\n|---|---:|---:|\n");
        let mut row = |name: &str, count: &Count| {
            // Writing to a string cannot fail.
            let _ = writeln!(out, "| {name} | {} | {} |", count.documents, count.bytes);
        };
        row("read", &self.total.read);
        if !self.total.made.is_zero() {
            row("made", &self.total.made);
        }
        for (reason, count) in &self.total.dropped {
            row(&format!("dropped: {reason}"), count);
        }
        row("kept", &self.total.kept);
        row("train (as written)", &self.train);
        row("validation (as written)", &self.validation);
        let _ = writeln!(
            out,
            "\nBytes removed from kept texts: {}. Documents cut by the split: {}.\n\n\
             ## By step\n\n| step | documents in | dropped | counted |\n|---|---:|---:|---|",
            self.bytes_removed_from_kept_texts, self.documents_cut_by_the_split
        );
        for step in &self.steps {
            let dropped: u64 = step.tally.dropped.values().map(|count| count.documents).sum();
            let mut notes: Vec<String> = step.tally.notes.iter().map(|(name, n)| format!("{name} {n}")).collect();
            if !step.tally.made.is_zero() {
                notes.push(format!("made {}", step.tally.made.documents));
            }
            notes.extend(step.clusters.as_ref().map(|clusters| format!("clusters {}", clusters.count)));
            let _ =
                writeln!(out, "| {} | {} | {dropped} | {} |", step.step, step.tally.came.documents, notes.join(", "));
        }
        out.push_str("\n## By source\n\n| source | read | kept | dropped | bytes read |\n|---|---:|---:|---:|---:|\n");
        for (source, tally) in &self.sources {
            let dropped = tally.dropped_documents();
            let (read, kept) = (tally.read, tally.kept.documents);
            let _ = writeln!(out, "| {source} | {} | {kept} | {dropped} | {} |", read.documents, read.bytes);
        }
        if !self.collected.is_empty() {
            out.push_str("\n## Collected\n\n| address | bytes | SHA-256 | when |\n|---|---:|---|---|\n");
        }
        for file in self.collected.iter().flat_map(|source| &source.files) {
            let _ = writeln!(out, "| {} | {} | {} | {} |", file.address, file.bytes, file.sha256, file.collected);
        }
        out
    }

    /// The most frequent reasons for dropping, for people: `3 near_duplicate, 1 empty, 2 for other reasons`.
    pub fn reasons(&self) -> String {
        let mut reasons: Vec<_> = self.total.dropped.iter().map(|(reason, count)| (count.documents, reason)).collect();
        reasons.sort_by_key(|(documents, reason)| (std::cmp::Reverse(*documents), *reason));
        let rest: u64 = reasons.iter().skip(REASONS).map(|(documents, _)| documents).sum();
        reasons.truncate(REASONS);
        let mut told: Vec<String> = reasons.iter().map(|(documents, reason)| format!("{documents} {reason}")).collect();
        told.extend((rest > 0).then(|| format!("{rest} for other reasons")));
        told.join(", ")
    }

    /// Clusters of near duplicates, over all steps.
    pub fn clusters(&self) -> u64 {
        self.steps.iter().filter_map(|step| step.clusters.as_ref()).map(|clusters| clusters.count).sum()
    }

    /// The SHA-256 of what was collected, by source, for the manifest.
    pub fn collected_hashes(&self) -> Option<(String, Value)> {
        let hash = |source: &CollectedSource| (source.source.clone(), Value::from(source.sha256.clone()));
        let hashes: Map<String, Value> = self.collected.iter().map(hash).collect();
        (!hashes.is_empty()).then(|| ("collected".to_owned(), Value::Object(hashes)))
    }

    /// All that steps counted, by step and name.
    pub fn notes(&self) -> BTreeMap<String, Value> {
        let named = |step: &NamedStep| {
            let name = step.step;
            step.tally
                .notes
                .iter()
                .map(move |(note, n)| (format!("{name}.{note}"), Value::from(*n)))
                .collect::<Vec<_>>()
        };
        self.steps.iter().flat_map(named).collect()
    }
}
