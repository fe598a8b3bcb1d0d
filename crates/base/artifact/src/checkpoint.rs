//! Checkpoints: folders that are complete or not there, of which the newest unharmed one is found again.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use crate::atomic::{create_dir, remove_dir_if_there, replace_dir, sync_dir, sync_file, write_atomic};
use crate::hash::{hash_file, list_files};
use crate::manifest::FileRecord;
use crate::{Context, Result};

/// The list of hashes that completes a checkpoint.
const SEAL: &str = "checkpoint.json";

/// The checkpoints in a folder.
pub struct Checkpoints {
    dir: PathBuf,
    keep: usize,
    skipped: Mutex<Vec<String>>,
}

#[derive(Serialize, Deserialize)]
struct Seal {
    step: u64,
    files: Vec<FileRecord>,
}

impl Checkpoints {
    /// The checkpoints in `dir`, of which the newest `keep` (at least one) are kept.
    pub fn new(dir: PathBuf, keep: usize) -> Self {
        Self { dir, keep: keep.max(1), skipped: Mutex::default() }
    }

    /// Makes a checkpoint: `write` puts its files into the folder it is given. Killed at any moment, the checkpoints
    /// before it are unharmed.
    pub fn save(&self, step: u64, write: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
        let partial = self.dir.join(format!("step-{step}.partial"));
        remove_dir_if_there(&partial).context(|| format!("cannot remove {}", partial.display()))?;
        create_dir(&partial)?;
        let written = write(&partial).and_then(|()| seal(&partial, step));
        if let Err(error) = written {
            // What is there takes space that a full disk needs.
            let _ = remove_dir_if_there(&partial);
            return Err(error.wrap(format!("cannot write the checkpoint of step {step} in {}", self.dir.display())));
        }
        replace_dir(&partial, &self.dir.join(format!("step-{step}")))?;
        self.prune()
    }

    /// The newest checkpoint whose files are all as they were written. Damaged ones are set aside (see
    /// [`Self::skipped`]), unfinished ones removed.
    pub fn latest(&self) -> Result<Option<(u64, PathBuf)>> {
        self.tidy()?;
        for (step, path) in self.list()?.into_iter().rev() {
            match check(&path, step) {
                Ok(()) => return Ok(Some((step, path))),
                Err(reason) => {
                    let mut skipped = self.skipped.lock().unwrap_or_else(PoisonError::into_inner);
                    skipped.push(format!("skipped the checkpoint of step {step}: {reason}"));
                    // Under another name it neither counts as one to keep nor is looked at again.
                    let aside = self.dir.join(format!("step-{step}.damaged"));
                    let _ = remove_dir_if_there(&aside).and_then(|()| fs::rename(&path, &aside));
                }
            }
        }
        Ok(None)
    }

    /// Why checkpoints were skipped by [`Self::latest`].
    pub fn skipped(&self) -> Vec<String> {
        self.skipped.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The complete checkpoints, oldest first.
    fn list(&self) -> Result<Vec<(u64, PathBuf)>> {
        let mut found: Vec<(u64, PathBuf)> = self
            .names()?
            .into_iter()
            .filter_map(|name| Some((name.strip_prefix("step-")?.parse().ok()?, self.dir.join(&name))))
            .collect();
        found.sort();
        Ok(found)
    }

    fn names(&self) -> Result<Vec<String>> {
        match fs::read_dir(&self.dir) {
            Ok(entries) => Ok(entries.flatten().map(|e| e.file_name().to_string_lossy().into_owned()).collect()),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(e) => Err(e).context(|| format!("cannot list the folder {}", self.dir.display())),
        }
    }

    /// Removes what a killed process left behind.
    fn tidy(&self) -> Result<()> {
        for name in self.names()? {
            let path = self.dir.join(&name);
            if let Some(target) = name.strip_prefix('.').and_then(|rest| rest.strip_suffix(".old")) {
                crate::atomic::recover_dir(&self.dir.join(target))?;
            } else if name.starts_with("step-") && name.ends_with(".partial") {
                remove_dir_if_there(&path).context(|| format!("cannot remove {}", path.display()))?;
            }
        }
        Ok(())
    }

    fn prune(&self) -> Result<()> {
        let all = self.list()?;
        for (_, path) in &all[..all.len().saturating_sub(self.keep)] {
            remove_dir_if_there(path).context(|| format!("cannot remove {}", path.display()))?;
        }
        Ok(())
    }
}

/// Writes the list of hashes, after everything it lists is on the disk.
fn seal(dir: &Path, step: u64) -> Result<()> {
    let mut files = Vec::new();
    for (path, file) in list_files(dir)? {
        sync_file(&file)?;
        let (sha256, bytes) = hash_file(&file)?;
        files.push(FileRecord { path, bytes, sha256 });
    }
    let text = serde_json::to_vec_pretty(&Seal { step, files }).context(|| "cannot list the files".into())?;
    write_atomic(&dir.join(SEAL), &text)?;
    sync_dir(dir).context(|| format!("cannot bring {} to the disk", dir.display()))
}

/// Whether a checkpoint is as it was written; the error says what is not.
fn check(dir: &Path, step: u64) -> std::result::Result<(), String> {
    let path = dir.join(SEAL);
    let bytes = fs::read(&path).map_err(|e| format!("cannot read {}: {e}", path.display()))?;
    let seal: Seal = serde_json::from_slice(&bytes).map_err(|e| format!("{} is damaged: {e}", path.display()))?;
    if seal.step != step {
        return Err(format!("{} is that of step {}", path.display(), seal.step));
    }
    for record in &seal.files {
        let file = dir.join(&record.path);
        let (sha256, bytes) = hash_file(&file).map_err(|e| e.chain())?;
        if (&sha256, bytes) != (&record.sha256, record.bytes) {
            return Err(format!(
                "{} is damaged: expected SHA-256 {} ({} bytes), found {sha256} ({bytes} bytes)",
                file.display(),
                record.sha256,
                record.bytes
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::Error;

    fn save(checkpoints: &Checkpoints, step: u64) {
        checkpoints.save(step, |dir| write_atomic(&dir.join("model"), format!("weights {step}").as_bytes())).unwrap();
    }

    #[test]
    fn latest_is_the_newest_and_older_ones_are_pruned() {
        let dir = tempfile::tempdir().unwrap();
        let checkpoints = Checkpoints::new(dir.path().join("checkpoints"), 2);
        assert_eq!(checkpoints.latest().unwrap(), None);
        for step in [5, 20, 100, 100] {
            save(&checkpoints, step);
        }
        let (step, path) = checkpoints.latest().unwrap().unwrap();
        assert_eq!((step, fs::read_to_string(path.join("model")).unwrap().as_str()), (100, "weights 100"));
        assert_eq!(checkpoints.list().unwrap().iter().map(|c| c.0).collect::<Vec<_>>(), [20, 100]);
    }

    #[test]
    fn unfinished_checkpoint_is_removed_and_the_one_before_is_used() {
        let dir = tempfile::tempdir().unwrap();
        let checkpoints = Checkpoints::new(dir.path().to_path_buf(), 2);
        save(&checkpoints, 1);
        fs::create_dir(dir.path().join("step-2.partial")).unwrap();
        fs::write(dir.path().join("step-2.partial/model"), "wei").unwrap();
        assert_eq!(checkpoints.latest().unwrap().unwrap().0, 1);
        assert!(!dir.path().join("step-2.partial").exists());
        assert!(checkpoints.skipped().is_empty());
        let error = checkpoints.save(2, |_| Err(Error::failed("no room"))).unwrap_err();
        assert!(error.chain().contains("step 2") && error.chain().contains("no room"), "{}", error.chain());
        assert_eq!(checkpoints.latest().unwrap().unwrap().0, 1);
    }

    #[test]
    fn damaged_checkpoint_is_skipped_with_the_reason() {
        let seal_of = |dir: &Path| fs::read_to_string(dir.join(SEAL)).unwrap();
        let harms: [&dyn Fn(&Path); 4] = [
            &|d| fs::write(d.join("model"), "weights 3").unwrap(),
            &|d| fs::write(d.join("model"), "w").unwrap(),
            &|d| fs::remove_file(d.join("model")).unwrap(),
            &|d| fs::write(d.join(SEAL), &seal_of(d)[5..]).unwrap(),
        ];
        for harm in harms {
            let dir = tempfile::tempdir().unwrap();
            let checkpoints = Checkpoints::new(dir.path().to_path_buf(), 2);
            save(&checkpoints, 1);
            save(&checkpoints, 2);
            harm(&dir.path().join("step-2"));
            assert_eq!(checkpoints.latest().unwrap().unwrap().0, 1);
            assert!(checkpoints.skipped()[0].contains("step 2"), "{:?}", checkpoints.skipped());
            save(&checkpoints, 2);
            assert_eq!(checkpoints.latest().unwrap().unwrap().0, 2);
        }
    }
}
