//! A run's folder: finished artifacts in `<out>/<kind>.<name>/`, those being made in `<out>/.work/<kind>.<name>/`.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::atomic::{create_dir, recover_dir, remove_dir_if_there, replace_dir, sweep_partials, write_atomic};
use crate::manifest::{Manifest, is_artifact};
use crate::{Context, Error, Result};

/// A run's folder.
#[derive(Debug)]
pub struct RunDir {
    root: PathBuf,
    _lock: Option<File>,
}

/// Where an artifact is made.
#[derive(Debug)]
pub struct Bench {
    /// The artifact under construction.
    pub artifact: PathBuf,
    /// Checkpoints and caches, removed at the end.
    pub work: PathBuf,
    /// Whether an earlier attempt with the same run key was cut off.
    pub resumed: bool,
    /// Whether that attempt had sealed the artifact already: only [`Bench::finish`] is left.
    pub complete: bool,
    home: PathBuf,
    root: PathBuf,
}

impl RunDir {
    /// Opens a run's folder, creating it if needed, for this process alone.
    pub fn lock(root: &Path) -> Result<Self> {
        create_dir(&root.join(".work"))?;
        let path = root.join(".work/lock");
        let mut lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .context(|| format!("cannot open {}", path.display()))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let owner = fs::read_to_string(&path).unwrap_or_default();
                let owner =
                    if owner.trim().is_empty() { String::new() } else { format!(" (process {})", owner.trim()) };
                return Err(Error::failed(format!("another run is using {}{owner}", root.display()))
                    .with_hint("wait for it, or give this run its own folder with --out"));
            }
            Err(TryLockError::Error(e)) => {
                return Err(Error::failed(format!("cannot lock {}", path.display())).with_source(e));
            }
        }
        // For the message above; the lock itself does not depend on it.
        let _ = lock.set_len(0).and_then(|()| write!(lock, "{}", std::process::id()));
        Ok(Self { root: root.to_path_buf(), _lock: Some(lock) })
    }

    /// A run's folder for looking only.
    pub fn look(root: &Path) -> Self {
        Self { root: root.to_path_buf(), _lock: None }
    }

    /// The folder itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where the finished artifact of a stage is.
    pub fn artifact(&self, kind: &str, name: &str) -> PathBuf {
        self.root.join(format!("{kind}.{name}"))
    }

    /// The manifest of a stage's finished artifact; nothing when there is none, or when it is damaged or incomplete.
    pub fn finished(&self, kind: &str, name: &str) -> Option<Manifest> {
        let dir = self.artifact(kind, name);
        Manifest::read(&dir).ok().filter(|manifest| manifest.files_look_complete(&dir))
    }

    /// Where hashes of source files are remembered.
    pub fn hash_cache(&self) -> PathBuf {
        self.root.join(".work/hashes.json")
    }

    /// Finishes or undoes what a killed run was doing with a stage's finished artifact.
    pub fn recover(&self, kind: &str, name: &str) -> Result<()> {
        recover_dir(&self.artifact(kind, name))
    }

    /// Prepares the place to make an artifact: the one of an attempt that was cut off if the run key is unchanged, else
    /// a clean one.
    pub fn begin(&self, kind: &str, name: &str, run_key: &str) -> Result<Bench> {
        let root = self.root.join(".work").join(format!("{kind}.{name}"));
        let bench = |resumed, complete| Bench {
            artifact: root.join("artifact"),
            work: root.join("work"),
            resumed,
            complete,
            home: self.artifact(kind, name),
            root: root.clone(),
        };
        let key_file = root.join("run_key");
        if fs::read_to_string(&key_file).is_ok_and(|key| key == run_key) {
            let bench = bench(true, false);
            create_dir(&bench.artifact)?;
            create_dir(&bench.work)?;
            sweep_partials(&bench.artifact)?;
            let sealed = Manifest::read(&bench.artifact).ok();
            let complete = sealed.is_some_and(|m| m.run_key == run_key && m.files_look_complete(&bench.artifact));
            return Ok(Bench { complete, ..bench });
        }
        remove_dir_if_there(&root).context(|| format!("cannot remove {}", root.display()))?;
        let bench = bench(false, false);
        create_dir(&bench.artifact)?;
        create_dir(&bench.work)?;
        // The key comes last: without it the next attempt starts clean.
        write_atomic(&key_file, run_key.as_bytes())?;
        Ok(bench)
    }

    /// Forgets an attempt that was cut off.
    pub fn forget(&self, kind: &str, name: &str) -> Result<()> {
        let root = self.root.join(".work").join(format!("{kind}.{name}"));
        remove_dir_if_there(&root).context(|| format!("cannot remove {}", root.display()))
    }
}

impl Bench {
    /// Where the artifact will be.
    pub fn home(&self) -> &Path {
        &self.home
    }

    /// Puts the sealed artifact into its place and removes what was needed to make it.
    pub fn finish(self) -> Result<PathBuf> {
        if !is_artifact(&self.artifact) {
            return Err(Error::failed(format!("{} is not sealed", self.artifact.display())));
        }
        replace_dir(&self.artifact, &self.home)?;
        remove_dir_if_there(&self.root).context(|| format!("cannot remove {}", self.root.display()))?;
        Ok(self.home)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn second_run_in_the_same_folder_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let first = RunDir::lock(dir.path()).unwrap();
        let error = RunDir::lock(dir.path()).unwrap_err();
        assert!(error.to_string().contains("another run") && error.hint().unwrap().contains("--out"), "{error}");
        drop(first);
        RunDir::lock(dir.path()).unwrap();
    }

    #[test]
    fn cut_off_stage_continues_only_with_the_same_key() {
        let dir = tempfile::tempdir().unwrap();
        let run = RunDir::lock(dir.path()).unwrap();
        let bench = run.begin("pretrain", "base", "key 1").unwrap();
        assert!(!bench.resumed);
        fs::write(bench.work.join("checkpoint"), "1").unwrap();
        fs::write(bench.artifact.join(".model.7-0.partial"), "1").unwrap();
        let bench = run.begin("pretrain", "base", "key 1").unwrap();
        assert!(bench.resumed && !bench.complete && bench.work.join("checkpoint").exists());
        assert!(!bench.artifact.join(".model.7-0.partial").exists());
        let bench = run.begin("pretrain", "base", "key 2").unwrap();
        assert!(!bench.resumed && !bench.work.join("checkpoint").exists());
        assert!(bench.finish().is_err());
    }
}
