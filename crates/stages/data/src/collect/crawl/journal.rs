//! What a crawl has done so far, on disk: a line for each address and each site, and the pages themselves. A crawl that is
//! cut off takes from it what it has asked for already, in the same order, and so goes on where it was.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use cupola_artifact::{Context, Error, Result, create_dir};
use flate2::{Compression, GzBuilder};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_128;

/// What came of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The page is kept, unless another with the same canonical address is.
    Kept,
    /// It does not want to be kept.
    Noindex,
    /// It points elsewhere.
    Redirect,
    /// The site's robots.txt forbids it.
    Disallowed,
    /// The server does not give it (4xx).
    Refused,
    /// It is neither HTML nor plain text.
    OtherType,
    /// It is too large.
    TooLarge,
    /// The server is in trouble, too slow or out of reach.
    Failed,
    /// The site failed too often to be asked again.
    GivenUp,
}

/// What is remembered of an address.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Visit {
    /// The address.
    pub url: String,
    /// What came of it.
    pub outcome: Outcome,
    /// The status of the answer, if there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// Where it points.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// The address that it calls its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub canonical: Option<String>,
    /// Where its links lead.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub links: Vec<String>,
    /// Where the page lies in the file of pages: start and length of its gzip member.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub page: Option<(u64, u64)>,
}

/// What is remembered of a site.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Site {
    /// Its scheme, host and port.
    pub origin: String,
    /// The addresses in its sitemaps.
    pub sitemap: Vec<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Line {
    Site(Site),
    Visit(Visit),
}

/// The journal of a crawl.
pub struct Journal {
    pages: PathBuf,
    files: Mutex<Files>,
}

struct Files {
    lines: File,
    lines_end: u64,
    pages: File,
    pages_end: u64,
    /// Where the line about an address or a site starts.
    known: HashMap<u128, u64>,
}

impl Journal {
    /// Opens the journal in a folder; what was written by halves is taken off.
    pub fn open(dir: &Path) -> Result<Self> {
        create_dir(dir)?;
        let cannot = || format!("cannot open the journal in {}", dir.display());
        let open = |name: &str| {
            OpenOptions::new().create(true).truncate(false).read(true).write(true).open(dir.join(name)).context(cannot)
        };
        let (lines, pages) = (open("visits.jsonl")?, open("pages.gz")?);
        let mut files = Files { lines, lines_end: 0, pages, pages_end: 0, known: HashMap::new() };
        files.replay().context(cannot)?;
        Ok(Self { pages: dir.join("pages.gz"), files: Mutex::new(files) })
    }

    fn files(&self) -> MutexGuard<'_, Files> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What came of an address before.
    pub fn visit(&self, url: &str) -> Result<Option<Visit>> {
        match self.files().line(key("visit", url)).context(|| "cannot read a crawl's journal".to_owned())? {
            Some(Line::Visit(visit)) => Ok(Some(visit)),
            _ => Ok(None),
        }
    }

    /// What was found out about a site before.
    pub fn site(&self, origin: &str) -> Result<Option<Site>> {
        match self.files().line(key("site", origin)).context(|| "cannot read a crawl's journal".to_owned())? {
            Some(Line::Site(site)) => Ok(Some(site)),
            _ => Ok(None),
        }
    }

    /// Writes down what came of an address, and the page if it is kept.
    pub fn write(&self, mut visit: Visit, page: Option<&[u8]>) -> Result<Visit> {
        let cannot = || "cannot write a crawl's journal".to_owned();
        let member = page.map(|page| {
            // A member for each page, without a time, so that the same pages are the same bytes in any order.
            let mut gzip = GzBuilder::new().write(Vec::with_capacity(page.len() / 4), Compression::default());
            gzip.write_all(page).and_then(|()| gzip.finish())
        });
        let member = member.transpose().context(cannot)?;
        let mut files = self.files();
        if let Some(member) = member {
            visit.page = Some((files.pages_end, member.len() as u64));
            files.pages.write_all(&member).context(cannot)?;
            files.pages_end += member.len() as u64;
        }
        files.append(&Line::Visit(visit.clone())).context(cannot)?;
        Ok(visit)
    }

    /// Writes down what was found out about a site.
    pub fn write_site(&self, site: &Site) -> Result<()> {
        self.files().append(&Line::Site(site.clone())).context(|| "cannot write a crawl's journal".to_owned())
    }

    /// Writes these pages, in this order, as one gzip file of JSON lines.
    pub fn assemble(&self, pages: &[(u64, u64)], out: &mut dyn Write) -> io::Result<()> {
        let mut file = File::open(&self.pages)?;
        for (start, length) in pages {
            file.seek(SeekFrom::Start(*start))?;
            if io::copy(&mut (&mut file).take(*length), out)? != *length {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
            }
        }
        Ok(())
    }
}

fn key(kind: &str, name: &str) -> u128 {
    xxh3_128(format!("{kind} {name}").as_bytes())
}

impl Line {
    fn key(&self) -> u128 {
        match self {
            Self::Site(site) => key("site", &site.origin),
            Self::Visit(visit) => key("visit", &visit.url),
        }
    }
}

impl Files {
    /// Reads all lines up to the first that is not whole, and sets the files' ends there.
    fn replay(&mut self) -> io::Result<()> {
        let (mut reader, mut text) = (BufReader::new(self.lines.try_clone()?), Vec::new());
        loop {
            text.clear();
            let length = reader.read_until(b'\n', &mut text)? as u64;
            let Ok(line) = serde_json::from_slice::<Line>(&text) else { break };
            if text.last() != Some(&b'\n') {
                break;
            }
            if let Line::Visit(Visit { page: Some((start, length)), .. }) = &line {
                self.pages_end = self.pages_end.max(start + length);
            }
            self.known.insert(line.key(), self.lines_end);
            self.lines_end += length;
        }
        if self.pages.metadata()?.len() < self.pages_end {
            // The pages did not reach the disk: nothing of the journal is worth anything.
            (self.lines_end, self.pages_end) = (0, 0);
            self.known.clear();
        }
        self.lines.set_len(self.lines_end)?;
        self.pages.set_len(self.pages_end)?;
        self.lines.seek(SeekFrom::Start(self.lines_end))?;
        self.pages.seek(SeekFrom::Start(self.pages_end))?;
        Ok(())
    }

    fn line(&mut self, key: u128) -> io::Result<Option<Line>> {
        let Some(start) = self.known.get(&key).copied() else { return Ok(None) };
        self.lines.seek(SeekFrom::Start(start))?;
        let mut text = Vec::new();
        BufReader::new(&self.lines).read_until(b'\n', &mut text)?;
        self.lines.seek(SeekFrom::Start(self.lines_end))?;
        Ok(Some(serde_json::from_slice(&text)?))
    }

    fn append(&mut self, line: &Line) -> io::Result<()> {
        let mut text = serde_json::to_vec(line)?;
        text.push(b'\n');
        self.lines.write_all(&text)?;
        self.known.insert(line.key(), self.lines_end);
        self.lines_end += text.len() as u64;
        Ok(())
    }
}

/// Removes a crawl's journal.
pub fn forget(dir: &Path) -> Result<()> {
    match std::fs::remove_dir_all(dir) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            Err(Error::failed(format!("cannot remove {}", dir.display())).with_source(e))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failing test should panic")]
mod tests {
    use super::*;

    fn visit(url: &str) -> Visit {
        Visit {
            url: url.into(),
            outcome: Outcome::Kept,
            status: Some(200),
            why: None,
            to: None,
            canonical: None,
            links: vec!["https://h/next".into()],
            page: None,
        }
    }

    #[test]
    fn a_journal_that_was_cut_off_anywhere_gives_what_was_whole() {
        let dir = tempfile::tempdir().unwrap();
        let journal = Journal::open(dir.path()).unwrap();
        let site = Site { origin: "https://h".into(), sitemap: vec!["https://h/a".into()] };
        journal.write_site(&site).unwrap();
        let one = journal.write(visit("https://h/1"), Some(b"{\"text\":\"one\"}\n")).unwrap();
        let two = journal.write(visit("https://h/2"), Some(b"{\"text\":\"two\"}\n")).unwrap();
        drop(journal);
        let lines = std::fs::read(dir.path().join("visits.jsonl")).unwrap();
        let cut = lines.len() - 5;
        std::fs::write(dir.path().join("visits.jsonl"), &lines[..cut]).unwrap();
        let journal = Journal::open(dir.path()).unwrap();
        assert_eq!(journal.site("https://h").unwrap(), Some(site));
        assert_eq!(journal.visit("https://h/1").unwrap(), Some(one.clone()));
        assert_eq!(journal.visit("https://h/2").unwrap(), None);
        assert_eq!(
            journal.write(visit("https://h/2"), Some(b"{\"text\":\"two\"}\n")).unwrap(),
            two,
            "in the same place"
        );
        let mut out = Vec::new();
        journal.assemble(&[two.page.unwrap(), one.page.unwrap()], &mut out).unwrap();
        let mut text = String::new();
        flate2::read::MultiGzDecoder::new(out.as_slice()).read_to_string(&mut text).unwrap();
        assert_eq!(text, "{\"text\":\"two\"}\n{\"text\":\"one\"}\n");
    }

    #[test]
    fn a_journal_without_its_pages_is_begun_anew() {
        let dir = tempfile::tempdir().unwrap();
        Journal::open(dir.path()).unwrap().write(visit("https://h/1"), Some(b"{}\n")).unwrap();
        std::fs::write(dir.path().join("pages.gz"), "").unwrap();
        assert_eq!(Journal::open(dir.path()).unwrap().visit("https://h/1").unwrap(), None);
    }
}
