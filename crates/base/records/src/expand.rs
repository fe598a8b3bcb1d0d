//! From what a recipe says (`corpus/*.txt`, a folder, a file) to a list of files.

use std::collections::{BTreeSet, HashSet};
use std::path::{Path, PathBuf};

use cupola_artifact::{Context, Error, Result};

use crate::formats;
use crate::source::Source;

/// Below this similarity (0 to 1) a file name is no plausible misspelling of another.
const SIMILAR: f64 = 0.5;

/// The files that `sources` name, relative to `base`: files, folders (searched recursively for known extensions, hidden
/// files left out) and globs. The sources keep their order, the files of each are sorted, and no file comes twice. What
/// [`crate::read_records`] reads beside files (`code:FOLDER`, `archive.zip!member`, `file.sqlite#SELECT …`) stays as it is.
///
/// A source that names nothing is an error with the nearest existing name as a hint.
pub fn expand(sources: &[String], base: &Path) -> Result<Vec<PathBuf>> {
    let mut seen = HashSet::new();
    let mut files = Vec::new();
    for source in sources {
        let found = expand_one(source, base)?;
        if found.is_empty() {
            return Err(nothing_found(source, base));
        }
        files.extend(found.into_iter().filter(|file| seen.insert(file.clone())));
    }
    Ok(files)
}

fn expand_one(source: &str, base: &Path) -> Result<BTreeSet<PathBuf>> {
    let mut found = BTreeSet::new();
    if let Some(special) = Source::special(source, base) {
        found.insert(special);
        return Ok(found);
    }
    let path = base.join(source);
    if path.is_dir() {
        walk(&path, &mut HashSet::new(), &mut found)?;
    } else if path.exists() {
        found.insert(path);
    } else if is_glob(source) {
        let pattern = if Path::new(source).is_absolute() {
            source.to_owned()
        } else {
            format!("{}/{source}", glob::Pattern::escape(&base.to_string_lossy()))
        };
        let options = glob::MatchOptions {
            require_literal_separator: true,
            require_literal_leading_dot: true,
            ..Default::default()
        };
        let matches = glob::glob_with(&pattern, options)
            .map_err(|e| Error::usage(format!("`{source}` is not a valid pattern: {e}")))?;
        for entry in matches {
            let entry = entry.context(|| format!("cannot read what `{source}` matches"))?;
            if entry.is_file() {
                found.insert(entry);
            }
        }
    }
    Ok(found)
}

fn is_glob(source: &str) -> bool {
    source.contains(['*', '?', '['])
}

fn walk(folder: &Path, visited: &mut HashSet<PathBuf>, found: &mut BTreeSet<PathBuf>) -> Result<()> {
    let cannot = || format!("cannot read the folder {}", folder.display());
    // A link that leads back up must not send the search round in circles.
    if !visited.insert(folder.canonicalize().context(cannot)?) {
        return Ok(());
    }
    for entry in std::fs::read_dir(folder).context(cannot)? {
        let entry = entry.context(cannot)?;
        if entry.file_name().to_string_lossy().starts_with('.') {
            continue;
        }
        let path = entry.path();
        if path.is_dir() {
            walk(&path, visited, found)?;
        } else if has_known_extension(&path) {
            found.insert(path);
        }
    }
    Ok(())
}

fn has_known_extension(path: &Path) -> bool {
    formats::is_searched(&path.file_name().unwrap_or_default().to_string_lossy())
}

fn nothing_found(source: &str, base: &Path) -> Error {
    let path = base.join(source);
    if path.is_dir() {
        return Error::usage(format!("the folder `{source}` holds no file that can be read"))
            .with_hint(format!("known are {}; `code:{source}` reads source code", formats::known()));
    }
    let what = if is_glob(source) { "matches no file" } else { "does not exist" };
    let error = Error::usage(format!("the source `{source}` {what} (looked in {})", base.display()));
    match nearest_path(&path) {
        Some(near) => {
            error.with_hint(format!("did you mean `{}`?", near.strip_prefix(base).unwrap_or(&near).display()))
        }
        None => error.with_hint("relative paths start from the recipe's folder"),
    }
}

/// The existing path most like `path`: a neighbour of the first part that does not exist.
pub(crate) fn nearest_path(path: &Path) -> Option<PathBuf> {
    let missing = path.ancestors().find(|p| p.parent().is_some_and(Path::is_dir))?;
    let wanted = missing.file_name()?.to_string_lossy().to_lowercase();
    std::fs::read_dir(missing.parent()?)
        .ok()?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| !path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.')))
        .map(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
            (strsim::normalized_damerau_levenshtein(&wanted, &name), path)
        })
        .filter(|(similarity, _)| *similarity >= SIMILAR)
        // Of two equally near names the first in the alphabet, whatever order the folder lists them in.
        .max_by(|a, b| a.0.total_cmp(&b.0).then_with(|| b.1.cmp(&a.1)))
        .map(|(_, path)| path)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failing test should panic")]
mod tests {
    use super::*;

    fn folder(names: &[&str]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for name in names {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "x").unwrap();
        }
        dir
    }

    fn names(sources: &[&str], dir: &Path) -> Vec<String> {
        let sources: Vec<String> = sources.iter().map(|s| (*s).to_owned()).collect();
        let files = expand(&sources, dir).unwrap();
        files.iter().map(|f| f.strip_prefix(dir).unwrap().display().to_string()).collect()
    }

    #[test]
    fn folders_are_searched_recursively_and_sorted() {
        let dir = folder(&["c/b.txt", "c/a/z.jsonl.gz", "c/picture.png", "c/.hidden.txt", "c/a.parquet"]);
        assert_eq!(names(&["c"], dir.path()), ["c/a/z.jsonl.gz", "c/a.parquet", "c/b.txt"]);
    }

    #[test]
    fn sources_keep_their_order_and_no_file_comes_twice() {
        let dir = folder(&["a.txt", "b.txt", "c.txt"]);
        assert_eq!(names(&["c.txt", "*.txt"], dir.path()), ["c.txt", "a.txt", "b.txt"]);
    }

    #[test]
    fn a_file_whose_name_looks_like_a_pattern_is_found() {
        let dir = folder(&["a[1].txt"]);
        assert_eq!(names(&["a[1].txt"], dir.path()), ["a[1].txt"]);
    }

    #[test]
    fn a_misspelt_source_is_an_error_with_the_nearest_name() {
        let dir = folder(&["corpus.txt", "other.md"]);
        let error = expand(&["corpsu.txt".to_owned()], dir.path()).unwrap_err();
        assert!(error.chain().contains("corpsu.txt"), "{}", error.chain());
        assert_eq!(error.hint(), Some("did you mean `corpus.txt`?"));
    }

    #[test]
    fn a_pattern_in_a_misspelt_folder_hints_at_the_folder() {
        let dir = folder(&["corpus/a.txt"]);
        let error = expand(&["corpos/*.txt".to_owned()], dir.path()).unwrap_err();
        assert_eq!(error.hint(), Some("did you mean `corpus`?"));
    }

    #[cfg(unix)]
    #[test]
    fn a_link_to_the_parent_does_not_loop() {
        let dir = folder(&["c/a.txt"]);
        std::os::unix::fs::symlink(dir.path().join("c"), dir.path().join("c/up")).unwrap();
        assert_eq!(names(&["c"], dir.path()), ["c/a.txt"]);
    }
}
