//! Bringing sources that lie elsewhere into a local cache, before the pipeline reads them.
//!
//! A kind of source ([`ALL`]) knows an address by how it is written, checks it without a network, and brings its files into
//! a folder of the cache (`cache`). What lies there is used again until `refresh` asks whether it has changed; what was cut
//! off goes on where it was.

mod cache;
pub mod crawl;
mod fetch;
mod http;
mod hub;
mod markup;
mod store;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use cupola_artifact::stage::Progress;
use cupola_artifact::{Error, Result, human_bytes, sha256_hex};
use serde::Serialize;

use crate::config::{DataConfig, Source};

use cache::{Cache, Entry};
pub use cache::{Collected, default_cache};
use fetch::Client;

/// The largest file that is collected if a source does not say, bytes: 256 GiB.
pub const MAX_FILE_BYTES: u64 = 256 << 30;

/// Files that are fetched at the same time.
const AT_ONCE: usize = 4;

/// A kind of source that lies elsewhere.
pub trait Remote: Sync {
    /// Whether a source is of this kind.
    fn knows(&self, source: &Source) -> bool;

    /// Checks how it is written, without a network; wrong ones are usage errors.
    fn check(&self, source: &Source) -> Result<()>;

    /// What tells it from every other source; by this it lies in the cache.
    fn identity(&self, source: &Source) -> String {
        source.path().to_owned()
    }

    /// What it is called in reports; no two sources share a name.
    fn name(&self, source: &Source) -> String {
        source.path().to_owned()
    }

    /// Brings its files into a folder of the cache.
    fn collect(&self, source: &Source, task: &Task<'_>) -> Result<Vec<Collected>>;
}

/// Every kind of source that lies elsewhere.
pub const ALL: &[&dyn Remote] = &[&http::Http, &hub::Hub, &store::Store, &crawl::Crawl];

/// What a kind of source is given to work with.
pub struct Task<'a> {
    /// The folder for its files.
    pub entry: &'a Entry,
    /// What is there and need not be fetched again unless it has changed.
    pub before: Vec<Collected>,
    /// What the surroundings say.
    pub environment: &'a Environment,
    /// Where progress is shown.
    pub progress: &'a dyn Progress,
}

impl Task<'_> {
    /// What is there of a file.
    pub fn before(&self, file: &str) -> Option<Collected> {
        self.before.iter().find(|before| before.file == file).cloned()
    }
}

/// What the surroundings say about services.
#[derive(Clone, Debug)]
pub struct Environment {
    /// Where Hugging Face's hub is: `HF_ENDPOINT`.
    pub hub: String,
    /// The token for it: `HF_TOKEN`.
    pub hub_token: Option<String>,
    /// The pause before the first repetition of a request, seconds; it doubles each time.
    pub pause: f64,
}

impl Environment {
    /// As the process finds it.
    pub fn read() -> Self {
        let set = |name: &str| std::env::var(name).ok().map(|v| v.trim().to_owned()).filter(|v| !v.is_empty());
        Self {
            hub: set("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".into()),
            hub_token: set("HF_TOKEN"),
            pause: 1.0,
        }
    }

    fn client(&self) -> Result<Client> {
        Client::new(self.pause)
    }
}

/// A collected file as the pipeline reads it.
#[derive(Clone, Debug)]
pub struct LocalFile {
    /// Where it lies.
    pub path: PathBuf,
    /// What documents call it: its address.
    pub name: String,
    /// Bytes.
    pub bytes: u64,
}

/// A source that was collected, for the report.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CollectedSource {
    /// The source as it is called in the cache.
    pub source: String,
    /// The SHA-256 of its file, or of the list of its files' names and hashes.
    pub sha256: String,
    /// Bytes of all its files.
    pub bytes: u64,
    /// Its files.
    pub files: Vec<CollectedFile>,
}

/// A collected file, for the report.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CollectedFile {
    /// Its address.
    pub address: String,
    /// Bytes.
    pub bytes: u64,
    /// Its SHA-256.
    pub sha256: String,
    /// When it was collected, UTC.
    pub collected: String,
}

/// All that was collected.
#[derive(Debug, Default)]
pub struct Collection {
    /// For each of the recipe's sources its files in the cache; `None` for one that is a path.
    pub files: Vec<Option<Vec<LocalFile>>>,
    /// What was collected.
    pub sources: Vec<CollectedSource>,
}

fn kind_of(source: &Source) -> Option<&'static dyn Remote> {
    ALL.iter().copied().find(|kind| kind.knows(source))
}

/// Whether a source lies elsewhere.
pub fn is_remote(source: &Source) -> bool {
    kind_of(source).is_some()
}

/// Checks a source's settings without a network.
pub fn check(source: &Source) -> Result<()> {
    if let Source::Table(table) = source {
        let remote = is_remote(source);
        if !remote && (table.sha256.is_some() || table.max_bytes.is_some()) {
            return Err(Error::usage(format!("`{}` has `sha256` or `max_bytes`, but is no address", table.path))
                .with_hint("they are for files that are collected; files that lie here are hashed in any case"));
        }
        if let Some(digest) = &table.sha256
            && (digest.len() != 64 || !digest.bytes().all(|b| b.is_ascii_hexdigit()))
        {
            return Err(Error::usage(format!("`sha256` of {} is not a SHA-256: `{digest}`", table.path))
                .with_hint("it has 64 hexadecimal digits; `sha256sum FILE` prints it"));
        }
    }
    match kind_of(source) {
        Some(kind) => kind.check(source),
        None => match source.path().split_once("://") {
            Some((scheme, _)) => Err(Error::usage(format!("`{}`: `{scheme}://` is not known", source.path()))
                .with_hint("known are https://, http://, hf:, s3://, gs:// and az://")),
            None => Ok(()),
        },
    }
}

/// Brings all sources that lie elsewhere into the cache.
pub fn collect(
    config: &DataConfig,
    recipe_dir: &Path,
    environment: &Environment,
    progress: &dyn Progress,
) -> Result<Collection> {
    let mut all = Collection::default();
    for source in &config.sources {
        let Some(kind) = kind_of(source) else {
            all.files.push(None);
            continue;
        };
        let identity = kind.identity(source);
        let entry = cache_of(config, recipe_dir)?.entry(&identity)?;
        let _alone = entry.lock(progress)?;
        let files = match entry.complete()? {
            Some(files) if !config.refresh && as_wanted(source, &files) => files,
            files => {
                let before = files.filter(|files| as_wanted(source, files)).unwrap_or_default();
                let task = Task { entry: &entry, before, environment, progress };
                let files = kind.collect(source, &task);
                progress.end();
                let files = files.map_err(|e| e.wrap(format!("cannot collect {}", source.path())))?;
                entry.finish(&identity, files)?
            }
        };
        if files.is_empty() {
            return Err(Error::failed(format!("there is nothing at {}", source.path())));
        }
        all.sources.push(described(kind.name(source), &files));
        all.files.push(Some(local(&entry, files)));
    }
    Ok(all)
}

/// What of the sources is in the cache already, without a network: empty for one that is not there yet.
pub fn known(config: &DataConfig, recipe_dir: &Path) -> Result<Collection> {
    let mut all = Collection::default();
    for source in &config.sources {
        let Some(kind) = kind_of(source) else {
            all.files.push(None);
            continue;
        };
        let entry = cache_of(config, recipe_dir)?.entry(&kind.identity(source))?;
        let files = entry.complete()?.filter(|files| as_wanted(source, files)).unwrap_or_default();
        all.files.push(Some(local(&entry, files)));
    }
    Ok(all)
}

fn cache_of(config: &DataConfig, recipe_dir: &Path) -> Result<Cache> {
    match &config.cache {
        Some(dir) => Ok(Cache::at(recipe_dir.join(dir))),
        None => default_cache().map(Cache::at),
    }
}

/// Whether what is in the cache has the checksum that the recipe wants.
fn as_wanted(source: &Source, files: &[Collected]) -> bool {
    expected(source).is_none_or(|digest| files.iter().all(|file| file.sha256.eq_ignore_ascii_case(digest)))
}

fn expected(source: &Source) -> Option<&str> {
    match source {
        Source::Table(table) => table.sha256.as_deref(),
        _ => None,
    }
}

fn max_bytes(source: &Source) -> u64 {
    match source {
        Source::Table(table) => table.max_bytes.unwrap_or(MAX_FILE_BYTES),
        _ => MAX_FILE_BYTES,
    }
}

fn local(entry: &Entry, files: Vec<Collected>) -> Vec<LocalFile> {
    files
        .into_iter()
        .map(|file| LocalFile { path: entry.file(&file.file), name: file.address, bytes: file.bytes })
        .collect()
}

fn described(source: String, files: &[Collected]) -> CollectedSource {
    let sha256 = match files {
        [one] => one.sha256.clone(),
        several => {
            let lines: String = several.iter().map(|file| format!("{}\0{}\n", file.file, file.sha256)).collect();
            sha256_hex(lines.as_bytes())
        }
    };
    let shown = |file: &Collected| CollectedFile {
        address: file.address.clone(),
        bytes: file.bytes,
        sha256: file.sha256.clone(),
        collected: file.collected.clone(),
    };
    CollectedSource {
        source,
        sha256,
        bytes: files.iter().map(|file| file.bytes).sum(),
        files: files.iter().map(shown).collect(),
    }
}

/// Counts what comes in, over all files of a source.
pub struct Meter<'a> {
    progress: &'a dyn Progress,
    bytes: AtomicU64,
    total: Option<u64>,
}

impl<'a> Meter<'a> {
    /// Begins a task; `total` in bytes, where it is known.
    pub fn begin(progress: &'a dyn Progress, what: &str, total: Option<u64>) -> Self {
        progress.begin(&format!("collecting {what}"), total, "bytes");
        Self { progress, bytes: AtomicU64::new(0), total }
    }

    /// Some bytes have come.
    pub fn add(&self, bytes: u64) {
        let now = self.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let message = if self.total.is_none() { human_bytes(now as f64) } else { String::new() };
        self.progress.update(now, &message);
    }

    /// Some of what came is of no use: the file starts again.
    pub fn take_back(&self, bytes: u64) {
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// Does something for each of several files, a few at a time; results in the files' order, or the first error.
pub fn several<T: Sync, R: Send>(items: &[T], work: impl Fn(&T) -> Result<R> + Sync) -> Result<Vec<R>> {
    let (next, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    let results: Mutex<Vec<(usize, Result<R>)>> = Mutex::new(Vec::with_capacity(items.len()));
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE.min(items.len()) {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let at = next.fetch_add(1, Ordering::Relaxed) as usize;
                    let Some(item) = items.get(at) else { return };
                    let result = work(item);
                    if result.is_err() {
                        stop.store(true, Ordering::Relaxed);
                    }
                    results.lock().unwrap_or_else(PoisonError::into_inner).push((at, result));
                }
            });
        }
    });
    let mut results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
    results.sort_by_key(|(at, _)| *at);
    results.into_iter().map(|(_, result)| result).collect()
}
