//! Files that are split into several: NAME-00001-of-00003.gguf and so on. The first says what the model is, each what it holds.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use cupola_artifact::{Error, Result};

use crate::read::Gguf;

const COUNT: &str = "split.count";
const NUMBER: &str = "split.no";
const TENSORS: &str = "split.tensors.count";

/// No model is split into more files.
const MOST: usize = 10_000;

/// The file, with the others if it is one of several.
pub fn whole(file: Gguf) -> Result<Gguf> {
    let count = file.metadata().size(COUNT)?.unwrap_or(1);
    if count < 2 {
        return Ok(file);
    }
    let paths = siblings(file.path(), count)?;
    let mut all: Option<Gguf> = None;
    for (number, path) in paths.iter().enumerate() {
        if !path.is_file() {
            return Err(Error::failed(format!(
                "{} is one of {count} files; {} is not there",
                file.path().display(),
                path.display()
            ))
            .with_hint("get all of them into one folder"));
        }
        let part = Gguf::open_one(path)?;
        let (no, of) = (part.metadata().size(NUMBER)?.unwrap_or(0), part.metadata().size(COUNT)?.unwrap_or(1));
        if (no, of) != (number, count) {
            return Err(Error::failed(format!(
                "{} says that it is number {} of {of} files, and its name {} of {count}",
                path.display(),
                no + 1,
                number + 1
            ))
            .with_hint("give the files the names that they had"));
        }
        match &mut all {
            None => all = Some(part),
            Some(all) => all.append(part),
        }
    }
    let all = all.unwrap_or(file);
    let mut seen = HashSet::new();
    if let Some(twice) = all.tensors().iter().find(|tensor| !seen.insert(tensor.name.as_str())) {
        return Err(Error::failed(format!("two parts of {} hold the tensor `{}`", all.path().display(), twice.name)));
    }
    match all.metadata().size(TENSORS)? {
        Some(said) if said != all.tensors().len() => Err(Error::failed(format!(
            "the {count} parts of {} hold {} tensors, and should hold {said}",
            all.path().display(),
            all.tensors().len()
        ))
        .with_hint("the files are of different models: get them again")),
        _ => Ok(all),
    }
}

/// The names of all the parts.
fn siblings(path: &Path, count: usize) -> Result<Vec<PathBuf>> {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let stem = name.strip_suffix(".gguf").unwrap_or(name);
    // `-00001-of-00003` takes fifteen bytes.
    let base = stem.len().checked_sub(15).and_then(|at| stem.split_at_checked(at));
    let named = base.filter(|(_, end)| {
        let digits = |text: Option<&str>| text.is_some_and(|text| text.bytes().all(|b| b.is_ascii_digit()));
        end.starts_with('-')
            && digits(end.get(1..6))
            && end.get(6..10) == Some("-of-")
            && end.get(10..15).and_then(|n| n.parse().ok()) == Some(count)
    });
    let Some((base, _)) = named.filter(|_| count <= MOST) else {
        return Err(Error::failed(format!(
            "{} is one of {count} files, but its name does not say which",
            path.display()
        ))
        .with_hint(format!("it should end with -00001-of-{count:05}.gguf")));
    };
    Ok((1..=count).map(|number| path.with_file_name(format!("{base}-{number:05}-of-{count:05}.gguf"))).collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn names_of_parts_come_from_any_of_them() {
        let found = siblings(Path::new("/m/x-00002-of-00003.gguf"), 3).unwrap();
        assert_eq!(found[0], Path::new("/m/x-00001-of-00003.gguf"));
        assert_eq!(found.len(), 3);
        for wrong in
            ["/m/x.gguf", "/m/x-00002-of-00004.gguf", "/m/-2-of-3.gguf", "/m/\u{fc}\u{fc}\u{fc}\u{fc}-of-00003.gguf"]
        {
            assert!(siblings(Path::new(wrong), 3).is_err(), "{wrong}");
        }
    }
}
