//! SHA-256 of bytes, files and folders, and a memory of what was hashed before.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::atomic::write_atomic;
use crate::{Context, Error, Result};

/// Folders nested deeper than this are taken for links that contain themselves.
const MAX_DEPTH: usize = 64;

/// The SHA-256 of some bytes in hexadecimal.
pub fn sha256_hex(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn hex(digest: &[u8]) -> String {
    use std::fmt::Write;
    digest.iter().fold(String::with_capacity(64), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The SHA-256 of a file's content, and its length.
pub fn hash_file(path: &Path) -> Result<(String, u64)> {
    let hash = || {
        let mut file = File::open(path)?;
        let (mut state, mut buffer, mut bytes) = (Sha256::new(), vec![0; 1 << 18], 0);
        loop {
            match file.read(&mut buffer) {
                Ok(0) => return Ok((hex(&state.finalize()), bytes)),
                Ok(n) => {
                    state.update(&buffer[..n]);
                    bytes += n as u64;
                }
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    };
    hash().context(|| format!("cannot read {}", path.display()))
}

/// The hash of a file's content, or of a folder's: the sorted relative paths with the hashes of the files.
pub fn hash_path(path: &Path) -> Result<String> {
    hash_path_with(path, &mut |file| hash_file(file))
}

fn hash_path_with(path: &Path, hash: &mut dyn FnMut(&Path) -> Result<(String, u64)>) -> Result<String> {
    let meta = fs::metadata(path).context(|| format!("cannot read {}", path.display()))?;
    if !meta.is_dir() {
        return Ok(hash(path)?.0);
    }
    let mut lines = String::new();
    for (name, file) in list_files(path)? {
        lines.push_str(&format!("{name}\0{}\n", hash(&file)?.0));
    }
    Ok(sha256_hex(lines.as_bytes()))
}

/// All files below a folder, by their relative paths with `/` between the parts, sorted.
pub fn list_files(dir: &Path) -> Result<Vec<(String, PathBuf)>> {
    let mut files = Vec::new();
    walk(dir, "", 0, &mut files)?;
    files.sort();
    Ok(files)
}

fn walk(dir: &Path, prefix: &str, depth: usize, files: &mut Vec<(String, PathBuf)>) -> Result<()> {
    if depth > MAX_DEPTH {
        return Err(Error::failed(format!("{} is nested too deep", dir.display()))
            .with_hint("a symbolic link in it may lead back to a folder above"));
    }
    let unreadable = || format!("cannot list the folder {}", dir.display());
    for entry in fs::read_dir(dir).context(unreadable)? {
        let path = entry.context(unreadable)?.path();
        let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        let name = if prefix.is_empty() { name } else { format!("{prefix}/{name}") };
        let meta = fs::metadata(&path).context(|| format!("cannot read {}", path.display()))?;
        if meta.is_dir() {
            walk(&path, &name, depth + 1, files)?;
        } else {
            files.push((name, path));
        }
    }
    Ok(())
}

/// Remembers the hashes of files by size and time of change, so that a run with nothing to do need not read them again.
pub struct HashCache {
    file: PathBuf,
    entries: BTreeMap<String, Entry>,
    changed: bool,
}

#[derive(Clone, Serialize, Deserialize)]
struct Entry {
    bytes: u64,
    modified_ns: u128,
    sha256: String,
}

impl HashCache {
    /// Reads the memory kept in `file`; a missing or unreadable one is an empty one.
    pub fn load(file: &Path) -> Self {
        let entries = fs::read(file).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
        Self { file: file.to_path_buf(), entries, changed: false }
    }

    /// Like [`hash_path`]; files whose size and time of change are as before are not read again.
    pub fn hash_path(&mut self, path: &Path) -> Result<String> {
        hash_path_with(path, &mut |file| self.hash_file(file))
    }

    fn hash_file(&mut self, path: &Path) -> Result<(String, u64)> {
        let meta = fs::metadata(path).context(|| format!("cannot read {}", path.display()))?;
        let modified = meta.modified().unwrap_or(UNIX_EPOCH);
        let modified_ns = modified.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
        let key = std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf()).display().to_string();
        if let Some(known) = self.entries.get(&key)
            && (known.bytes, known.modified_ns) == (meta.len(), modified_ns)
        {
            return Ok((known.sha256.clone(), known.bytes));
        }
        let (sha256, bytes) = hash_file(path)?;
        // A file changed a moment ago could change again within the clock's resolution.
        let settled = SystemTime::now().duration_since(modified).is_ok_and(|age| age > Duration::from_secs(1));
        if settled && modified_ns > 0 {
            self.entries.insert(key, Entry { bytes, modified_ns, sha256: sha256.clone() });
            self.changed = true;
        }
        Ok((sha256, bytes))
    }

    /// Keeps what was learnt; files that are gone are forgotten.
    pub fn save(&mut self) -> Result<()> {
        if self.changed {
            self.entries.retain(|path, _| Path::new(path).exists());
            let text = serde_json::to_vec(&self.entries).context(|| "cannot write the hash cache".into())?;
            write_atomic(&self.file, &text)?;
            self.changed = false;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn sha256_is_that_of_the_standard() {
        assert_eq!(sha256_hex(b"abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }

    #[test]
    fn folder_hash_depends_on_names_and_contents_only() {
        let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        for dir in [&a, &b] {
            fs::create_dir(dir.path().join("sub")).unwrap();
        }
        fs::write(a.path().join("x"), "1").unwrap();
        fs::write(a.path().join("sub/y"), "2").unwrap();
        fs::write(b.path().join("sub/y"), "2").unwrap();
        fs::write(b.path().join("x"), "1").unwrap();
        assert_eq!(hash_path(a.path()).unwrap(), hash_path(b.path()).unwrap());
        fs::rename(b.path().join("x"), b.path().join("z")).unwrap();
        assert_ne!(hash_path(a.path()).unwrap(), hash_path(b.path()).unwrap());
    }

    #[test]
    fn cache_sees_a_changed_file() {
        let dir = tempfile::tempdir().unwrap();
        let (file, memory) = (dir.path().join("x"), dir.path().join("memory.json"));
        let past = SystemTime::now() - Duration::from_secs(100);
        let write = |text: &str, age: u64| {
            fs::write(&file, text).unwrap();
            File::options().write(true).open(&file).unwrap().set_modified(past + Duration::from_secs(age)).unwrap();
        };
        write("one", 0);
        let mut cache = HashCache::load(&memory);
        assert_eq!(cache.hash_path(&file).unwrap(), sha256_hex(b"one"));
        cache.save().unwrap();
        let mut cache = HashCache::load(&memory);
        assert_eq!(cache.entries.len(), 1);
        assert_eq!(cache.hash_path(&file).unwrap(), sha256_hex(b"one"));
        write("two", 1);
        assert_eq!(cache.hash_path(&file).unwrap(), sha256_hex(b"two"));
    }
}
