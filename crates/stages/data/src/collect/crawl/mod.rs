//! A polite crawler: `{ crawl = ["https://site/…"] }`.
//!
//! Sites are walked in breadth, each by one request at a time. Addresses are taken from the waiting ones in batches: some
//! of every site, in the order in which they were found; what came of a batch is looked at in the same order, whatever the
//! order of the answers. So the order of the pages depends on the sites alone. What was asked for is in a journal on disk;
//! a crawl that was cut off walks the same way again, answered by the journal as far as it goes.

mod frontier;
mod host;
mod journal;
mod page;
mod robots;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use cupola_artifact::{Error, Result, hash_file, rfc3339, sha256_hex, write_atomic, write_atomic_with};
use glob::Pattern;
use serde::{Deserialize, Serialize};
use serde_json::json;
use url::Url;
use xxhash_rust::xxh3::xxh3_128;

use super::cache::{Collected, Validator};
use super::{Remote, Task};
use crate::config::Source;

use frontier::{Frontier, Waiting};
use host::{Host, Visitor};
use journal::{Journal, Outcome, Visit};

/// Redirects that are followed from an address.
pub const MAX_REDIRECTS: u32 = 5;

/// Sites that are asked at the same time.
const AT_ONCE: usize = 64;

/// Addresses of one site in a batch.
const OF_A_SITE: usize = 32;

/// Addresses in a batch.
const IN_A_BATCH: usize = 4096;

/// The file of pages.
const PAGES: &str = "pages.jsonl.gz";

/// `{ crawl = ["https://site/…"], … }`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CrawlSource {
    /// Where to begin. Required.
    pub crawl: Vec<String>,
    /// The most pages that are asked for; redirects, robots.txt and sitemaps do not count.
    pub max_pages: u64,
    /// How many links away from the beginning a page may be; what is in a sitemap is one away.
    pub max_depth: u32,
    /// Requests per second to one site; fewer if its robots.txt says so.
    pub rate: f64,
    /// The crawler's name. Its first word is what robots.txt calls it; an address in it lets sites ask who comes.
    pub user_agent: String,
    /// Whether the sites named in `crawl` are not left; `www.` makes no other site.
    pub same_host: bool,
    /// Only addresses that one of these patterns matches are asked for, if there are any; `*` also stands for `/`.
    pub include: Vec<String>,
    /// Addresses that one of these matches are not asked for.
    pub exclude: Vec<String>,
    /// Whether sitemaps are read.
    pub sitemaps: bool,
    /// Larger pages are not kept, bytes.
    pub max_page_bytes: u64,
    /// A page that takes longer is given up, seconds.
    pub timeout: f64,
    /// How often each of its documents is taken.
    pub epochs: f64,
    /// Its share of a mixture, in proportion to the others' weights.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight: Option<f64>,
}

impl Default for CrawlSource {
    fn default() -> Self {
        Self {
            crawl: Vec::new(),
            max_pages: 1000,
            max_depth: 8,
            rate: 1.0,
            user_agent: concat!("cupola/", env!("CARGO_PKG_VERSION"), " (collects text to train language models)")
                .into(),
            same_host: true,
            include: Vec::new(),
            exclude: Vec::new(),
            sitemaps: true,
            max_page_bytes: 8 << 20,
            timeout: 30.0,
            epochs: 1.0,
            weight: None,
        }
    }
}

/// Sites to be crawled.
pub struct Crawl;

impl Remote for Crawl {
    fn knows(&self, source: &Source) -> bool {
        matches!(source, Source::Crawl(_))
    }

    fn check(&self, source: &Source) -> Result<()> {
        let Source::Crawl(settings) = source else { return Ok(()) };
        if settings.crawl.is_empty() {
            return Err(
                Error::usage("`crawl` is empty").with_hint("name the pages to begin with: `crawl = [\"https://…\"]`")
            );
        }
        for address in &settings.crawl {
            if Url::parse(address).ok().and_then(page::plain).is_none() {
                return Err(Error::usage(format!("`{address}` in `crawl` is no address of a page"))
                    .with_hint("it starts with https:// or http://"));
            }
        }
        let range = |name: &str, value: f64, from: f64, to: f64| match (from..=to).contains(&value) {
            true => Ok(()),
            false => Err(Error::usage(format!("`{name}` of the crawl is {value}, not in [{from}, {to}]"))),
        };
        range("rate", settings.rate, 1e-4, 1000.0)?;
        range("timeout", settings.timeout, 0.1, 3600.0)?;
        range("max_pages", settings.max_pages as f64, 1.0, 1e9)?;
        range("max_page_bytes", settings.max_page_bytes as f64, 1.0, 1e9)?;
        if robots::product(&settings.user_agent).is_empty()
            || !settings.user_agent.bytes().all(|b| (32..127).contains(&b))
        {
            return Err(Error::usage(format!("`user_agent` is `{}`", settings.user_agent))
                .with_hint("it starts with a name, in ASCII: `user_agent = \"name/1.0 (+https://…)\"`"));
        }
        Scope::new(settings).map(|_| ())
    }

    fn identity(&self, source: &Source) -> String {
        let Source::Crawl(settings) = source else { return String::new() };
        // How often the pages are taken does not change which they are.
        let alone = CrawlSource { epochs: 1.0, weight: None, ..settings.clone() };
        format!("crawl:{}", json!(alone))
    }

    /// Crawls may begin at the same page and differ in others, or in their settings.
    fn name(&self, source: &Source) -> String {
        format!("crawl:{}#{}", source.path(), &sha256_hex(self.identity(source).as_bytes())[..8])
    }

    fn collect(&self, source: &Source, task: &Task<'_>) -> Result<Vec<Collected>> {
        let Source::Crawl(settings) = source else { return Ok(Vec::new()) };
        let (dir, done) = (task.entry.dir().join("crawl"), task.entry.dir().join("crawl").join("done"));
        if done.exists() && !task.before.is_empty() {
            journal::forget(&dir)?;
        }
        let journal = Journal::open(&dir)?;
        let visitor = Visitor::new(settings, task.environment.pause)?;
        task.progress.begin(&format!("crawling {}", source.path()), Some(settings.max_pages), "pages");
        let walk = Walk { visitor: &visitor, journal: &journal, scope: Scope::new(settings)?, task };
        let walked = walk.walk(settings);
        task.progress.end();
        let walked = walked?;
        let outcomes: Vec<String> = walked
            .outcomes
            .iter()
            .map(|(what, n)| format!("{n} {}", json!(what).as_str().unwrap_or_default()))
            .collect();
        task.progress.line(&format!("{}: {}", source.path(), outcomes.join(", ")));
        if walked.pages.is_empty() {
            // The same command asks again.
            journal::forget(&dir)?;
            return Err(
                Error::failed(format!("not one page could be kept ({})", outcomes.join(", "))).with_hint(walked.hint())
            );
        }
        let path = task.entry.file(PAGES);
        write_atomic_with(&path, |out| journal.assemble(&walked.pages, out))?;
        write_atomic(&done, b"")?;
        let (sha256, bytes) = hash_file(&path)?;
        Ok(vec![Collected {
            address: self.name(source),
            file: PAGES.into(),
            bytes,
            sha256,
            collected: rfc3339(SystemTime::now()),
            validator: Validator::default(),
            modified_ns: 0,
        }])
    }
}

/// Which addresses belong to a crawl.
struct Scope {
    hosts: Option<HashSet<String>>,
    include: Vec<Pattern>,
    exclude: Vec<Pattern>,
}

impl Scope {
    fn new(settings: &CrawlSource) -> Result<Self> {
        let patterns = |texts: &[String]| -> Result<Vec<Pattern>> {
            let pattern = |text: &String| {
                Pattern::new(text).map_err(|e| Error::usage(format!("`{text}` is not a valid pattern: {e}")))
            };
            texts.iter().map(pattern).collect()
        };
        Ok(Self {
            hosts: settings.same_host.then(HashSet::new),
            include: patterns(&settings.include)?,
            exclude: patterns(&settings.exclude)?,
        })
    }

    fn add(&mut self, url: &Url) {
        if let Some(hosts) = &mut self.hosts {
            hosts.insert(site_name(url));
        }
    }

    fn holds(&self, url: &Url) -> bool {
        self.hosts.as_ref().is_none_or(|hosts| hosts.contains(&site_name(url)))
            && (self.include.is_empty() || self.include.iter().any(|pattern| pattern.matches(url.as_str())))
            && !self.exclude.iter().any(|pattern| pattern.matches(url.as_str()))
    }
}

/// A host's name and port without `www.`.
fn site_name(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    let host = host.strip_prefix("www.").unwrap_or(host);
    // `port` is none where it is the scheme's own.
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

fn origin(url: &Url) -> String {
    url.origin().ascii_serialization()
}

struct Walk<'a> {
    visitor: &'a Visitor<'a>,
    journal: &'a Journal,
    scope: Scope,
    task: &'a Task<'a>,
}

/// What a crawl has found.
#[derive(Default)]
struct Walked {
    pages: Vec<(u64, u64)>,
    outcomes: BTreeMap<Outcome, u64>,
}

impl Walked {
    fn hint(&self) -> &'static str {
        match self.outcomes.keys().copied().max_by_key(|outcome| self.outcomes[outcome]) {
            Some(Outcome::Disallowed) => "robots.txt forbids it, or could not be read; ask the site's owner",
            Some(Outcome::Failed) => "check the network and the addresses; a proxy is taken from HTTPS_PROXY",
            _ => "check the addresses in `crawl`",
        }
    }
}

/// What a thread brings back: the sites' addresses in order, and the sitemap's where the site is new.
type OfSite = (Vec<(Waiting, Visit)>, Vec<String>);

/// A host, the pages that are to be fetched from it, and whether it was unknown until now.
type Job = (Host, Vec<Waiting>, bool);

impl Walk<'_> {
    fn walk(mut self, settings: &CrawlSource) -> Result<Walked> {
        let mut frontier = Frontier::new(settings.max_pages);
        for address in &settings.crawl {
            if let Some(url) = Url::parse(address).ok().and_then(page::plain) {
                self.scope.add(&url);
                frontier.add(Waiting { url, depth: 0, hops: 0, seed: true });
            }
        }
        let mut walked = Walked::default();
        let mut own_names: HashSet<u128> = HashSet::new();
        let mut hosts: HashMap<String, Host> = HashMap::new();
        let asked = AtomicU64::new(0);
        loop {
            let left = settings.max_pages.saturating_sub(asked.load(Ordering::Relaxed));
            let batch = frontier.batch(OF_A_SITE, IN_A_BATCH.min(usize::try_from(left).unwrap_or(IN_A_BATCH)));
            if batch.is_empty() {
                return Ok(walked);
            }
            for (visits, sitemap) in self.visit_all(batch, &mut hosts, &asked)? {
                let links = sitemap.into_iter().map(|link| (link, 1));
                self.follow(links, &mut frontier, settings);
                for (waiting, visit) in visits {
                    *walked.outcomes.entry(visit.outcome).or_default() += 1;
                    self.redirect(&waiting, &visit, &mut frontier);
                    if let Some(page) = visit.page {
                        let name = visit.canonical.as_deref().unwrap_or(&visit.url);
                        // Of several addresses of a page the first is kept, and the others need not be asked for.
                        if own_names.insert(xxh3_128(name.as_bytes())) {
                            walked.pages.push(page);
                        }
                        frontier.forget(name);
                    }
                    self.follow(visit.links.into_iter().map(|link| (link, waiting.depth + 1)), &mut frontier, settings);
                }
            }
        }
    }

    fn follow(&self, links: impl Iterator<Item = (String, u32)>, frontier: &mut Frontier, settings: &CrawlSource) {
        for (link, depth) in links.filter(|(_, depth)| *depth <= settings.max_depth) {
            if let Some(url) = Url::parse(&link).ok().filter(|url| page::may_be_page(url) && self.scope.holds(url)) {
                frontier.add(Waiting { url, depth, hops: 0, seed: false });
            }
        }
    }

    fn redirect(&mut self, waiting: &Waiting, visit: &Visit, frontier: &mut Frontier) {
        let Some(url) = visit.to.as_ref().and_then(|to| Url::parse(to).ok()) else { return };
        if waiting.seed {
            // `https://site` for `http://site`, or where the site has moved.
            self.scope.add(&url);
        }
        if waiting.hops < MAX_REDIRECTS && (waiting.seed || self.scope.holds(&url)) {
            frontier.add(Waiting { url, depth: waiting.depth, hops: waiting.hops + 1, seed: waiting.seed });
        }
    }

    /// Visits the addresses of a batch, a site's one after the other and the sites side by side.
    fn visit_all(
        &self,
        batch: Vec<Vec<Waiting>>,
        hosts: &mut HashMap<String, Host>,
        asked: &AtomicU64,
    ) -> Result<Vec<OfSite>> {
        let work: Vec<Mutex<Option<Job>>> = batch
            .into_iter()
            .map(|waiting| {
                let origin = waiting.first().map(|w| origin(&w.url)).unwrap_or_default();
                let known = hosts.remove(&origin);
                let new = known.is_none();
                Mutex::new(Some((known.unwrap_or_else(|| Host::new(origin)), waiting, new)))
            })
            .collect();
        let (next, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
        let done: Mutex<Vec<(usize, Host, Result<OfSite>)>> = Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            for _ in 0..AT_ONCE.min(work.len()) {
                scope.spawn(|| {
                    while !stop.load(Ordering::Relaxed) {
                        let at = next.fetch_add(1, Ordering::Relaxed);
                        let Some(site) = work.get(at) else { return };
                        let Some((mut host, waiting, new)) = site.lock().unwrap_or_else(PoisonError::into_inner).take()
                        else {
                            return;
                        };
                        let result = self.visit_site(&mut host, waiting, new, asked);
                        if result.is_err() {
                            stop.store(true, Ordering::Relaxed);
                        }
                        done.lock().unwrap_or_else(PoisonError::into_inner).push((at, host, result));
                    }
                });
            }
        });
        let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
        done.sort_by_key(|(at, _, _)| *at);
        let mut results = Vec::with_capacity(done.len());
        for (_, host, result) in done {
            hosts.insert(host.origin().to_owned(), host);
            results.push(result?);
        }
        Ok(results)
    }

    fn visit_site(&self, host: &mut Host, waiting: Vec<Waiting>, new: bool, asked: &AtomicU64) -> Result<OfSite> {
        let mut sitemap = Vec::new();
        if new {
            let site = match self.journal.site(host.origin())? {
                Some(site) => site,
                None => {
                    let site = host.site(self.visitor);
                    self.journal.write_site(&site)?;
                    site
                }
            };
            sitemap = site.sitemap;
        }
        let mut visits = Vec::with_capacity(waiting.len());
        for waiting in waiting {
            let visit = match self.journal.visit(waiting.url.as_str())? {
                Some(visit) => visit,
                None => {
                    let (visit, page) = host.visit(self.visitor, &waiting.url);
                    self.journal.write(visit, page.as_deref())?
                }
            };
            if !matches!(visit.outcome, Outcome::Redirect | Outcome::Disallowed | Outcome::GivenUp) {
                let asked = asked.fetch_add(1, Ordering::Relaxed) + 1;
                self.task.progress.update(asked, &visit.url);
            }
            visits.push((waiting, visit));
        }
        Ok((visits, sitemap))
    }
}
