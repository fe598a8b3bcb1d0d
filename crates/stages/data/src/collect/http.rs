//! Files at `https://` and `http://` addresses.

use cupola_artifact::{Error, Result};
use url::Url;

use super::cache::{Collected, safe_name};
use super::fetch::Wanted;
use super::{Meter, Remote, Task, expected, max_bytes};
use crate::config::Source;

/// `https://…` and `http://…`.
pub struct Http;

impl Remote for Http {
    fn knows(&self, source: &Source) -> bool {
        !matches!(source, Source::Crawl(_)) && ["https://", "http://"].iter().any(|s| source.path().starts_with(s))
    }

    fn check(&self, source: &Source) -> Result<()> {
        let url = Url::parse(source.path())
            .map_err(|e| Error::usage(format!("`{}` is no address", source.path())).with_source(e))?;
        match url.password() {
            None => Ok(()),
            // The address is written into the artifact's manifest and report.
            Some(_) => Err(Error::usage("an address must not hold a password")
                .with_hint("fetch the file yourself and name the path, or use a signed address")),
        }
    }

    fn collect(&self, source: &Source, task: &Task<'_>) -> Result<Vec<Collected>> {
        let file = file_name(source.path());
        let wanted = Wanted {
            url: source.path(),
            token: None,
            into: &task.entry.file(&file),
            file: &file,
            max_bytes: max_bytes(source),
            sha256: expected(source),
            before: task.before(&file),
        };
        let meter = Meter::begin(task.progress, source.path(), None);
        Ok(vec![task.environment.client()?.fetch(&wanted, &meter)?])
    }
}

/// The last part of an address's path, which tells the file's format.
fn file_name(address: &str) -> String {
    let url = Url::parse(address).ok();
    let last = url.as_ref().and_then(|url| url.path_segments()?.rfind(|part| !part.is_empty()));
    safe_name(last.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_tells_the_format() {
        assert_eq!(file_name("https://here/a/b.jsonl.gz?key=1#part"), "b.jsonl.gz");
        assert_eq!(file_name("https://here"), "file");
        assert_eq!(file_name("https://here/a/..%2f..%2fetc"), "_2f.._2fetc");
    }
}
