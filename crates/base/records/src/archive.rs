//! What zip and tar archives share: which members are read, what they are called, and what is refused.

use std::io::Read;
use std::path::{Path, PathBuf};

use cupola_artifact::{Error, Result, nearest};

use crate::content::{Content, Skipped};
use crate::formats::{self, Stream};
use crate::packings::Budget;

/// A member of an archive.
pub(crate) struct Member<'a> {
    pub name: &'a str,
    pub is_file: bool,
    pub is_link: bool,
}

/// `archive.zip!inner/name.jsonl`.
pub(crate) fn member_path(archive: &Path, name: &str) -> PathBuf {
    PathBuf::from(format!("{}!{name}", archive.display()))
}

/// Whether a member is to be read: a file that a search through a folder would take, too. Others are counted.
///
/// # Errors
/// A name that leads out of the archive, and a link: neither is followed, and who packs them means no good or is mistaken.
fn is_wanted(archive: &Path, member: &Member<'_>, skipped: &Skipped) -> Result<bool> {
    let shown = || member_path(archive, &member.name.escape_debug().to_string()).display().to_string();
    if leads_out(member.name) {
        return Err(Error::failed(format!("{}: the name leads out of the archive", shown()))
            .with_hint("such archives are made to overwrite files: do not unpack it, pack the documents again"));
    }
    let file_name = member.name.rsplit('/').next().unwrap_or_default();
    let known = formats::is_searched(file_name);
    if member.is_link && known {
        return Err(Error::failed(format!("{} is a link, which is not followed", shown()))
            .with_hint("pack the file that it names in its place"));
    }
    if !member.is_file {
        return Ok(false);
    }
    let hidden =
        member.name.split('/').any(|part| part.starts_with('.') && part != ".") || member.name.starts_with("__MACOSX/");
    if hidden || !known {
        skipped.count("archive_member_of_unknown_kind");
        return Ok(false);
    }
    Ok(true)
}

/// An absolute path, a drive, or a step up.
pub(crate) fn leads_out(name: &str) -> bool {
    let name = name.replace('\\', "/");
    let drive = name.as_bytes().get(1) == Some(&b':') && name.as_bytes()[0].is_ascii_alphabetic();
    name.starts_with('/') || drive || name.contains('\0') || name.split('/').any(|part| part == "..")
}

/// An archive within an archive is how a small file becomes petabytes.
pub(crate) fn refuse_nested(content: &Content) -> Result<()> {
    match content.in_archive {
        false => Ok(()),
        true => Err(Error::failed(format!("{} is an archive within an archive", content.path.display()))
            .with_hint("unpack the outer one first")),
    }
}

/// Which members are read, and whether any was.
pub(crate) struct Wanted {
    archive: PathBuf,
    /// The name of the only one; all if none is named.
    only: Option<String>,
    /// Names that are not it, for a hint.
    others: Vec<String>,
    skipped: Skipped,
    found: bool,
}

/// How many names are kept for a hint.
const MAX_OTHERS: usize = 10_000;

impl Wanted {
    pub fn new(content: &Content) -> Self {
        Self {
            archive: content.path.clone(),
            only: content.member.clone(),
            others: Vec::new(),
            skipped: content.skipped.clone(),
            found: false,
        }
    }

    /// Whether a member is to be read.
    ///
    /// # Errors
    /// A member that is refused.
    pub fn takes(&mut self, member: &Member<'_>) -> Result<bool> {
        let taken = match &self.only {
            Some(name) if name != member.name => {
                if self.others.len() < MAX_OTHERS {
                    self.others.push(member.name.to_owned());
                }
                Ok(false)
            }
            // One that is asked for by its name need not be of a kind that a search would take.
            Some(_) if member.is_file && !leads_out(member.name) => Ok(true),
            _ => is_wanted(&self.archive, member, &self.skipped),
        };
        // An error says enough; there is no need to say at the end that nothing was found.
        self.found |= !matches!(taken, Ok(false));
        taken
    }

    /// Starts to read a member.
    pub fn open(&self, name: &str, raw: Box<dyn Read + Send>, budget: &Budget) -> Result<Stream> {
        let path = member_path(&self.archive, name);
        formats::open(Content::of_member(path, raw, budget.clone(), self.skipped.clone())?)
    }

    /// At the end of the archive: an error if nothing was read. Once.
    pub fn missing(&mut self) -> Option<Error> {
        if std::mem::replace(&mut self.found, true) {
            return None;
        }
        let archive = self.archive.display();
        let Some(name) = &self.only else {
            return Some(
                Error::failed(format!("the archive {archive} holds no file that can be read"))
                    .with_hint(format!("known are {}", formats::known())),
            );
        };
        let error = Error::failed(format!("the archive {archive} has no member `{name}`"));
        Some(match nearest(name, self.others.iter().map(String::as_str)) {
            Some(near) => error.with_hint(format!("did you mean `{archive}!{near}`?")),
            None => error.with_hint("a member is named with its folders, as `unzip -l` or `tar -tf` shows it"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_lead_out_are_known() {
        for bad in ["../a.txt", "a/../../b.txt", "/etc/passwd", "C:\\a.txt", "..\\a.txt", "a/..", "a\0.txt"] {
            assert!(leads_out(bad), "{bad:?}");
        }
        for good in ["a.txt", "a/b..c/d.txt", "./a.txt", "...txt"] {
            assert!(!leads_out(good), "{good:?}");
        }
    }
}
