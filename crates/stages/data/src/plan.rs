//! What the stage would cost, from the files' sizes and a look at their first records.

use std::path::Path;

use cupola_artifact::stage::Plan;
use cupola_artifact::{Result, human_bytes, human_count};
use cupola_records::read_records;

use crate::collect::{self, LocalFile};
use crate::config::{DataConfig, Source};
use crate::pipeline;

/// Records looked at per file.
const SAMPLE: usize = 100;

/// Files looked into; the rest are taken to be like them.
const SAMPLED_FILES: usize = 20;

/// Bytes of text per byte of a compressed file: gzip and zstd on English prose and JSON.
const UNPACKED: f64 = 2.9;

/// Bytes of text per second through the whole stage without filters; measured on two busy cores of a server.
const BYTES_PER_SECOND: f64 = 13e6;

/// What a chunk takes in the hands of a thread, as records, as documents and as what is written, bytes; and a range of keys.
const MEMORY_PER_THREAD: f64 = 96e6;

/// The program and its tables, bytes.
const BASE_MEMORY: f64 = 30e6;

/// Bytes of text per token of a usual vocabulary, for English prose.
pub const BYTES_PER_TOKEN: f64 = 4.4;

/// Bytes of an artifact per byte of text: zstd at its default level on English prose.
const PACKED: f64 = 0.4;

/// What the sources hold, by source: estimated from the sizes of files and a look into some.
struct Estimate {
    files: usize,
    documents: Vec<f64>,
    bytes: Vec<f64>,
}

impl Estimate {
    fn of(config: &DataConfig, recipe_dir: &Path, known: &[Option<Vec<LocalFile>>]) -> Result<Self> {
        let files = pipeline::files(config, recipe_dir, known)?;
        let nothing = vec![0.0; config.sources.len()];
        let mut all = Self { files: files.len(), documents: nothing.clone(), bytes: nothing };
        let mut bytes_per_document = 0.0;
        for (i, file) in files.iter().enumerate() {
            let (on_disk, source) = (file.bytes as f64, file.source);
            let file = file.path.as_path();
            let packed = file.extension().is_some_and(|e| e == "gz" || e == "zst" || e == "parquet");
            let unpacked = if packed { on_disk * UNPACKED } else { on_disk };
            all.bytes[source] += unpacked;
            if is_text(file) {
                all.documents[source] += 1.0;
                continue;
            }
            if i < SAMPLED_FILES || bytes_per_document == 0.0 {
                bytes_per_document = sample(file).unwrap_or(bytes_per_document);
            }
            let documents = if bytes_per_document > 0.0 { (unpacked / bytes_per_document).max(1.0) } else { 1.0 };
            all.documents[source] += documents;
        }
        Ok(all)
    }

    /// How often each source is taken; nothing of a mixture of nothing.
    fn epochs(&self, config: &DataConfig) -> Vec<f64> {
        match &config.mixture {
            Some(mixture) => {
                mixture.epochs(&config.sources, &self.bytes).unwrap_or_else(|_| vec![0.0; config.sources.len()])
            }
            None => config.sources.iter().map(Source::epochs).collect(),
        }
    }

    /// A line about each source, if there are several: what it holds, and what of the mixture it will be.
    fn mixture(&self, config: &DataConfig) -> Vec<String> {
        if config.sources.len() < 2 {
            return Vec::new();
        }
        let epochs = self.epochs(config);
        let written: Vec<f64> = self.bytes.iter().zip(&epochs).map(|(bytes, epochs)| bytes * epochs).collect();
        let all = written.iter().sum::<f64>().max(1.0);
        let line = |(i, source): (usize, &Source)| {
            format!(
                "{}: about {} documents, {}, {} tokens; {:.2} epochs make {} tokens, {:.1}% of the text",
                source.path(),
                human_count(self.documents[i].round()),
                human_bytes(self.bytes[i]),
                human_count(self.bytes[i] / BYTES_PER_TOKEN),
                epochs[i],
                human_count(written[i] / BYTES_PER_TOKEN),
                100.0 * written[i] / all
            )
        };
        config.sources.iter().enumerate().map(line).collect()
    }
}

/// What the mixture will be if the steps drop the same share of every source, a line for each of several sources.
pub fn mixture(config: &DataConfig, recipe_dir: &Path, known: &[Option<Vec<LocalFile>>]) -> Result<Vec<String>> {
    Ok(Estimate::of(config, recipe_dir, known)?.mixture(config))
}

/// Estimates.
pub fn plan(config: &DataConfig, recipe_dir: &Path) -> Result<Plan> {
    // Nothing is collected for a plan.
    let known = collect::known(config, recipe_dir)?.files;
    let estimate = Estimate::of(config, recipe_dir, &known)?;
    let bytes: f64 = estimate.bytes.iter().sum();
    let written: f64 = estimate.bytes.iter().zip(estimate.epochs(config)).map(|(bytes, epochs)| bytes * epochs).sum();
    let validation = written * config.validation_fraction;
    let facts = [
        ("bytes", bytes),
        ("documents", estimate.documents.iter().sum::<f64>().round()),
        ("train_bytes", written - validation),
        ("validation_bytes", validation),
    ];
    let mut notes =
        vec![format!("{} files; bytes and documents are estimated from their sizes and first records", estimate.files)];
    let elsewhere = config.sources.iter().zip(&known).filter(|(_, files)| files.as_ref().is_some_and(Vec::is_empty));
    notes.extend(elsewhere.map(|(source, _)| format!("{}: not in the cache yet, not counted", source.path())));
    notes.extend(estimate.mixture(config));
    let threads = rayon::current_num_threads() as f64;
    Ok(Plan {
        facts: facts.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
        flops: 0.0,
        memory_bytes: BASE_MEMORY + threads * MEMORY_PER_THREAD.min(4.0 * bytes),
        // What two passes hold, uncompressed, and the artifact.
        disk_bytes: 2.0 * bytes + PACKED * written,
        seconds: bytes / BYTES_PER_SECOND,
        notes,
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
