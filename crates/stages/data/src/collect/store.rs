//! Object stores: `s3://bucket/path`, `gs://bucket/path`, `az://container/path`; a path that ends with `/` or has `*`, `?`
//! or `[` means all objects below it, or all that match. Keys and regions come from the environment, by the names that the
//! stores' own tools use. Needs the cargo feature `object-stores`.

use cupola_artifact::{Error, Result};

use super::cache::Collected;
use super::{Remote, Task};
use crate::config::Source;

/// Schemes of object stores.
const SCHEMES: &[&str] = &["s3://", "gs://", "az://"];

/// `s3://…`, `gs://…` and `az://…`.
pub struct Store;

impl Remote for Store {
    fn knows(&self, source: &Source) -> bool {
        !matches!(source, Source::Crawl(_)) && SCHEMES.iter().any(|scheme| source.path().starts_with(scheme))
    }

    fn check(&self, source: &Source) -> Result<()> {
        let address = source.path();
        let (bucket, path) = parts(address);
        if bucket.is_empty() || path.is_empty() {
            return Err(Error::usage(format!("`{address}` names no bucket and object")).with_hint(
                "write `s3://bucket/path/file.jsonl.zst`, `s3://bucket/folder/` or `s3://bucket/*.parquet`",
            ));
        }
        glob::Pattern::new(path).map_err(|e| Error::usage(format!("`{path}` is not a valid pattern: {e}")))?;
        if cfg!(feature = "object-stores") {
            return Ok(());
        }
        Err(Error::usage(format!("`{address}`: this cupola was built without object stores"))
            .with_hint("build it with the cargo feature `object-stores`"))
    }

    #[cfg(feature = "object-stores")]
    fn collect(&self, source: &Source, task: &Task<'_>) -> Result<Vec<Collected>> {
        objects::collect(source, task)
    }

    #[cfg(not(feature = "object-stores"))]
    fn collect(&self, source: &Source, _: &Task<'_>) -> Result<Vec<Collected>> {
        self.check(source).map(|()| Vec::new())
    }
}

/// The bucket and the path of an address.
fn parts(address: &str) -> (&str, &str) {
    let rest = address.split_once("://").map_or(address, |(_, rest)| rest);
    rest.split_once('/').unwrap_or((rest, ""))
}

#[cfg(feature = "object-stores")]
mod objects;

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failing test should panic")]
mod tests {
    use super::*;

    #[test]
    fn an_address_without_an_object_is_an_error_with_an_example() {
        for address in ["s3://", "gs://bucket", "az://container/"] {
            let error = Store.check(&Source::Path(address.into())).unwrap_err();
            assert!(error.hint().unwrap().contains("s3://bucket/"), "{address}");
        }
    }

    #[cfg(not(feature = "object-stores"))]
    #[test]
    fn without_the_feature_the_error_names_it() {
        let error = Store.check(&Source::Path("s3://bucket/a.jsonl".into())).unwrap_err();
        assert!(error.hint().unwrap().contains("object-stores"));
    }
}
