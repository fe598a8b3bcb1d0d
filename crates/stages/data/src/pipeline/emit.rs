//! The end of the pipeline: repetition, training and validation, and the artifact's files.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use cupola_artifact::stage::Progress;
use cupola_artifact::{Context, Error, Result, human_bytes, human_count};
use cupola_records::{Document, TRAIN_FILE, VALIDATION_FILE};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use super::part::{Lines, PartId, read_lines};
use crate::config::{DataConfig, Mixture, Source, SplitRule};
use crate::plan::BYTES_PER_TOKEN;
use crate::report::Count;
use crate::step::{MADE_FROM, SPLIT_KEY};

/// Keeps the choice of a source's documents apart from the choice of the split.
const EPOCH_SEED: u64 = 0x65_706F_6368;

/// Says which documents are written how often and where.
pub struct Emitter {
    split: SplitRule,
    fraction: f64,
    /// By source, where it is not once.
    epochs: HashMap<String, f64>,
}

/// What was written of a part, or of all.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Emitted {
    /// For training; with `split = "position"` everything, until the cut is known.
    pub train: Count,
    /// For validation.
    pub validation: Count,
}

impl Emitter {
    /// As the settings say.
    pub fn new(config: &DataConfig, epochs: HashMap<String, f64>) -> Self {
        Self { split: config.split, fraction: config.validation_fraction, epochs }
    }

    /// How often each source's documents are taken so that its bytes have the share that the mixture wants; by source,
    /// from what was kept of each. A line about each source is told.
    pub fn mix(mixture: &Mixture, sources: &[Source], kept: &[u64], progress: &dyn Progress) -> Result<Vec<f64>> {
        let epochs = mixture.epochs(sources, &kept.iter().map(|bytes| *bytes as f64).collect::<Vec<_>>())?;
        let all: f64 = epochs.iter().zip(kept).map(|(epochs, bytes)| epochs * *bytes as f64).sum();
        for (i, source) in sources.iter().enumerate() {
            let written = epochs[i] * kept[i] as f64;
            let capped = if epochs[i] == mixture.max_epochs { ", the most that `max_epochs` allows" } else { "" };
            progress.line(&format!(
                "mixture: {}, {} kept, {:.2} epochs{capped}: {}, about {} tokens, {:.1}%",
                source.path(),
                human_bytes(kept[i] as f64),
                epochs[i],
                human_bytes(written),
                human_count(written / BYTES_PER_TOKEN),
                100.0 * written / all.max(1.0)
            ));
        }
        Ok(epochs)
    }

    /// Starts a part.
    pub fn part(&self, dir: &Path, id: PartId) -> Result<Emitting<'_>> {
        let create = |ending: &str| Lines::create(id.file(dir, ending));
        let both = self.split == SplitRule::Hash;
        Ok(Emitting {
            emitter: self,
            train: create("train")?,
            validation: both.then(|| create("validation")).transpose()?,
            emitted: Emitted::default(),
        })
    }

    /// How often a document is written.
    fn copies(&self, document: &Document) -> u64 {
        let Some(epochs) = of_source(&self.epochs, &document.source) else { return 1 };
        let chosen = unit(xxh3_64_with_seed(document.text.as_bytes(), EPOCH_SEED)) < epochs.fract();
        epochs.floor() as u64 + u64::from(chosen)
    }
}

/// What is known of a document's source, or of the archive that holds it.
pub fn of_source<'a, T>(known: &'a HashMap<String, T>, source: &str) -> Option<&'a T> {
    let inner = source.match_indices(['!', '/', '#']).map(|(at, _)| at).rev();
    known.get(source).or_else(|| inner.filter_map(|at| known.get(&source[..at])).next())
}

/// A part being written.
pub struct Emitting<'a> {
    emitter: &'a Emitter,
    train: Lines,
    validation: Option<Lines>,
    emitted: Emitted,
}

impl Emitting<'_> {
    /// Writes a document where it belongs.
    pub fn write(&mut self, document: &Document) -> Result<()> {
        let side = made_from(document).unwrap_or_else(|| xxh3_64(document.text.as_bytes()));
        let held_out = unit(side) < self.emitter.fraction;
        match &mut self.validation {
            // What is held out is held out once.
            Some(validation) if held_out => {
                if self.emitter.copies(document) > 0 {
                    self.emitted.validation.add(document.text.len() as u64);
                    validation.write(document)?;
                }
            }
            _ => {
                for _ in 0..self.emitter.copies(document) {
                    self.emitted.train.add(document.text.len() as u64);
                    self.train.write(document)?;
                }
            }
        }
        Ok(())
    }

    /// Completes the part's files; what they hold.
    pub fn finish(self) -> Result<Emitted> {
        self.train.finish()?;
        self.validation.map_or(Ok(()), Lines::finish)?;
        Ok(self.emitted)
    }
}

/// The hash that decides the side of a document that was made of another: the other's, so that no text is trained on in
/// one form and held out in another.
fn made_from(document: &Document) -> Option<u64> {
    let key = document.fields.get(MADE_FROM)?.get(SPLIT_KEY)?.as_str()?;
    u64::from_str_radix(key, 16).ok()
}

/// A hash as a number in [0, 1).
fn unit(hash: u64) -> f64 {
    const BITS: u32 = 53;
    (hash >> (64 - BITS)) as f64 / (1_u64 << BITS) as f64
}

/// Puts the parts together to the artifact's two files; also the number of documents that the split cut in two.
pub fn assemble(config: &DataConfig, parts: &[(PartId, Emitted)], from: &Path, to: &Path) -> Result<(Emitted, u64)> {
    let mut all = Emitted::default();
    for (_, emitted) in parts {
        for (into, count) in [(&mut all.train, emitted.train), (&mut all.validation, emitted.validation)] {
            into.documents += count.documents;
            into.bytes += count.bytes;
        }
    }
    let count = all.train.documents + all.validation.documents;
    let (mut train, mut validation) = (Whole::create(to.join(TRAIN_FILE))?, Whole::create(to.join(VALIDATION_FILE))?);
    let mut cut_documents = 0;
    match config.split {
        SplitRule::Hash => {
            for (id, _) in parts {
                train.append(&id.file(from, "train"))?;
                validation.append(&id.file(from, "validation"))?;
            }
        }
        SplitRule::Position => {
            let cut = ((1.0 - config.validation_fraction) * all.train.bytes as f64).floor() as u64;
            let mut before = 0;
            let mut written = Emitted::default();
            for (id, emitted) in parts {
                let file = id.file(from, "train");
                let end = before + emitted.train.bytes;
                if end <= cut {
                    train.append(&file)?;
                    add(&mut written.train, emitted.train);
                } else if before >= cut && before > 0 {
                    validation.append(&file)?;
                    add(&mut written.validation, emitted.train);
                } else {
                    let sides = [id.file(from, "cut-train"), id.file(from, "cut-validation")];
                    cut_documents += cut_part(&file, cut - before, &sides, &mut written)?;
                    train.append(&sides[0])?;
                    validation.append(&sides[1])?;
                }
                before = end;
            }
            all = written;
        }
    }
    if all.train.documents == 0 || (all.validation.documents == 0 && config.validation_fraction > 0.0) {
        return Err(empty_side(config, count, all.train.documents == 0));
    }
    train.finish()?;
    validation.finish()?;
    Ok((all, cut_documents))
}

fn add(into: &mut Count, count: Count) {
    into.documents += count.documents;
    into.bytes += count.bytes;
}

/// Divides a part's documents at a byte of their texts, moved back to the start of a character; the second half of a
/// document that it goes through gets an id that ends in `+`. The number of such documents.
fn cut_part(file: &Path, cut: u64, sides: &[PathBuf; 2], written: &mut Emitted) -> Result<u64> {
    let mut train = Lines::create(sides[0].clone())?;
    let mut validation = Lines::create(sides[1].clone())?;
    let (mut before, mut cut_documents) = (0, 0);
    for document in read_lines::<Document>(file)? {
        let mut document = document?;
        let length = document.text.len() as u64;
        let at = document.text.floor_char_boundary(usize::try_from(cut.saturating_sub(before)).unwrap_or(usize::MAX));
        before += length;
        if at as u64 >= length && !(at == 0 && length > 0) {
            written.train.add(length);
            train.write(&document)?;
            continue;
        }
        if at > 0 {
            cut_documents += 1;
            let rest = document.text.split_off(at);
            written.train.add(document.text.len() as u64);
            train.write(&document)?;
            document.id.push('+');
            document.text = rest;
        }
        written.validation.add(document.text.len() as u64);
        validation.write(&document)?;
    }
    train.finish()?;
    validation.finish()?;
    Ok(cut_documents)
}

fn empty_side(config: &DataConfig, count: u64, train: bool) -> Error {
    let empty = if train { "training" } else { "validation" };
    let error = Error::failed(format!("the split of {count} documents leaves none for {empty}"));
    match config.split {
        SplitRule::Hash => {
            error.with_hint("with so few documents use `split = \"position\"`, which can cut through one")
        }
        SplitRule::Position => error.with_hint("add text, or change `validation_fraction`"),
    }
}

/// One of the artifact's files, put together from compressed parts: frames of zstd may follow each other (RFC 8878, 3).
pub struct Whole {
    path: PathBuf,
    partial: PathBuf,
    file: BufWriter<File>,
}

impl Whole {
    /// Starts the file under a name that says that it is not complete.
    pub fn create(path: PathBuf) -> Result<Self> {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let partial = path.with_file_name(format!(".{name}.partial"));
        let file = File::create(&partial).context(|| format!("cannot write {}", path.display()))?;
        Ok(Self { partial, file: BufWriter::new(file), path })
    }

    /// Adds a part.
    pub fn append(&mut self, part: &Path) -> Result<()> {
        let mut from = File::open(part).context(|| format!("cannot read {}", part.display()))?;
        std::io::copy(&mut from, &mut self.file).context(|| format!("cannot write {}", self.path.display()))?;
        Ok(())
    }

    /// Completes the file.
    pub fn finish(mut self) -> Result<()> {
        let cannot = || format!("cannot write {}", self.path.display());
        self.file.flush().context(cannot)?;
        self.file.get_ref().sync_all().context(cannot)?;
        std::fs::rename(&self.partial, &self.path).context(cannot)
    }
}
