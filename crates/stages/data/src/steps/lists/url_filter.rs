//! Documents from listed places.

use std::collections::HashSet;

use aho_corasick::AhoCorasick;
use cupola_artifact::{Context, Error, Result};
use cupola_records::Document;
use serde::{Deserialize, Serialize};

use super::read_lists;
use crate::step::{Each, Kind, Notes, Setting, Verdict};

/// Drops documents by their address, as RefinedWeb (Penedo et al. 2023, appendix G.1) and `FineWeb` do: by lists of domains and of
/// addresses, by words in the address of which one is enough, by words of which some are needed, and by parts of words. Lines with
/// # in a list are comments.
#[derive(Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct UrlFilter {
    /// The field that has the address; `url`.
    pub field: String,
    /// Files of domains; their subdomains are meant too.
    pub domains: Vec<String>,
    /// Files of whole addresses, with or without protocol, `www.`, last slash and what follows a #.
    pub urls: Vec<String>,
    /// Files of words of which one drops a document. Words in an address are its runs of Latin letters and digits.
    pub banned_words: Vec<String>,
    /// Files of words of which `soft_word_threshold` different ones drop a document.
    pub soft_banned_words: Vec<String>,
    /// How many; 2.
    pub soft_word_threshold: usize,
    /// Files of parts: one anywhere in the address without its punctuation drops a document.
    pub banned_subwords: Vec<String>,
    /// Whether documents without an address are dropped; false.
    pub drop_without_url: bool,
    #[serde(skip)]
    tables: Tables,
}

impl Default for UrlFilter {
    fn default() -> Self {
        Self {
            field: "url".to_owned(),
            domains: Vec::new(),
            urls: Vec::new(),
            banned_words: Vec::new(),
            soft_banned_words: Vec::new(),
            soft_word_threshold: 2,
            banned_subwords: Vec::new(),
            drop_without_url: false,
            tables: Tables::default(),
        }
    }
}

/// The step.
pub const URL_FILTER: Kind =
    Kind::each::<UrlFilter>("url_filter", "documents from listed domains and addresses, or with listed words in them");

#[derive(Default)]
struct Tables {
    domains: HashSet<String>,
    urls: HashSet<String>,
    words: HashSet<String>,
    soft_words: HashSet<String>,
    subwords: Option<AhoCorasick>,
}

impl Each for UrlFilter {
    fn validate(&self) -> Result<()> {
        if self.references().is_empty() && !self.drop_without_url {
            return Err(Error::usage("`url_filter` has no list").with_hint(
                "name files in `domains`, `urls`, `banned_words`, `soft_banned_words` or `banned_subwords`",
            ));
        }
        if self.soft_word_threshold == 0 {
            return Err(Error::usage("`soft_word_threshold` of `url_filter` must be at least 1"));
        }
        Ok(())
    }

    fn references(&self) -> Vec<String> {
        let lists = [&self.domains, &self.urls, &self.banned_words, &self.soft_banned_words, &self.banned_subwords];
        lists.into_iter().flatten().cloned().collect()
    }

    fn prepare(&mut self, setting: &Setting<'_>) -> Result<()> {
        let set = |files: &[String], form: fn(&str) -> String| -> Result<HashSet<String>> {
            let entries = read_lists(setting.recipe_dir, files, true)?;
            Ok(entries.iter().map(|entry| form(entry)).filter(|entry| !entry.is_empty()).collect())
        };
        let domain = |entry: &str| host(&plain(entry)).trim_start_matches("*.").to_owned();
        self.tables = Tables {
            domains: set(&self.domains, domain)?,
            urls: set(&self.urls, plain)?,
            words: set(&self.banned_words, letters)?,
            soft_words: set(&self.soft_banned_words, letters)?,
            subwords: None,
        };
        let mut subwords: Vec<String> = set(&self.banned_subwords, letters)?.into_iter().collect();
        if !subwords.is_empty() {
            subwords.sort_unstable();
            let finder = AhoCorasick::new(subwords).context(|| "cannot prepare `banned_subwords`".to_owned())?;
            self.tables.subwords = Some(finder);
        }
        Ok(())
    }

    fn apply(&self, document: &mut Document, notes: &mut Notes) -> Verdict {
        let Some(url) = document.field(&self.field).filter(|url| !url.trim().is_empty()) else {
            notes.count("url_filter_without_url", 1);
            return if self.drop_without_url { Verdict::Drop("url_missing") } else { Verdict::Keep };
        };
        self.tables.check(url, self.soft_word_threshold)
    }
}

impl Tables {
    fn check(&self, url: &str, soft_word_threshold: usize) -> Verdict {
        let plain = plain(url);
        // The host, and what follows each of its dots.
        let mut domain = Some(host(&plain)).filter(|_| !self.domains.is_empty());
        while let Some(name) = domain {
            if self.domains.contains(name) {
                return Verdict::Drop("url_domain");
            }
            domain = name.split_once('.').map(|(_, rest)| rest);
        }
        if self.urls.contains(&plain) {
            return Verdict::Drop("url_listed");
        }
        let lower = url.to_lowercase();
        let words: HashSet<&str> = lower.split(|c: char| !c.is_ascii_alphanumeric()).collect();
        if words.iter().any(|word| self.words.contains(*word)) {
            return Verdict::Drop("url_banned_word");
        }
        if words.iter().filter(|word| self.soft_words.contains(**word)).count() >= soft_word_threshold {
            return Verdict::Drop("url_soft_banned_words");
        }
        if self.subwords.as_ref().is_some_and(|subwords| subwords.is_match(&letters(&lower))) {
            return Verdict::Drop("url_banned_subword");
        }
        Verdict::Keep
    }
}

/// Latin letters in lower case, and digits.
fn letters(text: &str) -> String {
    text.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect()
}

/// An address without protocol, user, `www.`, port, last slash and what follows a #; the host in lower case.
fn plain(url: &str) -> String {
    let url = url.trim();
    let url = url.split_once("://").map_or(url, |(_, rest)| rest);
    let url = url.split('#').next().unwrap_or_default();
    let end = url.find(['/', '?']).unwrap_or(url.len());
    let (place, path) = url.split_at(end);
    let place = place.rsplit_once('@').map_or(place, |(_, host)| host);
    let host = place.split(':').next().unwrap_or_default().trim_end_matches('.').to_lowercase();
    let host = host.strip_prefix("www.").unwrap_or(&host);
    format!("{host}{}", path.trim_end_matches('/'))
}

/// The host of an address in that form.
fn host(plain: &str) -> &str {
    plain.split(['/', '?']).next().unwrap_or_default()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failing test should panic")]
mod tests {
    use super::*;

    fn filter(files: &[(&str, &str)], change: impl FnOnce(&mut UrlFilter)) -> UrlFilter {
        let dir = tempfile::tempdir().unwrap();
        files.iter().for_each(|(name, text)| std::fs::write(dir.path().join(name), text).unwrap());
        let mut step = UrlFilter::default();
        change(&mut step);
        step.validate().unwrap();
        step.prepare(&Setting { recipe_dir: dir.path(), seed: 0 }).unwrap();
        step
    }

    fn verdict(step: &UrlFilter, url: &str) -> Verdict {
        let mut document = Document::new("id", "text", "source");
        document.fields.insert("url".to_owned(), url.into());
        step.apply(&mut document, &mut Notes::default())
    }

    #[test]
    fn a_domain_stands_for_its_subdomains() {
        let step =
            filter(&[("d", "# bad ones\nbad.example\n*.worse.example\n")], |step| step.domains = vec!["d".into()]);
        for url in ["http://bad.example/x", "https://a.b.BAD.example:8080", "www.bad.example", "x@worse.example/?q"] {
            assert_eq!(verdict(&step, url), Verdict::Drop("url_domain"), "{url}");
        }
        for url in ["http://notbad.example/", "http://example/bad.example", "http://bad.example.org"] {
            assert_eq!(verdict(&step, url), Verdict::Keep, "{url}");
        }
    }

    #[test]
    fn an_address_is_found_in_all_its_forms() {
        let step = filter(&[("u", "http://www.a.example/page/\n")], |step| step.urls = vec!["u".into()]);
        assert_eq!(verdict(&step, "https://A.example/page#top"), Verdict::Drop("url_listed"));
        assert_eq!(verdict(&step, "https://a.example/page/2"), Verdict::Keep);
    }

    #[test]
    fn words_count_whole_softly_or_in_part() {
        let files = [("hard", "casino\n"), ("soft", "free\ncams\n"), ("part", "xxx-videos\n")];
        let step = filter(&files, |step| {
            step.banned_words = vec!["hard".into()];
            step.soft_banned_words = vec!["soft".into()];
            step.banned_subwords = vec!["part".into()];
        });
        assert_eq!(verdict(&step, "http://a.example/Casino-night"), Verdict::Drop("url_banned_word"));
        assert_eq!(verdict(&step, "http://a.example/casinos"), Verdict::Keep);
        assert_eq!(verdict(&step, "http://a.example/free/free"), Verdict::Keep);
        assert_eq!(verdict(&step, "http://a.example/free/cams"), Verdict::Drop("url_soft_banned_words"));
        assert_eq!(verdict(&step, "http://xxx.videos.example"), Verdict::Drop("url_banned_subword"));
    }

    #[test]
    fn documents_without_an_address_stay_unless_told() {
        let mut step = filter(&[], |step| step.drop_without_url = true);
        let mut check = |drop| {
            step.drop_without_url = drop;
            step.apply(&mut Document::new("id", "text", "source"), &mut Notes::default())
        };
        assert_eq!((check(true), check(false)), (Verdict::Drop("url_missing"), Verdict::Keep));
        assert!(UrlFilter::default().validate().is_err());
    }
}
