//! Datasets of Hugging Face's hub: `hf:owner/name[@revision][:split or pattern]`.
//!
//! A pattern is matched against the files of the repository, at the commit that the revision means. A split (`train` if
//! nothing is said; `configuration/split` where a dataset has several configurations) is taken from the Parquet files that
//! the hub makes of every dataset; where it has none, or for another revision than the newest, from the files whose names
//! say that they belong to it, as the hub itself reads names.

use std::collections::HashSet;

use cupola_artifact::{Error, Result, human_bytes, human_count, unknown_name};
use glob::{MatchOptions, Pattern};
use serde_json::Value;
use url::Url;

use super::cache::{Collected, safe_name};
use super::fetch::{Client, Wanted};
use super::{Meter, Remote, Task, expected, max_bytes, several};
use crate::config::Source;

/// The split that is taken if nothing is said.
const DEFAULT_SPLIT: &str = "train";

/// Pages of a repository's list of files that are read; the hub puts a thousand files on each.
const MAX_PAGES: usize = 1000;

/// What data files' names end with, before `.gz`, `.zst` and the like.
const DATA: &[&str] = &["parquet", "jsonl", "ndjson", "json", "csv", "tsv", "txt", "md", "arrow", "warc"];

/// What they may be packed with.
const PACKED: &[&str] = &["gz", "zst", "bz2", "xz"];

/// Names of splits that mean the same.
const SPLITS: &[&[&str]] =
    &[&["train", "training"], &["validation", "valid", "val", "dev"], &["test", "testing", "eval", "evaluation"]];

/// `hf:…`.
pub struct Hub;

impl Remote for Hub {
    fn knows(&self, source: &Source) -> bool {
        !matches!(source, Source::Crawl(_)) && source.path().starts_with("hf:")
    }

    fn check(&self, source: &Source) -> Result<()> {
        let dataset = Dataset::parse(source.path())?;
        if dataset.is_pattern() {
            Pattern::new(&dataset.selection)
                .map_err(|e| Error::usage(format!("`{}` is not a valid pattern: {e}", dataset.selection)))?;
        }
        Ok(())
    }

    fn collect(&self, source: &Source, task: &Task<'_>) -> Result<Vec<Collected>> {
        let dataset = Dataset::parse(source.path())?;
        let (endpoint, token) = (task.environment.hub.trim_end_matches('/'), task.environment.hub_token.as_deref());
        let api = Api { client: task.environment.client()?, endpoint, token, dataset: &dataset };
        let files = api.files()?;
        let total: u64 = files.iter().filter_map(|file| file.bytes).sum();
        let known = files.iter().all(|file| file.bytes.is_some());
        let size = if known { format!(", {}", human_bytes(total as f64)) } else { String::new() };
        task.progress.line(&format!("{}: {} files{size}", source.path(), human_count(files.len() as f64)));
        let meter = Meter::begin(task.progress, source.path(), known.then_some(total));
        let paths: Vec<&str> = files.iter().map(|file| file.path.as_str()).collect();
        let files: Vec<(String, &Remoted)> = safe_paths(&paths).into_iter().zip(&files).collect();
        several(&files, |(name, file)| {
            let sha256 = expected(source).or(file.sha256.as_deref());
            let before = task.before(name);
            let right = |before: &Collected| sha256.is_some_and(|digest| before.sha256.eq_ignore_ascii_case(digest));
            let mut collected = match before.as_ref().filter(|before| right(before)) {
                Some(before) => before.clone(),
                None => {
                    let wanted = Wanted {
                        url: &file.url,
                        token: token.filter(|_| same_host(&file.url, endpoint)),
                        into: &task.entry.file(name),
                        file: name,
                        max_bytes: max_bytes(source),
                        sha256,
                        // A checksum that is known and was not met says that the file has changed.
                        before: before.filter(|_| sha256.is_none()),
                    };
                    api.client.fetch(&wanted, &meter).map_err(|e| api.explain(e))?
                }
            };
            collected.address = format!("hf:{}/{}", dataset.id, file.path);
            Ok(collected)
        })
    }
}

/// What a source names.
#[derive(Debug, PartialEq)]
struct Dataset {
    id: String,
    revision: Option<String>,
    selection: String,
}

impl Dataset {
    fn parse(address: &str) -> Result<Self> {
        let wrong = |what: &str| {
            Error::usage(format!("`{address}`: {what}"))
                .with_hint("write `hf:owner/name`, `hf:owner/name@revision:split` or `hf:owner/name:folder/*.parquet`")
        };
        let rest = address.strip_prefix("hf:").unwrap_or(address).trim_start_matches("//");
        let (name, selection) = rest.split_once(':').unwrap_or((rest, DEFAULT_SPLIT));
        let (id, revision) = match name.split_once('@') {
            Some((id, revision)) => (id, Some(revision.to_owned())),
            None => (name, None),
        };
        let parts: Vec<&str> = id.split('/').collect();
        let plain = |part: &&str| {
            !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'))
        };
        if parts.len() > 2 || !parts.iter().all(plain) {
            return Err(wrong("a dataset is called `owner/name`"));
        }
        if selection.is_empty() || revision.as_deref() == Some("") {
            return Err(wrong("nothing follows `:` or `@`"));
        }
        Ok(Self { id: id.to_owned(), revision, selection: selection.to_owned() })
    }

    /// Whether files are chosen by their names; a split has no `*`, `?`, `[` or `.`.
    fn is_pattern(&self) -> bool {
        self.selection.contains(['*', '?', '[', '.'])
    }
}

/// A file of a dataset.
#[derive(Debug, PartialEq)]
struct Remoted {
    path: String,
    url: String,
    bytes: Option<u64>,
    sha256: Option<String>,
}

struct Api<'a> {
    client: Client,
    endpoint: &'a str,
    token: Option<&'a str>,
    dataset: &'a Dataset,
}

impl Api<'_> {
    /// The files that the source means, in order.
    fn files(&self) -> Result<Vec<Remoted>> {
        if self.dataset.is_pattern() {
            return self.matching();
        }
        let mut splits = Vec::new();
        if self.dataset.revision.is_none() {
            let (files, known) = self.parquet()?;
            if !files.is_empty() {
                return Ok(files);
            }
            splits = known;
        }
        let files = self.tree()?;
        let chosen = of_split(&files, &self.dataset.selection);
        if chosen.is_empty() {
            let message = format!("{} has no split `{}`", self.dataset.id, self.dataset.selection);
            let known: Vec<&str> = splits.iter().map(String::as_str).collect();
            return Err(match known.is_empty() {
                false => unknown_name(&message, &self.dataset.selection, "split", &known),
                true => Error::usage(message).with_hint(listing(&files)),
            });
        }
        Ok(chosen)
    }

    /// The files of the repository that match the pattern.
    fn matching(&self) -> Result<Vec<Remoted>> {
        let pattern = Pattern::new(&self.dataset.selection)
            .map_err(|e| Error::usage(format!("`{}` is not a valid pattern: {e}", self.dataset.selection)))?;
        let options = MatchOptions { require_literal_separator: true, ..Default::default() };
        let (chosen, others): (Vec<_>, Vec<_>) =
            self.tree()?.into_iter().partition(|file| pattern.matches_with(&file.path, options));
        if chosen.is_empty() {
            return Err(Error::usage(format!("no file of {} matches `{}`", self.dataset.id, self.dataset.selection))
                .with_hint(listing(&others)));
        }
        Ok(chosen)
    }

    /// The Parquet files that the hub has made of the wanted split; if there are none, the splits there are.
    fn parquet(&self) -> Result<(Vec<Remoted>, Vec<String>)> {
        let Some((_, listing)) = self.ask(&format!("{}/api/datasets/{}/parquet", self.endpoint, self.dataset.id))?
        else {
            return Ok((Vec::new(), Vec::new()));
        };
        let Value::Object(configurations) = listing else { return Ok((Vec::new(), Vec::new())) };
        let (wanted, split) = match self.dataset.selection.split_once('/') {
            Some((configuration, split)) => (Some(configuration), split),
            None => (None, self.dataset.selection.as_str()),
        };
        let names: Vec<&str> = configurations.keys().map(String::as_str).collect();
        let configuration = match (wanted, names.as_slice()) {
            (Some(wanted), _) => wanted,
            (None, [only]) => only,
            (None, names) if names.contains(&"default") => "default",
            (None, []) => return Ok((Vec::new(), Vec::new())),
            (None, [first, ..]) => {
                return Err(Error::usage(format!(
                    "{} has several configurations: {}",
                    self.dataset.id,
                    names.join(", ")
                ))
                .with_hint(format!("say which: `hf:{}:{first}/{split}`", self.dataset.id)));
            }
        };
        let urls = configurations.get(configuration).and_then(|splits| splits.get(split)).and_then(Value::as_array);
        let files: Vec<Remoted> = urls
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .enumerate()
            .map(|(number, url)| Remoted {
                path: format!("{configuration}/{split}/{number}.parquet"),
                url: url.to_owned(),
                bytes: None,
                sha256: None,
            })
            .collect();
        let splits = configurations.iter().flat_map(|(configuration, splits)| {
            let alone = wanted.is_none();
            let splits = splits.as_object().into_iter().flat_map(|splits| splits.keys());
            splits.map(move |split| if alone { split.clone() } else { format!("{configuration}/{split}") })
        });
        Ok((files, splits.collect()))
    }

    /// All files of the repository, at the commit that the revision means now.
    fn tree(&self) -> Result<Vec<Remoted>> {
        let (id, endpoint) = (&self.dataset.id, self.endpoint);
        let revision = encoded(self.dataset.revision.as_deref().unwrap_or("main")).replace('/', "%2F");
        let missing = || {
            let what = self.dataset.revision.as_ref().map_or(String::new(), |r| format!(" with the revision `{r}`"));
            Error::failed(format!("there is no dataset {id}{what} at {endpoint}"))
                .with_hint("check its name; a private one needs a token in HF_TOKEN")
        };
        let about = self.ask(&format!("{endpoint}/api/datasets/{id}/revision/{revision}"))?.ok_or_else(missing)?.1;
        let commit = about.get("sha").and_then(Value::as_str).map_or(revision, str::to_owned);
        let mut next = Some(format!("{endpoint}/api/datasets/{id}/tree/{commit}?recursive=true"));
        let mut files = Vec::new();
        for _ in 0..MAX_PAGES {
            let Some(page) = next.take() else { return Ok(files) };
            let (headers, list) = self.ask(&page)?.ok_or_else(missing)?;
            let list = list.as_array().ok_or_else(|| Error::failed(format!("{page} gave no list of files")))?;
            for item in list.iter().filter(|item| item.get("type").and_then(Value::as_str) == Some("file")) {
                let Some(path) = item.get("path").and_then(Value::as_str) else { continue };
                files.push(Remoted {
                    path: path.to_owned(),
                    url: format!("{endpoint}/datasets/{id}/resolve/{commit}/{}", encoded(path)),
                    bytes: item.get("size").and_then(Value::as_u64),
                    sha256: item.pointer("/lfs/oid").and_then(Value::as_str).map(str::to_owned),
                });
            }
            let link = headers.get("link").and_then(|link| link.to_str().ok()).unwrap_or_default();
            next = next_page(link).filter(|next| same_host(next, endpoint));
        }
        Err(Error::failed(format!("{id} has too many files")).with_hint("say which by a pattern"))
    }

    fn ask(&self, url: &str) -> Result<Option<(ureq::http::HeaderMap, Value)>> {
        self.client.json(url, self.token).map_err(|e| self.explain(e))
    }

    /// What an error means here.
    fn explain(&self, error: Error) -> Error {
        if !error.chain().contains("answers 401") && !error.chain().contains("answers 403") {
            return error;
        }
        let (endpoint, id) = (self.endpoint, &self.dataset.id);
        error.with_hint(match self.token {
            Some(_) => format!("accept its terms at {endpoint}/datasets/{id}, and check that HF_TOKEN may read it"),
            None => format!(
                "it is private, needs its terms to be accepted at {endpoint}/datasets/{id}, or does not \
                             exist: set HF_TOKEN"
            ),
        })
    }
}

/// The files whose names say that they belong to a split; all data files for `train` where no name says anything.
fn of_split(files: &[Remoted], selection: &str) -> Vec<Remoted> {
    let (folder, split) = selection.rsplit_once('/').unwrap_or(("", selection));
    let inside = |path: &str| folder.is_empty() || path.split('/').any(|part| part == folder);
    let data: Vec<&Remoted> = files.iter().filter(|file| is_data(&file.path) && inside(&file.path)).collect();
    let names = SPLITS.iter().copied().find(|names| names.contains(&split));
    let says = |path: &str, names: &[&str]| {
        let words = path.split(|c: char| !c.is_ascii_alphabetic());
        words.into_iter().any(|word| names.iter().any(|name| word.eq_ignore_ascii_case(name)))
    };
    let own = [split];
    let names = names.unwrap_or(&own);
    let chosen: Vec<&Remoted> = data.iter().copied().filter(|file| says(&file.path, names)).collect();
    let unnamed = split == DEFAULT_SPLIT && !data.iter().any(|file| SPLITS.iter().any(|names| says(&file.path, names)));
    let chosen = if unnamed { data } else { chosen };
    chosen
        .into_iter()
        .map(|file| Remoted {
            path: file.path.clone(),
            url: file.url.clone(),
            bytes: file.bytes,
            sha256: file.sha256.clone(),
        })
        .collect()
}

fn is_data(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path).to_lowercase();
    // A repository's description is no data.
    if name == "readme.md" || name.starts_with('.') || name.starts_with("license") || name == "dataset_infos.json" {
        return false;
    }
    let inner = match name.rsplit_once('.') {
        Some((inner, packed)) if PACKED.contains(&packed) => inner,
        _ => &name,
    };
    inner.rsplit_once('.').is_some_and(|(_, extension)| DATA.contains(&extension))
}

fn listing(files: &[Remoted]) -> String {
    let mut names: Vec<&str> = files.iter().map(|file| file.path.as_str()).filter(|path| is_data(path)).collect();
    names.truncate(5);
    if names.is_empty() {
        "it has no file of a known format".into()
    } else {
        format!("it has {}, …", names.join(", "))
    }
}

/// The address in `Link: <…>; rel="next"`.
fn next_page(link: &str) -> Option<String> {
    link.split(',').find_map(|link| {
        let (address, rest) = link.trim().strip_prefix('<')?.split_once('>')?;
        rest.contains("rel=\"next\"").then(|| address.to_owned())
    })
}

fn same_host(address: &str, endpoint: &str) -> bool {
    let origin = |address: &str| Url::parse(address).ok().map(|url| url.origin());
    origin(address).is_some_and(|one| origin(endpoint) == Some(one))
}

/// A path with what may not stand in an address written as `%XX`.
fn encoded(path: &str) -> String {
    let mut text = String::with_capacity(path.len());
    for byte in path.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => text.push(char::from(byte)),
            _ => text.push_str(&format!("%{byte:02X}")),
        }
    }
    text
}

/// Paths below the source's folder that cannot leave it, no two the same.
pub fn safe_paths(paths: &[&str]) -> Vec<String> {
    let mut seen = HashSet::new();
    let safe =
        |path: &str| path.split('/').filter(|part| !part.is_empty()).map(safe_name).collect::<Vec<_>>().join("/");
    paths
        .iter()
        .enumerate()
        .map(|(number, path)| {
            let name = safe(path);
            if seen.insert(name.to_lowercase()) { name } else { format!("same-{number}/{name}") }
        })
        .collect()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failing test should panic")]
mod tests {
    use super::*;

    fn chosen(paths: &[&str], selection: &str) -> Vec<String> {
        let file = |path: &&str| Remoted { path: (*path).into(), url: String::new(), bytes: None, sha256: None };
        let files: Vec<Remoted> = paths.iter().map(file).collect();
        of_split(&files, selection).into_iter().map(|file| file.path).collect()
    }

    #[test]
    fn addresses_are_read_as_written() {
        let read = |address: &str| Dataset::parse(address).unwrap();
        let of = |id: &str, revision: Option<&str>, selection: &str| Dataset {
            id: id.into(),
            revision: revision.map(str::to_owned),
            selection: selection.into(),
        };
        assert_eq!(read("hf:a/b"), of("a/b", None, "train"));
        assert_eq!(read("hf:squad@v1:test"), of("squad", Some("v1"), "test"));
        assert_eq!(read("hf:a/b:data/*.parquet"), of("a/b", None, "data/*.parquet"));
        assert!(read("hf:a/b:x.jsonl").is_pattern() && !read("hf:a/b:en/train").is_pattern());
        for wrong in ["hf:", "hf:a/b/c", "hf:a/../b", "hf:a b", "hf:a/b:", "hf:a/b@"] {
            let error = Dataset::parse(wrong).unwrap_err();
            assert!(error.hint().unwrap().contains("hf:owner/name"), "{wrong}");
        }
    }

    #[test]
    fn names_of_files_tell_the_split() {
        let files = ["README.md", "data/train-00000-of-00002.parquet", "data/test-00000.parquet", "img/train.png"];
        assert_eq!(chosen(&files, "train"), ["data/train-00000-of-00002.parquet"]);
        assert_eq!(chosen(&files, "test"), ["data/test-00000.parquet"]);
        assert!(chosen(&files, "validation").is_empty());
        assert_eq!(chosen(&["en/dev.jsonl.gz", "de/dev.jsonl.gz"], "en/validation"), ["en/dev.jsonl.gz"]);
        assert_eq!(chosen(&["a.jsonl", "contrast.jsonl", ".gitattributes"], "train"), ["a.jsonl", "contrast.jsonl"]);
    }

    #[test]
    fn files_stay_in_the_folder_under_names_of_their_own() {
        assert_eq!(safe_paths(&["a/../../x", "a b.txt", "a_b.txt"]), ["a/file/file/x", "a_b.txt", "same-2/a_b.txt"]);
    }
}
