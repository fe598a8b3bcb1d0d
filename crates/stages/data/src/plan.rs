//! What the stage would cost, from the files' sizes and a look at their first records.

use std::path::Path;

use cupola_artifact::stage::Plan;
use cupola_artifact::{Context, Result};
use cupola_records::{expand, read_records};

use crate::config::DataConfig;

/// Records looked at per file.
const SAMPLE: usize = 100;

/// Files looked into; the rest are taken to be like them.
const SAMPLED_FILES: usize = 20;

/// Bytes of text per byte of a compressed file: gzip and zstd on English prose and JSON.
const UNPACKED: f64 = 2.9;

/// Bytes of text per second through the whole stage without filters; measured on two busy cores of a server.
const BYTES_PER_SECOND: f64 = 13e6;

/// Bytes of an artifact per byte of text: zstd at its default level on English prose.
const PACKED: f64 = 0.4;

/// Estimates.
pub fn plan(config: &DataConfig, recipe_dir: &Path) -> Result<Plan> {
    let files = expand(&config.sources, recipe_dir)?;
    let (mut bytes, mut documents) = (0.0, 0.0);
    let mut bytes_per_document = 0.0;
    for (i, file) in files.iter().enumerate() {
        let on_disk = std::fs::metadata(file).context(|| format!("cannot read {}", file.display()))?.len() as f64;
        let packed = file.extension().is_some_and(|e| e == "gz" || e == "zst" || e == "parquet");
        let unpacked = if packed { on_disk * UNPACKED } else { on_disk };
        bytes += unpacked;
        if is_text(file) {
            documents += 1.0;
            continue;
        }
        if i < SAMPLED_FILES || bytes_per_document == 0.0 {
            bytes_per_document = sample(file).unwrap_or(bytes_per_document);
        }
        documents += if bytes_per_document > 0.0 { (unpacked / bytes_per_document).max(1.0) } else { 1.0 };
    }
    let validation = bytes * config.validation_fraction;
    let facts = [
        ("bytes", bytes),
        ("documents", documents.round()),
        ("train_bytes", bytes - validation),
        ("validation_bytes", validation),
    ];
    let signatures =
        if config.dedup.near { documents * (4 * config.dedup.bands * config.dedup.rows) as f64 } else { 0.0 };
    Ok(Plan {
        facts: facts.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
        flops: 0.0,
        // The texts as read and as normalized, and one signature each.
        memory_bytes: 2.0 * bytes + signatures,
        disk_bytes: PACKED * bytes,
        seconds: bytes / BYTES_PER_SECOND,
        notes: vec![format!(
            "{} files; bytes and documents are estimated from their sizes and first records",
            files.len()
        )],
    })
}

fn is_text(file: &Path) -> bool {
    let name = file.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
    let inner = name.strip_suffix(".gz").or_else(|| name.strip_suffix(".zst")).unwrap_or(&name);
    inner.ends_with(".txt") || inner.ends_with(".md")
}

/// The mean size of a file's first records as JSON, bytes; `None` if it cannot be read, which is for the run to say.
fn sample(file: &Path) -> Option<f64> {
    let sizes: Vec<usize> =
        read_records(file).ok()?.take(SAMPLE).filter_map(|r| Some(r.ok()?.value.to_string().len() + 1)).collect();
    (!sizes.is_empty()).then(|| sizes.iter().sum::<usize>() as f64 / sizes.len() as f64)
}
