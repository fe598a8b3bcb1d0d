//! What a step of the pipeline is.
//!
//! A step is a pure function. [`Each`] sees one document at a time. [`Many`] does too, but may make further documents of it,
//! and waits for others, e.g. a server. [`Across`] compares documents: it names the keys under which a document meets
//! others, judges each group that shares a key, and applies what was decided. None knows files, threads or the order in
//! which documents come: that is the engine's part (`pipeline`).

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use cupola_artifact::{Result, parse_config, unknown_name};
use cupola_records::Document;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What a step says about a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It may stay.
    Keep,
    /// It goes; the reason under which it is counted.
    Drop(&'static str),
    /// It could not be judged, and why: it is set aside as broken, and the run goes on.
    SetAside(String),
}

/// `Drop(reason)` for the first condition that holds.
pub fn first_reason(conditions: &[(bool, &'static str)]) -> Verdict {
    conditions.iter().find(|(holds, _)| *holds).map_or(Verdict::Keep, |(_, reason)| Verdict::Drop(reason))
}

/// What steps count beside their verdicts, e.g. `email` addresses masked, summed over the documents for the report, and what
/// they have to say of single documents.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Notes {
    counts: BTreeMap<String, u64>,
    records: Vec<(&'static str, Value)>,
}

impl Notes {
    /// Adds to a count.
    pub fn count(&mut self, name: &str, n: u64) {
        match self.counts.get_mut(name) {
            Some(count) => *count += n,
            None => drop(self.counts.insert(name.to_owned(), n)),
        }
    }

    /// Adds another document's notes.
    pub fn append(&mut self, other: &Self) {
        other.counts.iter().for_each(|(name, n)| self.count(name, *n));
        self.records.extend(other.records.iter().cloned());
    }

    /// Adds a record to those of a kind, which the artifact lists; an object.
    pub fn record(&mut self, kind: &'static str, record: Value) {
        self.records.push((kind, record));
    }

    /// All records with their kinds.
    pub fn records(&self) -> &[(&'static str, Value)] {
        &self.records
    }

    /// All counts by name.
    pub fn counts(&self) -> &BTreeMap<String, u64> {
        &self.counts
    }
}

/// What a step may look at when it gets ready.
#[derive(Clone, Copy, Debug)]
pub struct Setting<'a> {
    /// The folder that relative paths in the recipe start from.
    pub recipe_dir: &'a Path,
    /// Where all randomness starts.
    pub seed: u64,
}

/// A step that looks at one document at a time. Its type is its settings, with their published defaults; what is made of
/// them (tables, patterns) are fields that `serde` skips and [`Each::prepare`] fills.
pub trait Each: Send + Sync {
    /// Checks the settings without opening a file; wrong ones are usage errors.
    fn validate(&self) -> Result<()> {
        Ok(())
    }

    /// Files and folders it reads, as the recipe names them: their content decides whether the stage must run again.
    fn references(&self) -> Vec<String> {
        Vec::new()
    }

    /// Reads those files and makes its tables, once, before the first document.
    fn prepare(&mut self, setting: &Setting<'_>) -> Result<()> {
        let _ = setting;
        Ok(())
    }

    /// The files whose items it looks for in documents, once it is ready.
    fn looked_for(&self) -> &[String] {
        &[]
    }

    /// Judges a document, and may change it. A panic sets the document aside.
    fn apply(&self, document: &mut Document, notes: &mut Notes) -> Verdict;
}

/// What came of a document that [`Many`] looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Became {
    /// What happens to the document itself.
    pub verdict: Verdict,
    /// What was made of it, each with a verdict; they follow the document in this order.
    pub made: Vec<(Document, Verdict)>,
}

/// The field of a made document that says which document it was made of.
pub const MADE_FROM: &str = "made_from";

/// In that field, what decides on which side of the split both are: the hexadecimal hash (XXH3, 64 bits) of the first text.
pub const SPLIT_KEY: &str = "split_key";

/// A step that may make further documents of one, and that waits for something else than this machine's cores meanwhile.
/// The engine calls it for several documents at a time, on threads that may sleep, and keeps their order.
pub trait Many: Send + Sync {
    /// Checks the settings without opening a file; wrong ones are usage errors.
    fn validate(&self) -> Result<()> {
        Ok(())
    }

    /// Files and folders it reads, as the recipe names them.
    fn references(&self) -> Vec<String> {
        Vec::new()
    }

    /// Gets ready, once, before the first document. In the folder `work`, which is its own and need not be there yet, it may
    /// keep what a run that was cut off is not to do again.
    fn prepare(&mut self, setting: &Setting<'_>, work: &Path) -> Result<()>;

    /// For how many documents it is called at a time.
    fn threads(&self) -> usize;

    /// Judges a document, may change it, and makes others of it. A panic sets the document aside, an error stops the run.
    fn apply(&self, document: &mut Document, notes: &mut Notes) -> Result<Became>;
}

/// Where a document stands in a pass, in the order of the sources: smaller is earlier, whatever the number of threads.
pub type Place = u64;

/// Under what a document, or a part of it, meets others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// Well mixed bits: what brings together, and what divides the work.
    pub hash: u64,
    /// Further bits that must be equal too; 0 where `hash` alone decides.
    pub check: u64,
    /// The document.
    pub place: Place,
    /// Which part of it, e.g. the line; 0 for the whole.
    pub part: u32,
}

/// What was decided about a document, or a part of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Decision {
    /// The document it is about.
    pub place: Place,
    /// Which part of it.
    pub part: u32,
    /// How much from there on, where a part has a length of its own, e.g. in bytes; else 0.
    pub length: u32,
    /// The document that is the reason, e.g. the first of its cluster.
    pub other: Place,
}

/// What [`Across::keys`] gives for a document.
#[derive(Debug, Default)]
pub struct Keys {
    pub(crate) keys: Vec<Key>,
    pub(crate) sketch: Vec<u8>,
}

impl Keys {
    /// Adds a key.
    pub fn push(&mut self, key: Key) {
        self.keys.push(key);
    }

    /// The keys so far.
    pub fn keys(&self) -> &[Key] {
        &self.keys
    }

    /// Where a document's sketch of [`Across::sketch_bytes`] bytes is appended.
    pub fn sketch(&mut self) -> &mut Vec<u8> {
        &mut self.sketch
    }
}

/// Looks up documents' sketches.
pub trait Sketches: Sync {
    /// The sketch of the document at a place.
    fn sketch(&self, place: Place) -> Result<Vec<u8>>;

    /// The bytes of a document's sketch in a range, as many of them as it has.
    fn part(&self, place: Place, range: Range<usize>) -> Result<Vec<u8>> {
        let sketch = self.sketch(place)?;
        let end = range.end.min(sketch.len());
        Ok(sketch[range.start.min(end)..end].to_vec())
    }
}

/// [`Across::sketch_bytes`] of a step whose sketches are as long as each document makes them.
pub const ANY_SIZE: usize = usize::MAX;

/// A step that compares documents with each other.
pub trait Across: Send + Sync {
    /// Checks the settings; wrong ones are usage errors.
    fn validate(&self) -> Result<()> {
        Ok(())
    }

    /// Files and folders it reads, as the recipe names them.
    fn references(&self) -> Vec<String> {
        Vec::new()
    }

    /// Makes its tables, once, before the first document.
    fn prepare(&mut self, setting: &Setting<'_>) -> Result<()> {
        let _ = setting;
        Ok(())
    }

    /// Bytes of what is remembered of each document for [`Across::group`]; 0 for none, [`ANY_SIZE`] where they differ.
    fn sketch_bytes(&self) -> usize {
        0
    }

    /// The keys of a document.
    fn keys(&self, document: &Document, place: Place, keys: &mut Keys);

    /// The share of false positives, where keys are judged by a Bloom filter instead of in groups: what was there before
    /// goes, and the first of equal parts stays.
    fn bloom(&self) -> Option<f64> {
        None
    }

    /// Judges what shares `hash` and `check`: at least two keys, in the order of their places and parts.
    fn group(&self, group: &[Key], sketches: &dyn Sketches, decisions: &mut Vec<Decision>) -> Result<()>;

    /// Makes of what was decided group by group what is decided in the end, e.g. clusters of pairs.
    fn finish(&self, decisions: Vec<Decision>) -> Vec<Decision> {
        decisions
    }

    /// Carries out what was decided about a document; called only where something was.
    fn apply(&self, document: &mut Document, decisions: &[Decision], notes: &mut Notes) -> Verdict;
}

/// What a step does.
pub enum Work {
    /// One document at a time.
    Each(Box<dyn Each>),
    /// One document at a time, of which others are made.
    Many(Box<dyn Many>),
    /// Documents with each other.
    Across(Box<dyn Across>),
}

/// A kind of step: what a recipe can name.
pub struct Kind {
    /// What a recipe calls it.
    pub name: &'static str,
    /// What it does, by whom it was published, in a line.
    pub about: &'static str,
    configure: fn(&str, toml::Table) -> Result<(Work, Value)>,
    defaults: fn() -> Value,
    /// Whether it compares documents.
    pub compares: bool,
}

impl Kind {
    /// A kind of step that looks at documents one at a time.
    pub const fn each<T>(name: &'static str, about: &'static str) -> Self
    where
        T: Each + Default + Serialize + DeserializeOwned + 'static,
    {
        Self {
            name,
            about,
            configure: |section, table| configured(section, table, T::validate, |step| Work::Each(step)),
            defaults: defaults::<T>,
            compares: false,
        }
    }

    /// A kind of step that makes documents of others.
    pub const fn many<T>(name: &'static str, about: &'static str) -> Self
    where
        T: Many + Default + Serialize + DeserializeOwned + 'static,
    {
        Self {
            name,
            about,
            configure: |section, table| configured(section, table, T::validate, |step| Work::Many(step)),
            defaults: defaults::<T>,
            compares: false,
        }
    }

    /// A kind of step that compares documents.
    pub const fn across<T>(name: &'static str, about: &'static str) -> Self
    where
        T: Across + Default + Serialize + DeserializeOwned + 'static,
    {
        Self {
            name,
            about,
            configure: |section, table| configured(section, table, T::validate, |step| Work::Across(step)),
            defaults: defaults::<T>,
            compares: true,
        }
    }

    /// Its settings where the recipe says nothing, also where it has to say something.
    pub fn defaults(&self) -> Value {
        (self.defaults)()
    }

    /// The step with these settings; unknown ones are errors that suggest the nearest known one.
    pub fn configure(&'static self, mut settings: toml::Table) -> Result<Step> {
        let section = format!("the step `{}`", self.name);
        let runs = match self.compares {
            true => Runs::take(&section, &mut settings)?,
            false => Runs::default(),
        };
        let (work, settings) = (self.configure)(&section, settings)?;
        Ok(Step { kind: self, settings, work, against: runs.against, keep_index: runs.keep_index })
    }
}

/// What every step that compares documents may be told about other runs.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Runs {
    against: Vec<String>,
    keep_index: bool,
}

impl Runs {
    /// Takes those settings out of a step's.
    fn take(section: &str, settings: &mut toml::Table) -> Result<Self> {
        let keys = ["against", "keep_index"];
        let own = keys.iter().filter_map(|key| Some(((*key).to_owned(), settings.remove(*key)?))).collect();
        parse_config(section, own)
    }
}

/// Reads a step's settings and checks them; the step, and all its settings with their defaults filled in.
fn configured<T: Serialize + DeserializeOwned>(
    section: &str,
    table: toml::Table,
    validate: fn(&T) -> Result<()>,
    work: fn(Box<T>) -> Work,
) -> Result<(Work, Value)> {
    let step: T = parse_config(section, table)?;
    validate(&step)?;
    let settings = serde_json::to_value(&step).unwrap_or_default();
    Ok((work(Box::new(step)), settings))
}

fn defaults<T: Default + Serialize>() -> Value {
    serde_json::to_value(T::default()).unwrap_or_default()
}

/// A step with its settings.
pub struct Step {
    /// What it is.
    pub kind: &'static Kind,
    /// All settings with their defaults filled in.
    pub settings: Value,
    /// What it does.
    pub work: Work,
    /// Earlier runs' artifacts that its documents are compared with, too; each has kept its index.
    pub against: Vec<String>,
    /// Whether the artifact keeps what a later run can compare its documents with.
    pub keep_index: bool,
}

impl Step {
    /// Files and folders it reads, as the recipe names them.
    pub fn references(&self) -> Vec<String> {
        let own = match &self.work {
            Work::Each(step) => step.references(),
            Work::Many(step) => step.references(),
            Work::Across(step) => step.references(),
        };
        own.into_iter().chain(self.against.iter().cloned()).collect()
    }

    /// Gets ready, once, before the first document; `work` is its folder for what outlives a cut.
    pub fn prepare(&mut self, setting: &Setting<'_>, work: &Path) -> Result<()> {
        match &mut self.work {
            Work::Each(step) => step.prepare(setting),
            Work::Many(step) => step.prepare(setting, work),
            Work::Across(step) => step.prepare(setting),
        }
    }
}

/// The kind of that name in `kinds`, or an error with the nearest one.
pub fn by_name(kinds: &'static [Kind], name: &str) -> Result<&'static Kind> {
    kinds.iter().find(|kind| kind.name == name).ok_or_else(|| {
        let known: Vec<&str> = kinds.iter().map(|kind| kind.name).collect();
        unknown_name(&format!("unknown step `{name}` in `steps`"), name, "step", &known)
    })
}
