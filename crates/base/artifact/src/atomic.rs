//! Files and folders that are there whole or not at all, whatever happens in between.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::{Context, Error, Result};

/// What the names of unfinished files end with.
const PARTIAL: &str = ".partial";

/// Writes a file: readers see the old content or the new, never a part.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<()> {
    write_atomic_with(path, |out| out.write_all(bytes))
}

/// Like [`write_atomic`] for content that is produced piece by piece.
pub fn write_atomic_with(path: &Path, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<()> {
    stage_file(path, write).and_then(Staged::commit).context(|| format!("cannot write {}", path.display()))
}

/// A file that is written and on disk, but under a temporary name. Dropping it removes it.
struct Staged {
    partial: PathBuf,
    target: PathBuf,
}

/// The first half of an atomic write.
fn stage_file(path: &Path, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<Staged> {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let name = path.file_name().ok_or_else(|| io::Error::other("the path names no file"))?;
    let serial = COUNTER.fetch_add(1, Ordering::Relaxed);
    let partial = path.with_file_name(format!(".{}.{}-{serial}{PARTIAL}", name.display(), std::process::id()));
    let file = OpenOptions::new().write(true).create(true).truncate(true).open(&partial)?;
    let staged = Staged { partial, target: path.to_path_buf() };
    let mut out = BufWriter::with_capacity(1 << 18, file);
    write(&mut out)?;
    out.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
    Ok(staged)
}

impl Staged {
    /// The second half: from here on readers see the new content.
    fn commit(self) -> io::Result<()> {
        fs::rename(&self.partial, &self.target)?;
        sync_dir(parent(&self.target))
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        // After `commit` there is nothing under this name.
        let _ = fs::remove_file(&self.partial);
    }
}

/// Removes what atomic writes left below `dir` when their process was killed.
pub(crate) fn sweep_partials(dir: &Path) -> Result<()> {
    for (_, path) in crate::hash::list_files(dir)? {
        let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        if name.starts_with('.') && name.ends_with(PARTIAL) {
            fs::remove_file(&path).context(|| format!("cannot remove {}", path.display()))?;
        }
    }
    Ok(())
}

/// Puts `staged` in the place of `target`, whether or not `target` exists. Cut off in between, the next call or
/// [`recover_dir`] finds either the old folder or the new one.
pub fn replace_dir(staged: &Path, target: &Path) -> Result<()> {
    recover_dir(target)?;
    replace_steps(staged, target, usize::MAX).context(|| format!("cannot put {} into its place", target.display()))
}

/// The steps of [`replace_dir`]; `stop_after` leaves off the later ones.
fn replace_steps(staged: &Path, target: &Path, stop_after: usize) -> io::Result<()> {
    let old = old_name(target)?;
    let steps: [&dyn Fn() -> io::Result<()>; 3] = [
        &|| if target.exists() { fs::rename(target, &old) } else { Ok(()) },
        &|| fs::rename(staged, target).and_then(|()| sync_dir(parent(target))).and_then(|()| sync_dir(parent(staged))),
        &|| remove_dir_if_there(&old),
    ];
    steps.iter().take(stop_after).try_for_each(|step| step())
}

/// Finishes or undoes a [`replace_dir`] that was cut off.
pub fn recover_dir(target: &Path) -> Result<()> {
    let recover = || {
        let old = old_name(target)?;
        match (old.exists(), target.exists()) {
            (true, false) => fs::rename(&old, target).and_then(|()| sync_dir(parent(target))),
            (true, true) => remove_dir_if_there(&old),
            (false, _) => Ok(()),
        }
    };
    recover().context(|| format!("cannot restore {} after a run that was cut off", target.display()))
}

fn old_name(target: &Path) -> io::Result<PathBuf> {
    let name = target.file_name().ok_or_else(|| io::Error::other("the path names no folder"))?;
    Ok(target.with_file_name(format!(".{}.old", name.display())))
}

/// Removes a folder with all it holds; fine when there is none.
pub(crate) fn remove_dir_if_there(dir: &Path) -> io::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

/// Makes renames in a folder last through a power cut.
pub(crate) fn sync_dir(dir: &Path) -> io::Result<()> {
    if cfg!(unix) { File::open(dir)?.sync_all() } else { Ok(()) }
}

/// Makes a file's content last through a power cut.
pub(crate) fn sync_file(path: &Path) -> Result<()> {
    // Windows syncs only through a handle that may write.
    let file = if cfg!(unix) { File::open(path) } else { OpenOptions::new().write(true).open(path) };
    file.and_then(|f| f.sync_all()).context(|| format!("cannot bring {} to the disk", path.display()))
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(p) if p != Path::new("") => p,
        _ => Path::new("."),
    }
}

/// Creates a folder and those above it.
pub fn create_dir(dir: &Path) -> Result<()> {
    fs::create_dir_all(dir).map_err(|e| {
        let error = Error::failed(format!("cannot create the folder {}", dir.display()));
        match e.kind() {
            io::ErrorKind::AlreadyExists | io::ErrorKind::NotADirectory => {
                error.with_hint("a file of that name is in the way")
            }
            _ => error,
        }
        .with_source(e)
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    #[test]
    fn failed_write_keeps_the_old_file_and_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("weights");
        write_atomic(&path, b"old").unwrap();
        let error = write_atomic_with(&path, |out| {
            out.write_all(&vec![0; 1 << 20])?;
            Err(io::Error::from(io::ErrorKind::StorageFull))
        })
        .unwrap_err();
        assert!(error.to_string().contains("weights") && error.hint().unwrap().contains("disk is full"), "{error:?}");
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(names(dir.path()), ["weights"]);
    }

    #[test]
    fn crash_between_the_steps_of_a_write_leaves_the_old_file_or_the_new_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("weights");
        write_atomic(&path, b"old").unwrap();
        // Killed while writing, and killed before the rename.
        fs::write(dir.path().join(".weights.1-0.partial"), b"ne").unwrap();
        std::mem::forget(stage_file(&path, |out| out.write_all(b"new")).unwrap());
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(names(dir.path()).len(), 3);
        sweep_partials(dir.path()).unwrap();
        assert_eq!(names(dir.path()), ["weights"]);
        write_atomic(&path, b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
    }

    #[test]
    fn replaced_folder_is_old_or_new_wherever_it_is_cut_off() {
        for stop_after in 0..=3 {
            let dir = tempfile::tempdir().unwrap();
            let (staged, target) = (dir.path().join("staged"), dir.path().join("target"));
            for (folder, text) in [(&staged, "new"), (&target, "old")] {
                fs::create_dir(folder).unwrap();
                fs::write(folder.join("file"), text).unwrap();
            }
            replace_steps(&staged, &target, stop_after).unwrap();
            recover_dir(&target).unwrap();
            let expected = if stop_after < 2 { "old" } else { "new" };
            assert_eq!(fs::read_to_string(target.join("file")).unwrap(), expected, "after {stop_after} steps");
            if staged.exists() {
                replace_dir(&staged, &target).unwrap();
            }
            assert_eq!(fs::read_to_string(target.join("file")).unwrap(), "new");
            assert_eq!(names(dir.path()), ["target"]);
        }
    }

    #[test]
    fn missing_folder_is_an_error_that_names_the_file() {
        let error = write_atomic(Path::new("/nowhere/at/all"), b"").unwrap_err();
        assert!(error.chain().contains("/nowhere/at/all"), "{}", error.chain());
    }
}
