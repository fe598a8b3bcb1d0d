//! Proof that an artifact is what its stage wrote, from what its inputs were, down to the source files.

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};

use crate::hash::{hash_file, hash_path, list_files};
use crate::manifest::{InputRecord, MANIFEST, Manifest, content_hash, is_artifact};
use crate::{Error, Result};

/// The outcome of [`verify`].
#[derive(Clone, Debug, Default)]
pub struct Verification {
    /// The artifacts that were checked, in the order they were reached.
    pub artifacts: Vec<PathBuf>,
    /// How many files were read.
    pub files: usize,
    /// How many bytes were read from the artifacts' files.
    pub bytes: u64,
    /// Everything that is not as it should be.
    pub problems: Vec<Problem>,
}

/// Something that is not as a manifest says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The file (or folder) that is wrong.
    pub file: PathBuf,
    /// What should be there.
    pub expected: String,
    /// What is there.
    pub found: String,
}

impl Verification {
    /// Whether everything is as it should be.
    pub fn is_ok(&self) -> bool {
        self.problems.is_empty()
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: expected {}, found {}", self.file.display(), self.expected, self.found)
    }
}

/// Checks an artifact (or every artifact of a run's folder) and all that it was made from.
pub fn verify(dir: &Path) -> Result<Verification> {
    let mut checker = Checker::default();
    if is_artifact(dir) {
        checker.artifact(dir, None);
        return Ok(checker.outcome);
    }
    for artifact in artifacts_in(dir)? {
        checker.artifact(&artifact, None);
    }
    if checker.outcome.artifacts.is_empty() {
        let hint = "name the folder of an artifact, e.g. runs/quickstart/pretrain.base, or of a whole run";
        return Err(Error::usage(format!("{} holds no {MANIFEST}", dir.display())).with_hint(hint));
    }
    Ok(checker.outcome)
}

/// The artifacts directly below a run's folder.
pub(crate) fn artifacts_in(dir: &Path) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(dir).map_err(|e| {
        Error::usage(format!("cannot open {}", dir.display()))
            .with_source(e)
            .with_hint("name the folder of an artifact")
    })?;
    let mut found: Vec<PathBuf> =
        entries.flatten().map(|entry| entry.path()).filter(|path| is_artifact(path)).collect();
    found.sort();
    Ok(found)
}

#[derive(Default)]
struct Checker {
    outcome: Verification,
    seen: BTreeSet<PathBuf>,
}

impl Checker {
    fn problem(&mut self, file: &Path, expected: impl Into<String>, found: impl Into<String>) {
        self.outcome.problems.push(Problem {
            file: file.to_path_buf(),
            expected: expected.into(),
            found: found.into(),
        });
    }

    /// Checks an artifact and its inputs; `expected` is the content hash that an artifact made from it has recorded.
    fn artifact(&mut self, dir: &Path, expected: Option<&str>) {
        let path = dir.join(MANIFEST);
        let manifest = match std::fs::read(&path) {
            Ok(bytes) => Manifest::from_bytes(&bytes),
            Err(e) => return self.problem(&path, "a manifest", e.to_string()),
        };
        let first = self.seen.insert(std::path::absolute(dir).unwrap_or_else(|_| dir.to_path_buf()));
        if first {
            self.outcome.artifacts.push(dir.to_path_buf());
            self.outcome.files += 1;
        }
        let manifest = match manifest {
            Ok(manifest) => manifest,
            Err(reason) if first => return self.problem(&path, "an unchanged manifest", reason),
            Err(_) => return,
        };
        if let Some(expected) = expected.filter(|hash| *hash != manifest.content_hash) {
            let found = format!("{} (made at {})", manifest.content_hash, manifest.finished);
            self.problem(dir, format!("the artifact with the content hash {expected} that was used"), found);
        }
        if !first {
            return;
        }
        let actual = content_hash(&manifest.kind, &manifest.files);
        if actual != manifest.content_hash {
            self.problem(&path, format!("the content hash {}", manifest.content_hash), actual);
        }
        self.files(dir, &manifest);
        for input in &manifest.inputs {
            self.input(dir, input);
        }
    }

    /// Checks every file of an artifact, and that there are no others.
    fn files(&mut self, dir: &Path, manifest: &Manifest) {
        for record in &manifest.files {
            let path = dir.join(&record.path);
            let expected = format!("SHA-256 {} ({} bytes)", record.sha256, record.bytes);
            if !path.exists() {
                self.problem(&path, expected, "no such file");
                continue;
            }
            match hash_file(&path) {
                Ok((sha256, bytes)) => {
                    self.outcome.files += 1;
                    self.outcome.bytes += bytes;
                    if (&sha256, bytes) != (&record.sha256, record.bytes) {
                        self.problem(&path, expected, format!("SHA-256 {sha256} ({bytes} bytes)"));
                    }
                }
                Err(error) => self.problem(&path, expected, error.chain()),
            }
        }
        let listed: BTreeSet<&str> = manifest.files.iter().map(|record| record.path.as_str()).collect();
        match list_files(dir) {
            Ok(files) => {
                for (name, path) in files.iter().filter(|(name, _)| name != MANIFEST && !listed.contains(name.as_str()))
                {
                    let bytes = std::fs::metadata(path).map_or(0, |meta| meta.len());
                    self.problem(path, format!("no file {name}, the manifest lists none"), format!("{bytes} bytes"));
                }
            }
            Err(error) => self.problem(dir, "a folder that can be listed", error.chain()),
        }
    }

    /// Checks what an artifact was made from.
    fn input(&mut self, dir: &Path, input: &InputRecord) {
        let path = input.locate(dir);
        if input.kind.is_some() {
            return self.artifact(&path, Some(&input.hash));
        }
        let expected = format!("SHA-256 {} (`{}` of {})", input.hash, input.key, dir.display());
        if !path.exists() {
            return self.problem(&path, expected, "no such file");
        }
        match hash_path(&path) {
            Ok(hash) => {
                self.outcome.files += usize::from(self.seen.insert(path.clone()));
                if hash != input.hash {
                    self.problem(&path, expected, format!("SHA-256 {hash}"));
                }
            }
            Err(error) => self.problem(&path, expected, error.chain()),
        }
    }
}
