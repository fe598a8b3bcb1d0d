//! Which evaluation items a data stage found in its documents.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use cupola_artifact::{Context, Error, Result};

/// The file in a data artifact: `{file: [item, …]}`, files relative to the recipe, items counted from 0.
const FILE: &str = "contamination.json";

/// The items found, by file.
pub(crate) struct Contamination {
    found: BTreeMap<PathBuf, BTreeSet<u64>>,
}

impl Contamination {
    /// Reads the index of a data artifact.
    pub fn read(artifact: &Path, recipe_dir: &Path) -> Result<Self> {
        let path = artifact.join(FILE);
        let bytes = std::fs::read(&path).map_err(|e| {
            Error::failed(format!("{} has no {FILE}", artifact.display()))
                .with_hint(
                    "the data stage needs the step `decontaminate`; with `against` naming the evaluation's files",
                )
                .with_source(e)
        })?;
        let found: BTreeMap<String, BTreeSet<u64>> =
            serde_json::from_slice(&bytes).context(|| format!("{} is damaged", path.display()))?;
        Ok(Self { found: found.into_iter().map(|(file, items)| (whole(&recipe_dir.join(file)), items)).collect() })
    }

    /// The items of a file that were found; `None` for a file that was not looked for.
    pub fn items(&self, file: &Path) -> Option<&BTreeSet<u64>> {
        self.found.get(&whole(file))
    }
}

/// The same path however it was written.
fn whole(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| path.to_path_buf())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failing test should panic")]
mod tests {
    use super::*;

    #[test]
    fn files_are_the_same_however_they_are_written() {
        let dir = tempfile::tempdir().unwrap();
        let artifact = dir.path().join("data.corpus");
        std::fs::create_dir_all(&artifact).unwrap();
        std::fs::write(dir.path().join("quiz.jsonl"), "").unwrap();
        std::fs::write(artifact.join(FILE), "{\"quiz.jsonl\": [1, 4]}").unwrap();
        let found = Contamination::read(&artifact, dir.path()).unwrap();
        assert_eq!(found.items(&artifact.join("../quiz.jsonl")), Some(&BTreeSet::from([1, 4])));
        assert_eq!(found.items(&dir.path().join("other.jsonl")), None);
        let error = Contamination::read(dir.path(), dir.path()).map(|_| ()).unwrap_err();
        assert!(error.hint().unwrap().contains("decontaminate"));
    }
}
