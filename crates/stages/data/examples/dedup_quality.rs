//! Measures near-duplicate detection on documents with known copies, and the speed of each step.
//!
//!     cargo run --release -p cupola-data --example dedup_quality -- docs.jsonl.zst truth.csv [threshold]
//!
//! `truth.csv` has the columns `id` (the copy), `original_id`, `kind`, `edit_rate`, `jaccard_word5`.

use std::collections::{BTreeMap, HashMap};
use std::io::Write as _;
use std::path::Path;
use std::time::Instant;

use cupola_artifact::{Context, Error, Result, read_text};
use cupola_data::{DedupConfig, FILTERS, NormalizeConfig, near_duplicates, normalize};
use cupola_records::read_records;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [documents, truth, rest @ ..] = arguments.as_slice() else {
        return Err(Error::usage("two arguments are needed: the documents and the table of their copies"));
    };
    let mut config = DedupConfig::default();
    if let Some(threshold) = rest.first() {
        config.threshold = threshold.parse().context(|| format!("`{threshold}` is no threshold"))?;
    }
    let mut out = std::io::stdout().lock();
    let mut lines = Vec::new();
    let start = Instant::now();
    let (mut ids, mut texts) = (Vec::new(), Vec::new());
    for record in read_records(Path::new(documents))? {
        let record = record?;
        ids.push(record.value["id"].as_str().unwrap_or_default().to_owned());
        texts.push(record.value["text"].as_str().unwrap_or_default().to_owned());
    }
    let megabytes = texts.iter().map(String::len).sum::<usize>() as f64 / 1e6;
    let mut speed = |what: &str, start: Instant| {
        lines.push(format!("{what}: {:.1} MB/s", megabytes / start.elapsed().as_secs_f64()))
    };
    speed("reading", start);
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let start = Instant::now();
    let normalized = texts.iter().map(|text| normalize(text, &NormalizeConfig::default()).len()).sum::<usize>();
    speed(&format!("normalizing to {normalized} bytes, one thread"), start);
    for filter in FILTERS {
        let start = Instant::now();
        let kept = texts.iter().filter(|text| filter.check(text) == cupola_data::Verdict::Keep).count();
        speed(&format!("{} keeps {kept}, one thread", filter.name()), start);
    }
    let start = Instant::now();
    let found = near_duplicates(&texts, &config);
    speed("near duplicates, all threads", start);
    let recall = recall(&ids, &found.first, &read_text(Path::new(truth))?);
    let text = format!("{megabytes:.1} MB in {} documents\n{}\n{recall}", texts.len(), lines.join("\n"));
    writeln!(out, "{text}").context(|| "cannot write".to_owned())
}

/// Found copies by kind and edit rate, and what was joined without a reason in the table.
fn recall(ids: &[String], first: &[usize], truth: &str) -> String {
    let position: HashMap<&str, usize> = ids.iter().enumerate().map(|(i, id)| (id.as_str(), i)).collect();
    let mut by_rate: BTreeMap<String, (usize, usize)> = BTreeMap::new();
    let mut explained = 0;
    for line in truth.lines().skip(1) {
        let columns: Vec<&str> = line.split(',').collect();
        let [copy, original, kind, rate, ..] = columns[..] else { continue };
        let together = match (position.get(copy), position.get(original)) {
            (Some(a), Some(b)) => first[*a] == first[*b],
            _ => false,
        };
        let entry = by_rate.entry(format!("{kind} {rate}")).or_default();
        entry.0 += usize::from(together);
        entry.1 += 1;
        explained += usize::from(together);
    }
    let dropped = first.iter().enumerate().filter(|(i, first)| i != *first).count();
    let rows: Vec<String> = by_rate
        .iter()
        .map(|(kind, (found, all))| format!("{kind}: {found} of {all}, recall {:.3}", *found as f64 / *all as f64))
        .collect();
    format!("{}\ndropped {dropped}, of them not in the table: {}", rows.join("\n"), dropped - explained)
}
