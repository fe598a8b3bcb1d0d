//! The embedded engine: runs the steps over any amount of text in bounded memory, on all cores, and goes on where it was
//! cut off.
//!
//! Steps that compare documents, or make documents of others, divide the pipeline into passes. The first pass reads the sources in chunks, later ones
//! read what the pass before wrote; each writes parts (`part`), and a part that is complete is not made again. Between two
//! passes the keys of all parts are brought together and judged (`groups`). The last pass writes the artifact's files
//! (`emit`). Where chunks end, the order of documents and every decision depend on the sources and settings alone, so the
//! result is the same for every number of threads and however often a run was cut off.

mod bloom;
mod clusters;
mod emit;
mod groups;
mod index;
mod part;
mod pass;
mod sources;
mod waiting;

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use cupola_artifact::stage::StageContext;
use cupola_artifact::{Context, Error, Result, human_count, write_atomic};
use rayon::prelude::*;
use serde_json::Value;

use crate::collect::LocalFile;
use crate::config::{DataConfig, FEW_RECORDS, KeepDropped, Source};
use crate::report::{Clusters, DataReport, PartReport};
use crate::step::{Across, Many, Step, Work};
use crate::steps::{HITS, hit_items};

use emit::{Emitted, Emitter, Whole};
use groups::Decisions;
use index::Earlier;
use part::{Description, Lines, PartId};
pub use part::{Dropped, read_exact_at};
use pass::{Numbers, Pass};
use sources::GroupReader;
pub use sources::{SourceFile, files};
use waiting::Waiting;

/// The dropped documents' file in a data artifact.
pub const DROPPED_FILE: &str = "dropped.jsonl.zst";

/// Dropped documents of each reason that the engine gives back.
const EXAMPLES: usize = 8;

/// In a data artifact: the evaluation items that were found in its documents, `{file: [item, …]}`, items counted from 0.
pub const CONTAMINATION_FILE: &str = "contamination.json";

/// What the engine gives back.
pub struct Outcome {
    /// What happened, and what was written.
    pub report: DataReport,
    /// Files that were read.
    pub files: usize,
    /// Some of the dropped documents, of every reason.
    pub dropped: Vec<Dropped>,
}

/// Runs the steps over the sources (`collected` has the files of those that lie elsewhere) and writes the artifact's files, except the report.
pub fn run(
    config: &DataConfig,
    steps: &[Step],
    context: &StageContext<'_>,
    collected: &[Option<Vec<LocalFile>>],
) -> Result<Outcome> {
    let files = files(config, context.recipe_dir, collected)?;
    let mut epochs: Vec<f64> = config.sources.iter().map(Source::epochs).collect();
    let mut engine =
        Engine { config, steps, context, all: PartReport::default(), clusters: HashMap::new(), indexes: Vec::new() };
    let mut passes = pass::passes(steps);
    let last_with_steps = passes.len() - 1;
    if config.mixture.is_some() {
        // What is kept of each source is known before anything is written.
        passes.push(Numbers::default());
    }
    let last = passes.len() - 1;
    let across = |pass: Option<&Numbers>| {
        let step = pass?.first?;
        Some((step, steps[step].work.across()?))
    };
    let mut before: Option<(PathBuf, Vec<PartId>, Option<Decisions>)> = None;
    for (number, numbers) in passes.iter().enumerate() {
        let dir = context.work.join(format!("pass-{number}"));
        std::fs::create_dir_all(&dir).context(|| format!("cannot create {}", dir.display()))?;
        let then = across(passes.get(number + 1));
        let decided = match (across(Some(numbers)), &before) {
            (Some((step, across)), Some((_, _, Some(decisions)))) => Some((step, across, decisions)),
            _ => None,
        };
        let many = numbers.first.and_then(|step| Some((step, steps[step].work.many()?)));
        if let Some(mixture) = config.mixture.as_ref().filter(|_| number == last) {
            epochs = Emitter::mix(mixture, &config.sources, &engine.kept_by_source(&files), context.progress)?;
        }
        let emitter = Emitter::new(config, by_name(&files, &epochs));
        let pass = Pass {
            dir: &dir,
            decided,
            many: many.map(|(step, many)| (step, many, Waiting::new(many.threads()))),
            each: numbers.each.iter().filter_map(|i| Some((*i, steps[*i].work.each()?))).collect(),
            then: then.map(|(_, across)| across),
            counts_kept: number == last_with_steps,
            emit: (number == last).then_some(&emitter),
            steps,
            keep_dropped: config.keep_dropped,
        };
        let parts = match &before {
            None => engine.read(&files, &pass)?,
            Some((from, parts, _)) => engine.follow(from, parts, &pass)?,
        };
        let described = engine.collect(&dir, &parts)?;
        if let Some((from, parts, _)) = &before {
            forget(from, parts)?;
        }
        match then {
            None if number < last => before = Some((dir, parts, None)),
            None => return engine.finish(&dir, &described, files.len(), passes.len()),
            Some((step, across)) => {
                let decisions = dir.join("decisions");
                if !decisions.exists() {
                    let earlier = Earlier::open(&steps[step], across, context)?;
                    groups::decide(across, &earlier, (&dir, &parts), &decisions, context.progress)?;
                }
                engine.all.note(step, &groups::noted(&decisions)?);
                if steps[step].keep_index {
                    index::make(&steps[step], across, &dir, &parts)?;
                    engine.indexes.push((dir.clone(), step));
                }
                let decisions = Decisions::open(decisions)?;
                engine.clusters.insert(step, clusters::of_pass(&decisions, &dir)?);
                before = Some((dir, parts, Some(decisions)));
            }
        }
    }
    Err(Error::failed("a pipeline without a last pass"))
}

struct Engine<'a, 'c> {
    config: &'a DataConfig,
    steps: &'a [Step],
    context: &'a StageContext<'c>,
    all: PartReport,
    clusters: HashMap<usize, Clusters>,
    /// The passes' folders that have an index to be kept, and of which step.
    indexes: Vec<(PathBuf, usize)>,
}

/// A group of files that is being read by one thread at a time.
struct Reading<'a> {
    group: u32,
    reader: GroupReader<'a>,
    chunk: u32,
    ended: bool,
    counted: u64,
}

impl Engine<'_, '_> {
    /// The first pass: reads groups of files, several at a time, and makes a part of each chunk.
    fn read(&self, files: &[SourceFile], pass: &Pass<'_>) -> Result<Vec<PartId>> {
        let groups = sources::groups(files);
        let total: u64 = files.iter().map(|file| file.bytes).sum();
        let progress = self.context.progress;
        progress.begin("reading", Some(total), "bytes");
        let mut waiting = VecDeque::new();
        let mut position = 0;
        for (number, group) in groups.iter().enumerate() {
            let number = u32::try_from(number).map_err(|_| Error::failed("there are too many files"))?;
            if complete(pass.dir, number)?.is_some() {
                position += group.iter().map(|file| file.bytes).sum::<u64>();
            } else {
                let reader = GroupReader::new(group, self.config);
                waiting.push_back(Reading { group: number, reader, chunk: 0, ended: false, counted: 0 });
            }
        }
        let state = Shared {
            waiting: Mutex::new(waiting),
            active: Mutex::new(Vec::new()),
            position: AtomicU64::new(position),
            documents: AtomicU64::new(0),
            stop: AtomicBool::new(false),
        };
        let threads = rayon::current_num_threads();
        let result = (0..threads)
            .into_par_iter()
            .map(|_| {
                let result = self.work(&state, &groups, pass);
                if result.is_err() {
                    state.stop.store(true, Ordering::Relaxed);
                }
                result
            })
            .collect::<Vec<Result<()>>>();
        progress.end();
        result.into_iter().collect::<Result<()>>()?;
        let mut parts = Vec::new();
        for group in 0..groups.len() as u32 {
            let chunks = complete(pass.dir, group)?.unwrap_or_default();
            parts.extend((0..chunks).map(|chunk| PartId { group, chunk }));
        }
        Ok(parts)
    }

    /// What each thread does in the first pass, until all groups have been read.
    fn work(&self, state: &Shared<'_>, groups: &[&[SourceFile]], pass: &Pass<'_>) -> Result<()> {
        while !state.stop.load(Ordering::Relaxed) {
            let Some(reading) = state.next() else { return Ok(()) };
            let mut reading = reading.lock().unwrap_or_else(PoisonError::into_inner);
            if reading.ended {
                continue;
            }
            let (chunk, last) = reading.reader.chunk()?;
            let id = PartId { group: reading.group, chunk: reading.chunk };
            if !id.fits() {
                return Err(Error::failed("the sources have more chunks than can be numbered"));
            }
            reading.chunk += 1;
            reading.ended = last;
            let size: u64 = groups[reading.group as usize].iter().map(|file| file.bytes).sum();
            // How much of the files was read is not known when they are compressed; a third is usual for text.
            let read =
                if last { size - reading.counted } else { (size - reading.counted).min(size / 3 + 1).min(4 << 20) };
            reading.counted += read;
            drop(reading);
            if last {
                state.forget_ended();
            }
            let documents = chunk.len() as u64;
            if Description::read(pass.dir, id)?.is_none() {
                pass.first(id, chunk, last)?;
            }
            let position = state.position.fetch_add(read, Ordering::Relaxed) + read;
            let documents = state.documents.fetch_add(documents, Ordering::Relaxed) + documents;
            self.context.progress.update(position, &format!("{} documents", human_count(documents as f64)));
        }
        Ok(())
    }

    /// A later pass: makes a part of each of the pass before.
    fn follow(&self, from: &Path, parts: &[PartId], pass: &Pass<'_>) -> Result<Vec<PartId>> {
        let (progress, done) = (self.context.progress, AtomicU64::new(0));
        let more = |n: u64| progress.update(done.fetch_add(n, Ordering::Relaxed) + n, "");
        // Where a step waits for each document, documents are counted, elsewhere parts.
        let documents = |description: Option<Description>| description.map_or(0, |description| description.documents);
        match &pass.many {
            Some((step, _, _)) => {
                let mut total = 0;
                for id in parts {
                    total += documents(Description::read(from, *id)?);
                }
                progress.begin(self.steps[*step].kind.name, Some(total), "documents");
            }
            None => progress.begin("cleaning", Some(parts.len() as u64), "parts"),
        }
        let result = parts.par_iter().try_for_each(|id| {
            let before = Description::read(from, *id)?;
            let complete = Description::read(pass.dir, *id)?.is_some();
            if !complete {
                pass.next(*id, from, before.as_ref().is_some_and(|before| before.last), &|| more(1))?;
            }
            match (&pass.many, complete) {
                (Some(_), true) => more(documents(before)),
                (Some(_), false) => {}
                (None, _) => more(1),
            }
            Ok(())
        });
        progress.end();
        result?;
        Ok(parts.to_vec())
    }

    /// Adds up the parts' reports; stops where too much was broken.
    fn collect(&mut self, dir: &Path, parts: &[PartId]) -> Result<Vec<(PartId, Description)>> {
        let mut described = Vec::with_capacity(parts.len());
        for id in parts {
            let description = Description::read(dir, *id)?
                .ok_or_else(|| Error::failed(format!("a part of {} is missing", dir.display())))?;
            self.all.merge(&description.report);
            described.push((*id, Description { report: PartReport::default(), ..description }));
        }
        let count = |reason: &str| -> u64 {
            self.all.sources.values().filter_map(|tally| tally.dropped.get(reason)).map(|count| count.documents).sum()
        };
        let broken = count("broken_record") + count("no_text") + count("set_aside");
        let read: u64 = self.all.sources.values().map(|tally| tally.read.documents + tally.made.documents).sum();
        let share = broken as f64 / read.max(1) as f64;
        if read >= FEW_RECORDS && share > self.config.max_broken {
            return Err(Error::failed(format!(
                "{broken} of {read} records could not be used ({:.1}%, allowed are {:.1}%)",
                100.0 * share,
                100.0 * self.config.max_broken
            ))
            .with_hint("repair the sources, or raise `max_broken`"));
        }
        Ok(described)
    }

    /// Bytes kept of each of the recipe's sources.
    fn kept_by_source(&self, files: &[SourceFile]) -> Vec<u64> {
        let mut kept = vec![0; self.config.sources.len()];
        let by_file: HashMap<String, usize> = files.iter().map(|file| (file.name.clone(), file.source)).collect();
        for (name, tally) in &self.all.sources {
            if let Some(source) = emit::of_source(&by_file, name) {
                kept[*source] += tally.kept.bytes;
            }
        }
        kept
    }

    fn finish(mut self, last: &Path, parts: &[(PartId, Description)], files: usize, passes: usize) -> Result<Outcome> {
        let steps = (0..self.steps.len()).map(|i| (self.steps[i].kind.name, self.clusters.remove(&i))).collect();
        let mut report = DataReport::new(std::mem::take(&mut self.all), steps);
        if report.total.kept.documents == 0 {
            return Err(nothing_left(&report, self.config));
        }
        let emitted: Vec<(PartId, Emitted)> =
            parts.iter().map(|(id, description)| (*id, description.emitted.unwrap_or_default())).collect();
        let (written, cut) = emit::assemble(self.config, &emitted, last, self.context.dir)?;
        (report.train, report.validation) = (written.train, written.validation);
        report.documents_cut_by_the_split = cut;
        for (dir, step) in &self.indexes {
            index::publish(dir, *step, &self.steps[*step], self.context.dir)?;
        }
        let dropped = self.dropped(parts, passes)?;
        self.records(parts, passes)?;
        Ok(Outcome { report, files, dropped })
    }

    /// The files with that ending that the parts of all passes have, in order.
    fn part_files(&self, parts: &[(PartId, Description)], passes: usize, ending: &str) -> Vec<PathBuf> {
        let dirs = (0..passes).map(|pass| self.context.work.join(format!("pass-{pass}")));
        dirs.flat_map(|dir| parts.iter().map(move |(id, _)| id.file(&dir, ending))).filter(|f| f.exists()).collect()
    }

    /// Writes the dropped documents that were kept; some of each reason are given back.
    fn dropped(&self, parts: &[(PartId, Description)], passes: usize) -> Result<Vec<Dropped>> {
        let mut examples = Vec::new();
        if self.config.keep_dropped == KeepDropped::None {
            return Ok(examples);
        }
        let mut seen: HashMap<(String, String), usize> = HashMap::new();
        let mut whole = Whole::create(self.context.dir.join(DROPPED_FILE))?;
        for file in self.part_files(parts, passes, "dropped") {
            whole.append(&file)?;
            for dropped in part::read_lines::<Dropped>(&file)? {
                let dropped = dropped?;
                let seen = seen.entry((dropped.step.clone(), dropped.reason.clone())).or_default();
                *seen += 1;
                if *seen <= EXAMPLES {
                    examples.push(dropped);
                }
            }
        }
        whole.finish()?;
        Ok(examples)
    }

    /// Writes what steps recorded of single documents, a file for each kind, and which evaluation items were found.
    fn records(&self, parts: &[(PartId, Description)], passes: usize) -> Result<()> {
        let mut kinds: BTreeMap<String, Lines> = BTreeMap::new();
        let looked_for = self.steps.iter().filter_map(|step| step.work.each()).flat_map(|step| step.looked_for());
        // A file of which no item was found is listed, too: it was looked for.
        let mut hits: BTreeMap<String, BTreeSet<u64>> = looked_for.map(|f| (f.clone(), BTreeSet::new())).collect();
        for file in self.part_files(parts, passes, "records") {
            for record in part::read_lines::<(String, Value)>(&file)? {
                let (kind, record) = record?;
                if kind == HITS {
                    for (file, items) in hit_items([&record]) {
                        hits.entry(file).or_default().extend(items);
                    }
                }
                let lines = match kinds.entry(kind) {
                    Entry::Occupied(entry) => entry.into_mut(),
                    Entry::Vacant(entry) => {
                        let path = self.context.dir.join(format!("{}.jsonl.zst", entry.key()));
                        entry.insert(Lines::create(path)?)
                    }
                };
                lines.write(&record)?;
            }
        }
        kinds.into_values().try_for_each(Lines::finish)?;
        if !hits.is_empty() {
            let json =
                serde_json::to_vec_pretty(&hits).context(|| "cannot write the contamination index".to_owned())?;
            write_atomic(&self.context.dir.join(CONTAMINATION_FILE), &json)?;
        }
        Ok(())
    }
}

/// What the threads of the first pass share.
struct Shared<'a> {
    waiting: Mutex<VecDeque<Reading<'a>>>,
    active: Mutex<Vec<Arc<Mutex<Reading<'a>>>>>,
    position: AtomicU64,
    documents: AtomicU64,
    stop: AtomicBool,
}

impl<'a> Shared<'a> {
    /// A group to read a chunk of: one that no other thread reads, a new one, or one that has to be waited for.
    fn next(&self) -> Option<Arc<Mutex<Reading<'a>>>> {
        let mut active = self.active.lock().unwrap_or_else(PoisonError::into_inner);
        active.retain(|reading| reading.try_lock().map_or(true, |reading| !reading.ended));
        let free = active.iter().find(|reading| reading.try_lock().is_ok()).map(Arc::clone);
        free.or_else(|| {
            let new = self.waiting.lock().unwrap_or_else(PoisonError::into_inner).pop_front()?;
            let new = Arc::new(Mutex::new(new));
            active.push(Arc::clone(&new));
            Some(new)
        })
        .or_else(|| active.first().map(Arc::clone))
    }

    fn forget_ended(&self) {
        let mut active = self.active.lock().unwrap_or_else(PoisonError::into_inner);
        active.retain(|reading| reading.try_lock().map_or(true, |reading| !reading.ended));
    }
}

/// How often documents are taken, by their file, where it is not once.
fn by_name(files: &[SourceFile], epochs: &[f64]) -> HashMap<String, f64> {
    files.iter().map(|file| (file.name.clone(), epochs[file.source])).filter(|(_, epochs)| *epochs != 1.0).collect()
}

/// Frees what a pass wrote for the next one.
fn forget(dir: &Path, parts: &[PartId]) -> Result<()> {
    for (id, ending) in parts.iter().flat_map(|id| ["docs", "keys", "sketch"].map(|ending| (id, ending))) {
        let file = id.file(dir, ending);
        if file.exists() {
            std::fs::remove_file(&file).context(|| format!("cannot remove {}", file.display()))?;
        }
    }
    Ok(())
}

/// How many parts a group of files has, if all of them are there.
fn complete(dir: &Path, group: u32) -> Result<Option<u32>> {
    for chunk in 0.. {
        match Description::read(dir, PartId { group, chunk })? {
            None => return Ok(None),
            Some(description) if description.last => return Ok(Some(chunk + 1)),
            Some(_) => {}
        }
    }
    Ok(None)
}

fn nothing_left(report: &DataReport, config: &DataConfig) -> Error {
    let sources = config.sources.iter().map(|source| source.path()).collect::<Vec<_>>().join(", ");
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
        error.with_hint("remove the step that drops the most from `steps`, or repair the sources")
    }
}

impl Work {
    fn each(&self) -> Option<&dyn crate::step::Each> {
        match self {
            Self::Each(step) => Some(step.as_ref()),
            Self::Many(_) | Self::Across(_) => None,
        }
    }

    fn many(&self) -> Option<&dyn Many> {
        match self {
            Self::Many(step) => Some(step.as_ref()),
            Self::Each(_) | Self::Across(_) => None,
        }
    }

    fn across(&self) -> Option<&dyn Across> {
        match self {
            Self::Across(step) => Some(step.as_ref()),
            Self::Each(_) | Self::Many(_) => None,
        }
    }
}
