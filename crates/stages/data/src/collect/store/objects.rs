//! Listing and fetching objects.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path as FilePath;
use std::time::SystemTime;

use cupola_artifact::{Context, Error, Result, create_dir, hash_file, human_bytes, rfc3339, write_atomic};
use futures_util::TryStreamExt;
use glob::{MatchOptions, Pattern};
use object_store::path::Path;
use object_store::{GetOptions, GetRange, ObjectMeta, ObjectStore, ObjectStoreExt, parse_url_opts};
use tokio::runtime::{Builder, Runtime};
use url::Url;

use super::parts;
use crate::collect::cache::{Collected, Validator, modified_ns};
use crate::collect::hub::safe_paths;
use crate::collect::{Meter, Task, expected, max_bytes, several};
use crate::config::Source;

/// Brings the objects that a source means into the cache.
pub fn collect(source: &Source, task: &Task<'_>) -> Result<Vec<Collected>> {
    let address = source.path();
    let (bucket, path) = parts(address);
    let scheme = address.split_once("://").map_or("", |(scheme, _)| scheme);
    let url = Url::parse(&format!("{scheme}://{bucket}/"))
        .map_err(|e| Error::usage(format!("`{address}` is no address")).with_source(e))?;
    // Settings such as AWS_REGION, GOOGLE_SERVICE_ACCOUNT and AZURE_STORAGE_ACCOUNT_NAME.
    let settings = std::env::vars().map(|(name, value)| (name.to_ascii_lowercase(), value));
    let (store, _) = parse_url_opts(&url, settings).context(|| format!("cannot use {scheme}://{bucket}"))?;
    let runtime =
        Builder::new_multi_thread().worker_threads(2).enable_all().build().context(|| "no threads".to_owned())?;
    let objects = runtime.block_on(list(store.as_ref(), path)).context(|| format!("cannot list {address}"))?;
    if objects.is_empty() {
        return Err(
            Error::usage(format!("there is no object {address}")).with_hint("a folder is written with `/` at its end")
        );
    }
    let total: u64 = objects.iter().map(|object| object.size).sum();
    let meter = Meter::begin(task.progress, address, Some(total));
    let paths: Vec<&str> = objects.iter().map(|object| object.location.as_ref()).collect();
    let objects: Vec<(String, &ObjectMeta)> = safe_paths(&paths).into_iter().zip(&objects).collect();
    let fetching = Fetching { store: store.as_ref(), runtime: &runtime, source, meter: &meter };
    several(&objects, |(file, object)| {
        let address = format!("{scheme}://{bucket}/{}", object.location);
        let same = |before: &Collected| object.e_tag.is_some() && before.validator.etag == object.e_tag;
        match task.before(file).filter(same) {
            Some(before) => Ok(before),
            None => fetching.fetch(&address, object, file, &task.entry.file(file)),
        }
    })
}

/// The objects that a path means, by their names.
async fn list(store: &dyn ObjectStore, path: &str) -> object_store::Result<Vec<ObjectMeta>> {
    let is_pattern = path.contains(['*', '?', '[']);
    if !is_pattern && !path.ends_with('/') {
        return match store.head(&Path::parse(path)?).await {
            Ok(object) => Ok(vec![object]),
            Err(object_store::Error::NotFound { .. }) => Ok(Vec::new()),
            Err(e) => Err(e),
        };
    }
    let fixed = path.split(['*', '?', '[']).next().unwrap_or_default();
    let folder = Path::parse(fixed.rsplit_once('/').map_or("", |(folder, _)| folder))?;
    let mut objects: Vec<ObjectMeta> = store.list(Some(&folder)).try_collect().await?;
    if let Some(pattern) = Pattern::new(path).ok().filter(|_| is_pattern) {
        let options = MatchOptions { require_literal_separator: true, ..Default::default() };
        objects.retain(|object| pattern.matches_with(object.location.as_ref(), options));
    }
    objects.retain(|object| object.size > 0);
    objects.sort_by(|a, b| a.location.cmp(&b.location));
    Ok(objects)
}

struct Fetching<'a> {
    store: &'a dyn ObjectStore,
    runtime: &'a Runtime,
    source: &'a Source,
    meter: &'a Meter<'a>,
}

impl Fetching<'_> {
    /// Fetches an object; what an earlier attempt has left of the same version is gone on with. Requests are repeated by
    /// the store's client.
    fn fetch(&self, address: &str, object: &ObjectMeta, file: &str, into: &FilePath) -> Result<Collected> {
        let limit = max_bytes(self.source);
        if object.size > limit {
            let size = human_bytes(object.size as f64);
            return Err(Error::failed(format!("{address} has {size}, more than the {limit} bytes allowed"))
                .with_hint("raise `max_bytes` of this source"));
        }
        if let Some(parent) = into.parent() {
            create_dir(parent)?;
        }
        let name = into.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let (partial, about) =
            (into.with_file_name(format!(".{name}.partial")), into.with_file_name(format!(".{name}.partial.json")));
        let version = object.e_tag.clone().unwrap_or_else(|| object.last_modified.to_rfc3339());
        let have = partial.metadata().map_or(0, |meta| meta.len());
        let same = std::fs::read(&about).is_ok_and(|text| text == version.as_bytes());
        let start = if same && have <= object.size { have } else { 0 };
        write_atomic(&about, version.as_bytes())?;
        let cannot = || format!("cannot write {}", partial.display());
        let mut out = OpenOptions::new().create(true).truncate(false).write(true).open(&partial).context(cannot)?;
        out.set_len(start).context(cannot)?;
        std::io::Seek::seek(&mut out, std::io::SeekFrom::Start(start)).context(cannot)?;
        self.meter.add(start);
        if start < object.size {
            self.runtime.block_on(self.receive(object, start, &mut out)).map_err(|e| {
                e.wrap(format!("cannot receive {address}")).with_hint("the same command goes on where it was")
            })?;
        }
        out.sync_all().context(cannot)?;
        let (sha256, bytes) = hash_file(&partial)?;
        if let Some(expected) = expected(self.source).filter(|expected| !sha256.eq_ignore_ascii_case(expected)) {
            std::fs::remove_file(&partial).context(cannot)?;
            return Err(Error::failed(format!("{address} has the SHA-256 {sha256}, but {expected} is expected"))
                .with_hint("the object was changed: compare with what its publisher says"));
        }
        std::fs::rename(&partial, into).context(|| format!("cannot put {} in its place", into.display()))?;
        if let Some(parent) = into.parent().filter(|_| cfg!(unix)) {
            File::open(parent)
                .and_then(|dir| dir.sync_all())
                .context(|| format!("cannot sync {}", parent.display()))?;
        }
        Ok(Collected {
            address: address.to_owned(),
            file: file.to_owned(),
            bytes,
            sha256,
            collected: rfc3339(SystemTime::now()),
            validator: Validator { etag: object.e_tag.clone(), modified: Some(object.last_modified.to_rfc3339()) },
            modified_ns: modified_ns(into),
        })
    }

    async fn receive(&self, object: &ObjectMeta, start: u64, out: &mut File) -> Result<()> {
        let failed = || "the store gave no answer".to_owned();
        let options = GetOptions {
            range: (start > 0).then_some(GetRange::Offset(start)),
            if_match: object.e_tag.clone(),
            ..GetOptions::default()
        };
        let mut stream = self.store.get_opts(&object.location, options).await.context(failed)?.into_stream();
        while let Some(bytes) = stream.try_next().await.context(failed)? {
            out.write_all(&bytes).context(|| "cannot write the partial file".to_owned())?;
            self.meter.add(bytes.len() as u64);
        }
        Ok(())
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failing test should panic")]
mod tests {
    use super::*;
    use cupola_artifact::stage::Silent;
    use object_store::memory::InMemory;

    fn store(runtime: &Runtime, objects: &[(&str, &str)]) -> InMemory {
        let store = InMemory::new();
        for (name, text) in objects {
            runtime.block_on(store.put(&Path::from(*name), (*text).to_owned().into())).unwrap();
        }
        store
    }

    #[test]
    fn folders_patterns_and_single_objects_are_listed() {
        let runtime = Builder::new_current_thread().build().unwrap();
        let store = store(&runtime, &[("a/1.txt", "x"), ("a/b/2.txt", "x"), ("a/3.md", "x"), ("c.txt", "x")]);
        let names = |path: &str| -> Vec<String> {
            let objects = runtime.block_on(list(&store, path)).unwrap();
            objects.iter().map(|object| object.location.to_string()).collect()
        };
        assert_eq!(names("a/"), ["a/1.txt", "a/3.md", "a/b/2.txt"]);
        assert_eq!(names("a/*.txt"), ["a/1.txt"]);
        assert_eq!(names("**/*.txt"), ["a/1.txt", "a/b/2.txt", "c.txt"]);
        assert_eq!(names("c.txt"), ["c.txt"]);
        assert!(names("d.txt").is_empty());
    }

    #[test]
    fn an_object_that_was_cut_off_is_gone_on_with() {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let store = store(&runtime, &[("a.txt", "0123456789")]);
        let object = runtime.block_on(store.head(&Path::from("a.txt"))).unwrap();
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(".a.txt.partial"), "01234").unwrap();
        std::fs::write(dir.path().join(".a.txt.partial.json"), object.e_tag.clone().unwrap()).unwrap();
        let source = Source::Path("s3://bucket/a.txt".into());
        let meter = Meter::begin(&Silent, "s3://bucket/a.txt", None);
        let fetching = Fetching { store: &store, runtime: &runtime, source: &source, meter: &meter };
        let into = dir.path().join("a.txt");
        let collected = fetching.fetch("s3://bucket/a.txt", &object, "a.txt", &into).unwrap();
        assert_eq!((collected.bytes, std::fs::read_to_string(&into).unwrap().as_str()), (10, "0123456789"));
        assert_eq!(collected.validator.etag, object.e_tag);
    }
}
