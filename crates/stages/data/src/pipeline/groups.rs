//! Bringing together what shares a key, in bounded memory.
//!
//! Keys lie in one sorted file for each part. They are divided by ranges of their hashes so small that the keys of a range,
//! over all parts, fit the memory that is allowed; a range is read, sorted and judged group by group, ranges in parallel.

use std::collections::HashMap;
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use cupola_artifact::stage::Progress;
use cupola_artifact::{Context, Result, write_atomic};
use rayon::prelude::*;

use super::part::{KeyFile, PartId, read_exact_at};
use crate::step::{ANY_SIZE, Across, Decision, Key, Place, Sketches};

/// Bytes of keys that are judged at a time by each thread.
const RANGE_BYTES: u64 = 32 << 20;

/// Bytes of a decision in a file.
const DECISION_BYTES: usize = 24;

/// Files of sketches that are held open.
const OPEN_FILES: usize = 256;

/// Judges all keys that the parts in `dir` hold, and writes what was decided into `to`.
pub fn decide(across: &dyn Across, dir: &Path, parts: &[PartId], to: &Path, progress: &dyn Progress) -> Result<()> {
    let files: Vec<PathBuf> = parts.iter().map(|id| id.file(dir, "keys")).collect();
    let mut bytes = 0;
    for file in &files {
        bytes += std::fs::metadata(file).context(|| format!("cannot read {}", file.display()))?.len();
    }
    let ranges = bytes.div_ceil(RANGE_BYTES).max(1).next_power_of_two();
    let sketches = SketchFiles { dir: dir.to_path_buf(), bytes: across.sketch_bytes(), open: Mutex::default() };
    progress.begin("comparing", Some(ranges), "ranges of keys");
    let done = std::sync::atomic::AtomicU64::new(0);
    let judged: Result<Vec<Vec<Decision>>> = (0..ranges)
        .into_par_iter()
        .map(|range| {
            let decisions = judge(across, range, ranges, &files, &sketches);
            progress.update(done.fetch_add(1, std::sync::atomic::Ordering::Relaxed) + 1, "");
            decisions
        })
        .collect();
    progress.end();
    let mut decisions = across.finish(judged?.into_iter().flatten().collect());
    decisions.par_sort_unstable();
    decisions.dedup();
    let mut bytes = Vec::with_capacity(decisions.len() * DECISION_BYTES);
    for decision in &decisions {
        bytes.extend(decision.place.to_le_bytes());
        bytes.extend(decision.other.to_le_bytes());
        bytes.extend(decision.part.to_le_bytes());
        bytes.extend(decision.length.to_le_bytes());
    }
    write_atomic(to, &bytes)
}

fn judge(
    across: &dyn Across,
    range: u64,
    ranges: u64,
    files: &[PathBuf],
    sketches: &dyn Sketches,
) -> Result<Vec<Decision>> {
    // `ranges` is a power of two, so it divides 2^64.
    let width = (1_u128 << 64) / u128::from(ranges);
    let from = u128::from(range) * width;
    let (from, to) = (from as u64, (from + (width - 1)) as u64);
    let mut keys: Vec<Key> = Vec::new();
    for file in files {
        KeyFile::open(file.clone())?.read_range(from, to, &mut keys)?;
    }
    keys.sort_unstable();
    let mut decisions = Vec::new();
    for group in keys.chunk_by(|a, b| a.hash == b.hash && a.check == b.check).filter(|group| group.len() > 1) {
        across.group(group, sketches, &mut decisions)?;
    }
    Ok(decisions)
}

/// Reads sketches from the parts' files.
struct SketchFiles {
    dir: PathBuf,
    bytes: usize,
    open: Mutex<HashMap<PartId, Arc<File>>>,
}

impl Sketches for SketchFiles {
    fn sketch(&self, place: Place) -> Result<Vec<u8>> {
        self.part(place, 0..usize::MAX)
    }

    fn part(&self, place: Place, range: Range<usize>) -> Result<Vec<u8>> {
        let (id, index) = PartId::of(place);
        let path = id.file(&self.dir, "sketch");
        let cannot = || format!("cannot read {}", path.display());
        let file = self.open(id, &path).context(cannot)?;
        let (mut start, mut end) = (self.bytes.saturating_mul(index) as u64, self.bytes as u64);
        if self.bytes == ANY_SIZE {
            let mut ends = [0; 16];
            read_exact_at(&file, &mut ends, 8 * index as u64).context(cannot)?;
            let word = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| ends[at + i]));
            (start, end) = (word(0), word(8).saturating_sub(word(0)));
        }
        let from = end.min(range.start as u64);
        let mut sketch = vec![0; (end.min(range.end as u64) - from) as usize];
        read_exact_at(&file, &mut sketch, start + from).context(cannot)?;
        Ok(sketch)
    }
}

impl SketchFiles {
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
