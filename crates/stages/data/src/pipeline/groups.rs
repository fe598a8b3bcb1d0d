//! Bringing together what shares a key, in bounded memory.
//!
//! Keys lie in one sorted file for each part. They are divided by ranges of their hashes so small that the keys of a range,
//! over all parts, fit the memory that is allowed; a range is read, sorted and judged group by group, ranges in parallel.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use cupola_artifact::stage::Progress;
use cupola_artifact::{Context, Error, Result, write_atomic};
use rayon::prelude::*;

use super::bloom;
use super::index::{self, Earlier};
use super::part::{KeyFile, PartId, read_exact_at, read_sketch};
use crate::step::{Across, Decision, Key, Notes, Place, Sketches};

/// Bytes of keys that are judged at a time by each thread.
pub const RANGE_BYTES: u64 = 32 << 20;

/// Bytes of a decision in a file.
const DECISION_BYTES: usize = 24;

/// Files of sketches that are held open.
const OPEN_FILES: usize = 256;

/// In [`Decision::other`]: no document of this run, or it is not known which.
pub const ELSEWHERE: Place = Place::MAX;

/// Where there are indexes of earlier runs, so much is added to the places of this run's documents: they come later.
const NEW: Place = 1 << 63;

/// Judges all keys that the parts in `dir` hold, beside those of earlier runs, and writes what was decided into `to`, and
/// beside it what there is to be noted.
pub fn decide(
    across: &dyn Across,
    earlier: &Earlier,
    (dir, parts): (&Path, &[PartId]),
    to: &Path,
    progress: &dyn Progress,
) -> Result<()> {
    let (mut decisions, mut notes) = match across.bloom() {
        Some(false_positives) => {
            let (bloom, decisions, notes) = bloom::decide(false_positives, (dir, parts), earlier, progress)?;
            bloom.write(&index::bloom_file(dir))?;
            (decisions, notes)
        }
        None => (judge_all(across, earlier, (dir, parts), progress)?, Notes::default()),
    };
    decisions.par_sort_unstable();
    decisions.dedup();
    if !earlier.is_empty() && across.bloom().is_none() {
        let mut known: Vec<Place> = decisions.iter().filter(|d| d.other == ELSEWHERE).map(|d| d.place).collect();
        known.dedup();
        notes.count("documents_of_earlier_runs", known.len() as u64);
    }
    let json = serde_json::to_vec(notes.counts()).context(|| "cannot write what was noted".to_owned())?;
    write_atomic(&to.with_extension("notes"), &json)?;
    let mut bytes = Vec::with_capacity(decisions.len() * DECISION_BYTES);
    for decision in &decisions {
        bytes.extend(decision.place.to_le_bytes());
        bytes.extend(decision.other.to_le_bytes());
        bytes.extend(decision.part.to_le_bytes());
        bytes.extend(decision.length.to_le_bytes());
    }
    write_atomic(to, &bytes)
}

/// What [`decide`] noted.
pub fn noted(to: &Path) -> Result<Notes> {
    let path = to.with_extension("notes");
    let cannot = || format!("cannot read {}", path.display());
    let counts: BTreeMap<String, u64> =
        serde_json::from_slice(&std::fs::read(&path).context(cannot)?).context(cannot)?;
    let mut notes = Notes::default();
    counts.iter().for_each(|(name, n)| notes.count(name, *n));
    Ok(notes)
}

/// Judges the keys range by range.
fn judge_all(
    across: &dyn Across,
    earlier: &Earlier,
    (dir, parts): (&Path, &[PartId]),
    progress: &dyn Progress,
) -> Result<Vec<Decision>> {
    let files: Vec<PathBuf> = parts.iter().map(|id| id.file(dir, "keys")).collect();
    let new = if earlier.is_empty() { 0 } else { NEW };
    if parts.last().is_some_and(|id| id.place(0) & new != 0) {
        return Err(Error::failed("there are too many files to be compared with earlier runs"));
    }
    let mut bytes = earlier.bytes();
    for file in &files {
        bytes += std::fs::metadata(file).context(|| format!("cannot read {}", file.display()))?.len();
    }
    let ranges = bytes.div_ceil(RANGE_BYTES).max(1).next_power_of_two();
    let sketches =
        SketchFiles { dir: dir.to_path_buf(), bytes: across.sketch_bytes(), open: Mutex::default(), earlier, new };
    progress.begin("comparing", Some(ranges), "ranges of keys");
    let done = std::sync::atomic::AtomicU64::new(0);
    let judged: Result<Vec<Vec<Decision>>> = (0..ranges)
        .into_par_iter()
        .map(|range| {
            let decisions = judge(across, hashes(range, ranges), &files, &sketches);
            progress.update(done.fetch_add(1, std::sync::atomic::Ordering::Relaxed) + 1, "");
            decisions
        })
        .collect();
    progress.end();
    let mut decisions = across.finish(judged?.into_iter().flatten().collect());
    // What becomes of earlier runs' documents was decided there.
    decisions.retain(|decision| decision.place >= new);
    for decision in &mut decisions {
        decision.place -= new;
        decision.other = decision.other.checked_sub(new).unwrap_or(ELSEWHERE);
    }
    Ok(decisions)
}

/// The hashes of a range among so many, a power of two.
pub fn hashes(range: u64, ranges: u64) -> (u64, u64) {
    // A power of two divides 2^64.
    let width = (1_u128 << 64) / u128::from(ranges);
    let from = u128::from(range) * width;
    (from as u64, (from + (width - 1)) as u64)
}

fn judge(
    across: &dyn Across,
    (from, to): (u64, u64),
    files: &[PathBuf],
    sketches: &SketchFiles<'_>,
) -> Result<Vec<Decision>> {
    let mut keys: Vec<Key> = Vec::new();
    for file in files {
        KeyFile::open(file.clone())?.read_range(from, to, &mut keys)?;
    }
    keys.iter_mut().for_each(|key| key.place += sketches.new);
    sketches.earlier.read_range(from, to, &mut keys)?;
    keys.sort_unstable();
    let mut decisions = Vec::new();
    // A group of earlier runs' documents alone was judged there.
    let is_new = |group: &&[Key]| group.len() > 1 && group[group.len() - 1].place >= sketches.new;
    for group in keys.chunk_by(|a, b| a.hash == b.hash && a.check == b.check).filter(is_new) {
        across.group(group, sketches, &mut decisions)?;
    }
    Ok(decisions)
}

/// Reads sketches from the parts' files.
struct SketchFiles<'a> {
    dir: PathBuf,
    bytes: usize,
    open: Mutex<HashMap<PartId, Arc<File>>>,
    earlier: &'a Earlier,
    new: Place,
}

impl Sketches for SketchFiles<'_> {
    fn sketch(&self, place: Place) -> Result<Vec<u8>> {
        self.part(place, 0..usize::MAX)
    }

    fn part(&self, place: Place, range: Range<usize>) -> Result<Vec<u8>> {
        let Some(place) = place.checked_sub(self.new) else { return self.earlier.sketch(place, range) };
        let (id, index) = PartId::of(place);
        let path = id.file(&self.dir, "sketch");
        let cannot = || format!("cannot read {}", path.display());
        let file = self.open(id, &path).context(cannot)?;
        read_sketch(&file, self.bytes, index, range).context(cannot)
    }
}

impl SketchFiles<'_> {
    fn open(&self, id: PartId, path: &Path) -> std::io::Result<Arc<File>> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.len() >= OPEN_FILES && !open.contains_key(&id) {
            open.clear();
        }
        match open.get(&id) {
            Some(file) => Ok(Arc::clone(file)),
            None => Ok(Arc::clone(open.entry(id).or_insert(Arc::new(File::open(path)?)))),
        }
    }
}

/// What was decided about all documents of a pass, in the order of their places.
pub struct Decisions {
    path: PathBuf,
    file: File,
    count: u64,
}

impl Decisions {
    /// Opens what [`decide`] wrote.
    pub fn open(path: PathBuf) -> Result<Self> {
        let cannot = || format!("cannot read {}", path.display());
        let file = File::open(&path).context(cannot)?;
        let count = file.metadata().context(cannot)?.len() / DECISION_BYTES as u64;
        Ok(Self { path, file, count })
    }

    /// What was decided about the documents of a part.
    pub fn of_part(&self, id: PartId) -> Result<Vec<Decision>> {
        let start = self.first_not_before(id.place(0))?;
        let end = self.first_not_before(id.place(0) + super::part::MAX_DOCUMENTS as u64)?;
        self.read(start, end)
    }

    /// All, some at a time.
    pub fn all(&self) -> impl Iterator<Item = Result<Vec<Decision>>> {
        const AT_A_TIME: u64 = 1 << 16;
        (0..self.count.div_ceil(AT_A_TIME)).map(|i| self.read(i * AT_A_TIME, self.count.min((i + 1) * AT_A_TIME)))
    }

    fn read(&self, start: u64, end: u64) -> Result<Vec<Decision>> {
        let mut bytes = vec![0; (end - start) as usize * DECISION_BYTES];
        read_exact_at(&self.file, &mut bytes, start * DECISION_BYTES as u64)
            .context(|| format!("cannot read {}", self.path.display()))?;
        let decision = |bytes: &[u8]| {
            let word = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| bytes[at + i]));
            let half = |at: usize| u32::from_le_bytes(std::array::from_fn(|i| bytes[at + i]));
            Decision { place: word(0), other: word(8), part: half(16), length: half(20) }
        };
        Ok(bytes.chunks_exact(DECISION_BYTES).map(decision).collect())
    }

    fn first_not_before(&self, place: Place) -> Result<u64> {
        let (mut low, mut high) = (0, self.count);
        while low < high {
            let middle = low + (high - low) / 2;
            if self.read(middle, middle + 1)?[0].place < place { low = middle + 1 } else { high = middle }
        }
        Ok(low)
    }
}
