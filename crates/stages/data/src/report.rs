//! What came of every document: counts that add up to the input.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use cupola_artifact::{Context, Result, write_atomic};
use serde::Serialize;

/// A number of documents and the bytes of their texts, as read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Count {
    /// Documents; a broken record or container counts as one.
    pub documents: u64,
    /// Bytes of text before normalization; 0 for what could not be read.
    pub bytes: u64,
}

impl Count {
    fn add(&mut self, bytes: u64) {
        self.documents += 1;
        self.bytes += bytes;
    }
}

/// `read = kept + dropped`, in documents and in bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    /// All that was read.
    pub read: Count,
    /// What was left.
    pub kept: Count,
    /// What was dropped, by reason.
    pub dropped: BTreeMap<String, Count>,
}

impl Tally {
    /// Counts a document: kept, or dropped for a reason.
    pub fn count(&mut self, bytes: u64, dropped: Option<&str>) {
        self.read.add(bytes);
        match dropped {
            None => self.kept.add(bytes),
            Some(reason) => self.dropped.entry(reason.to_owned()).or_default().add(bytes),
        }
    }

    /// Documents dropped, whatever the reason.
    pub fn dropped_documents(&self) -> u64 {
        self.dropped.values().map(|count| count.documents).sum()
    }
}

/// `report.json`.
#[derive(Clone, Debug, Default, Serialize)]
pub struct DataReport {
    /// Everything together.
    pub total: Tally,
    /// The same for each file.
    pub sources: BTreeMap<String, Tally>,
    /// What normalization took from the kept texts, bytes; negative where composition or line ends made them longer.
    pub bytes_removed_by_normalization: i64,
    /// Clusters of near duplicates; all but the first text of each was dropped.
    pub near_duplicate_clusters: u64,
    /// What was written for training; bytes after normalization.
    pub train: Count,
    /// What was written for validation; bytes after normalization.
    pub validation: Count,
    /// Documents that the split cut in two, and that count on both sides.
    pub documents_cut_by_the_split: u64,
}

impl DataReport {
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
        for (reason, count) in &self.total.dropped {
            row(&format!("dropped: {reason}"), count);
        }
        row("kept", &self.total.kept);
        row("train (normalized)", &self.train);
        row("validation (normalized)", &self.validation);
        let _ = writeln!(
            out,
            "\nBytes removed by normalization: {}. Clusters of near duplicates: {}. Documents cut by the split: {}.\n\n\
             ## By source\n\n| source | read | kept | dropped | bytes read |\n|---|---:|---:|---:|---:|",
            self.bytes_removed_by_normalization, self.near_duplicate_clusters, self.documents_cut_by_the_split
        );
        for (source, tally) in &self.sources {
            let dropped = tally.dropped_documents();
            let (read, kept) = (tally.read, tally.kept.documents);
            let _ = writeln!(out, "| {source} | {} | {kept} | {dropped} | {} |", read.documents, read.bytes);
        }
        out
    }

    /// The reasons for dropping, most frequent first, for people: `3 near_duplicate, 1 empty`.
    pub fn reasons(&self) -> String {
        let mut reasons: Vec<_> = self.total.dropped.iter().collect();
        reasons.sort_by_key(|(reason, count)| (std::cmp::Reverse(count.documents), reason.as_str()));
        reasons.iter().map(|(reason, count)| format!("{} {reason}", count.documents)).collect::<Vec<_>>().join(", ")
    }
}
