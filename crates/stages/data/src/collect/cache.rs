//! Where collected files lie: a folder for each source, with a list of its files once all are there.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use cupola_artifact::stage::Progress;
use cupola_artifact::{Context, Error, Result, create_dir, hash_file, sha256_hex, write_atomic};
use serde::{Deserialize, Serialize};

/// The list of a source's files; there once all of them are.
const LIST: &str = "collected.json";

/// The folder for a source's files.
const FILES: &str = "files";

/// The folder in which collected files are kept if a recipe does not say: `CUPOLA_CACHE`, or the user's cache.
pub fn default_cache() -> Result<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let dir = set("CUPOLA_CACHE")
        .or_else(|| set("XDG_CACHE_HOME").map(|dir| dir.join("cupola")))
        .or_else(|| set("LOCALAPPDATA").map(|dir| dir.join("cupola").join("cache")))
        .or_else(|| set("HOME").map(|dir| dir.join(".cache").join("cupola")));
    dir.map(|dir| dir.join("collect")).ok_or_else(|| {
        Error::usage(
            "there is no folder to keep collected files in: none of CUPOLA_CACHE, XDG_CACHE_HOME and HOME is set",
        )
        .with_hint("set one of them, or `cache = \"FOLDER\"` in the stage")
    })
}

/// A file that was collected.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Collected {
    /// Its address.
    pub address: String,
    /// Its path below the source's folder.
    pub file: String,
    /// Bytes.
    pub bytes: u64,
    /// Its SHA-256.
    pub sha256: String,
    /// When it was collected, UTC.
    pub collected: String,
    /// By what the server tells whether it has changed.
    #[serde(default)]
    pub validator: Validator,
    /// The file's time of change, nanoseconds since 1970: whether it is still what was collected.
    #[serde(default)]
    pub modified_ns: u64,
}

impl Collected {
    /// Whether the file at a path is what was collected.
    pub fn is_at(&self, path: &Path) -> Result<bool> {
        let Ok(meta) = path.metadata() else { return Ok(false) };
        if meta.len() != self.bytes {
            return Ok(false);
        }
        Ok(modified_ns(path) == self.modified_ns || hash_file(path)?.0 == self.sha256)
    }
}

/// By what a server tells whether a file has changed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Validator {
    /// `ETag`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub etag: Option<String>,
    /// `Last-Modified`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub modified: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct List {
    source: String,
    files: Vec<Collected>,
}

/// A folder of collected sources.
pub struct Cache {
    dir: PathBuf,
}

impl Cache {
    /// The cache in a folder.
    pub fn at(dir: PathBuf) -> Self {
        Self { dir }
    }

    /// The folder of a source; made when something is put into it.
    pub fn entry(&self, identity: &str) -> Result<Entry> {
        let digest = sha256_hex(identity.as_bytes());
        Ok(Entry { dir: self.dir.join(&digest[..24]) })
    }
}

/// A source's folder.
pub struct Entry {
    dir: PathBuf,
}

/// Keeps others from a source's folder until it is dropped.
pub struct Lock {
    _file: File,
}

impl Entry {
    /// The folder, for what a kind of source keeps beside its files.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// A file of the source, by its path in [`Collected::file`].
    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.join(FILES).join(name)
    }

    /// Makes the folder, and waits until nobody else works in it.
    pub fn lock(&self, progress: &dyn Progress) -> Result<Lock> {
        create_dir(&self.dir.join(FILES))?;
        let path = self.dir.join("lock");
        let cannot = || format!("cannot lock {}", path.display());
        let file = File::options().create(true).truncate(false).write(true).open(&path).context(cannot)?;
        if file.try_lock().is_err() {
            progress.line(&format!("waiting for another run that collects into {}", self.dir.display()));
            file.lock().context(cannot)?;
        }
        Ok(Lock { _file: file })
    }

    /// The source's files, if all are there as they were collected.
    pub fn complete(&self) -> Result<Option<Vec<Collected>>> {
        let path = self.dir.join(LIST);
        let Ok(bytes) = std::fs::read(&path) else { return Ok(None) };
        let list: List = serde_json::from_slice(&bytes).map_err(|e| {
            Error::failed(format!("{} is damaged", path.display()))
                .with_hint(format!("remove the folder {}: it is collected again", self.dir.display()))
                .with_source(e)
        })?;
        for file in &list.files {
            if !file.is_at(&self.file(&file.file))? {
                return Ok(None);
            }
        }
        Ok(Some(list.files))
    }

    /// The source is complete: writes the list of its files, and removes files of before that are not in it.
    pub fn finish(&self, identity: &str, mut files: Vec<Collected>) -> Result<Vec<Collected>> {
        files.iter_mut().for_each(|file| file.modified_ns = modified_ns(&self.file(&file.file)));
        for (name, path) in cupola_artifact::list_files(&self.dir.join(FILES))? {
            if files.iter().all(|file| file.file != name) {
                std::fs::remove_file(&path).context(|| format!("cannot remove {}", path.display()))?;
            }
        }
        let list = List { source: identity.to_owned(), files };
        let json = serde_json::to_vec_pretty(&list).context(|| "cannot write the list of files".to_owned())?;
        write_atomic(&self.dir.join(LIST), &json)?;
        Ok(list.files)
    }
}

/// A file's time of change, nanoseconds since 1970; 0 where it is not known.
pub fn modified_ns(path: &Path) -> u64 {
    let modified = path.metadata().and_then(|meta| meta.modified()).ok();
    let since = modified.and_then(|time| time.duration_since(UNIX_EPOCH).ok()).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or_default()
}

/// A name for a file that is safe in any folder: what is no letter, digit, `.`, `-` or `_` becomes `_`.
pub fn safe_name(name: &str) -> String {
    let plain: String =
        name.chars().map(|c| if c.is_alphanumeric() || matches!(c, '.' | '-' | '_') { c } else { '_' }).collect();
    let plain = plain.trim_start_matches('.');
    // File systems allow 255 bytes; the end is kept, as it says what the file is.
    let cut = plain.char_indices().map(|(i, _)| i).find(|i| plain.len() - i <= 160).unwrap_or(plain.len());
    let plain = &plain[cut..];
    let device = plain.split('.').next().unwrap_or_default().to_ascii_uppercase();
    if plain.is_empty() || ["CON", "PRN", "AUX", "NUL"].contains(&device.as_str()) {
        return format!("file{plain}");
    }
    plain.to_owned()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failing test should panic")]
mod tests {
    use super::*;
    use cupola_artifact::stage::Silent;

    #[test]
    fn no_name_leaves_its_folder() {
        for (name, safe) in [
            ("train.jsonl.gz", "train.jsonl.gz"),
            ("../../etc/passwd", "_.._etc_passwd"),
            ("", "file"),
            ("..", "file"),
            ("nul.txt", "filenul.txt"),
            ("a b?c=d", "a_b_c_d"),
        ] {
            assert_eq!(safe_name(name), safe, "{name}");
        }
        let long = format!("{}.jsonl", "x".repeat(400));
        assert!(safe_name(&long).len() <= 160 && safe_name(&long).ends_with(".jsonl"));
    }

    #[test]
    fn a_file_that_was_changed_by_hand_is_not_taken_for_what_was_collected() {
        let dir = tempfile::tempdir().unwrap();
        let entry = Cache::at(dir.path().to_path_buf()).entry("https://here/a.txt").unwrap();
        let _lock = entry.lock(&Silent).unwrap();
        std::fs::write(entry.file("a.txt"), "text").unwrap();
        std::fs::write(entry.file("old.txt"), "of before").unwrap();
        let file = Collected {
            address: "https://here/a.txt".into(),
            file: "a.txt".into(),
            bytes: 4,
            sha256: sha256_hex(b"text"),
            collected: String::new(),
            validator: Validator::default(),
            modified_ns: 0,
        };
        entry.finish("https://here/a.txt", vec![file]).unwrap();
        assert!(!entry.file("old.txt").exists(), "a file of before that is not in the list");
        assert_eq!(entry.complete().unwrap().unwrap()[0].sha256, sha256_hex(b"text"));
        std::fs::write(entry.file("a.txt"), "tixt").unwrap();
        assert!(entry.complete().unwrap().is_none());
    }
}
