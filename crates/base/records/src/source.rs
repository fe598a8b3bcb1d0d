//! What a source says beyond a file's name: a member of an archive, a query, a tree of code.

use std::path::{Path, PathBuf};

use cupola_artifact::{Context, Result};

/// How a source that is a tree of code begins.
const CODE: &str = "code:";

/// A source, taken apart.
pub(crate) enum Source {
    File(PathBuf),
    /// An archive and the name of a member.
    Member(PathBuf, String),
    /// A database and what is asked of it.
    Query(PathBuf, String),
    /// A folder of source code.
    Code(PathBuf),
}

impl Source {
    /// What a path means. A file that exists under the whole name is that file.
    pub fn of(path: &Path) -> Self {
        let file = || Self::File(path.to_path_buf());
        let Some(text) = path.to_str().filter(|_| !path.exists()) else { return file() };
        if let Some(folder) = text.strip_prefix(CODE) {
            return Self::Code(folder.into());
        }
        if let Some((before, query)) = text.split_once('#')
            && Path::new(before).is_file()
        {
            return Self::Query(before.into(), query.to_owned());
        }
        // The archive's own path may hold the mark.
        for (at, _) in text.match_indices('!') {
            if Path::new(&text[..at]).is_file() {
                return Self::Member(text[..at].into(), text[at + 1..].to_owned());
            }
        }
        file()
    }

    /// A recipe's source that is more than a file's name, with its path made absolute; `None` where it is a path or pattern.
    pub fn special(source: &str, base: &Path) -> Option<PathBuf> {
        if let Some(folder) = source.strip_prefix(CODE).filter(|_| !base.join(source).exists()) {
            let folder = base.join(folder);
            return folder.is_dir().then(|| PathBuf::from(format!("{CODE}{}", folder.display())));
        }
        let path = base.join(source);
        match Self::of(&path) {
            Self::Member(..) | Self::Query(..) => Some(path),
            Self::File(_) | Self::Code(_) => None,
        }
    }
}

/// The file or folder on disk that a source reads: its content decides what the source gives.
pub fn file_of_source(path: &Path) -> PathBuf {
    match Source::of(path) {
        Source::File(file) | Source::Member(file, _) | Source::Query(file, _) | Source::Code(file) => file,
    }
}

/// The size of what a source reads, bytes on disk.
///
/// # Errors
/// A file that cannot be looked at.
pub fn source_bytes(path: &Path) -> Result<u64> {
    let file = file_of_source(path);
    let mut bytes = 0;
    let mut waiting = vec![file];
    while let Some(path) = waiting.pop() {
        let cannot = || format!("cannot read {}", path.display());
        let metadata = std::fs::symlink_metadata(&path).context(cannot)?;
        if metadata.is_symlink() {
            bytes += std::fs::metadata(&path).map_or(0, |target| if target.is_file() { target.len() } else { 0 });
        } else if metadata.is_dir() {
            for entry in std::fs::read_dir(&path).context(cannot)? {
                waiting.push(entry.context(cannot)?.path());
            }
        } else {
            bytes += metadata.len();
        }
    }
    Ok(bytes)
}
