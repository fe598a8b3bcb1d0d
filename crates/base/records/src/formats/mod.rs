//! Formats: how records lie in a file. One file each, one line each in [`ALL`].

mod arrow;
mod code;
mod csv;
mod docx;
mod epub;
mod html;
mod json;
mod json_lines;
mod mail;
mod parquet;
mod pdf;
mod sqlite;
mod tar;
mod text;
mod warc;
mod xml;
mod zip;

use cupola_artifact::{Error, Result};

use crate::Record;
use crate::content::Content;
use crate::encoding::wide_encoding;
use crate::packings;

pub(crate) use code::tree;
pub(crate) use zip::Zip;

/// A format of files.
pub(crate) struct Format {
    /// What it is called in messages, with its article.
    pub name: &'static str,
    /// The extensions of its files.
    pub extensions: &'static [&'static str],
    /// Whether a search through a folder or an archive takes such files.
    pub searched: bool,
    /// Whether the content can be that, for a file whose name says so.
    pub fits: fn(&Content) -> bool,
    /// Whether the content is that beyond doubt, whatever the name says.
    pub is_surely: fn(&Content) -> bool,
    /// Starts to read it.
    pub open: fn(Content) -> Result<Stream>,
}

/// Records as they are read.
pub(crate) type Stream = Box<dyn Iterator<Item = Result<Record>> + Send>;

/// All formats. Of several that recognise a content, the first is taken.
pub(crate) const ALL: &[&Format] = &[
    &text::FORMAT,
    &json_lines::FORMAT,
    &json::FORMAT,
    &csv::FORMAT,
    &csv::TABBED,
    &parquet::FORMAT,
    &arrow::FORMAT,
    &warc::FORMAT,
    &html::FORMAT,
    &pdf::FORMAT,
    &epub::FORMAT,
    &docx::FORMAT,
    &mail::FORMAT,
    &sqlite::FORMAT,
    &zip::FORMAT,
    &tar::FORMAT,
    &code::FORMAT,
];

/// The format that a lower-case file name without its packing promises; an unknown extension promises nothing.
pub(crate) fn of_name(name: &str) -> Option<&'static Format> {
    let (_, extension) = name.rsplit_once('.')?;
    ALL.iter().copied().find(|format| format.extensions.contains(&extension))
}

/// Whether a search through a folder or an archive takes a file of this name.
pub(crate) fn is_searched(name: &str) -> bool {
    of_name(&packings::of_name(&name.to_lowercase()).0).is_some_and(|format| format.searched)
}

/// The extensions that a search takes.
pub(crate) fn searched_extensions() -> Vec<&'static str> {
    ALL.iter().filter(|f| f.searched).flat_map(|f| f.extensions.iter().copied()).collect()
}

/// Starts to read a content in its format.
pub(crate) fn open(content: Content) -> Result<Stream> {
    let format = choose(&content)?;
    if format.name != warc::FORMAT.name {
        content.members.forget();
    }
    if content.query.is_some() && format.name != sqlite::FORMAT.name {
        return Err(Error::usage(format!(
            "{} is {}, which cannot be asked with `#`",
            content.path.display(),
            format.name
        ))
        .with_hint("a query after `#` is for SQLite files"));
    }
    if content.member.is_some() && ![zip::FORMAT.name, tar::FORMAT.name].contains(&format.name) {
        return Err(Error::usage(format!("{} is {}, which has no members", content.path.display(), format.name))
            .with_hint("`!` stands between an archive (zip, tar) and the name of a member"));
    }
    (format.open)(content)
}

fn choose(content: &Content) -> Result<&'static Format> {
    let named = of_name(&content.name);
    if let Some(format) = named
        && (format.fits)(content)
        && !ALL.iter().any(|other| (other.is_surely)(content) && !related(other, format))
    {
        return Ok(format);
    }
    if let Some(format) = ALL.iter().copied().find(|format| (format.is_surely)(content)) {
        return Ok(format);
    }
    let path = content.path.display();
    match named {
        Some(format) => {
            let start = String::from_utf8_lossy(&content.head[..content.head.len().min(12)]);
            Err(Error::failed(format!(
                "{path} is not {}, in spite of its name: it starts with `{}`",
                format.name,
                start.trim().escape_debug()
            ))
            .with_hint("give the file the extension of what it is, or copy it again"))
        }
        None => unnamed(content),
    }
}

/// A format and itself; and books and documents are zip archives, whose own name says more than the archive's mark.
fn related(recognised: &Format, named: &Format) -> bool {
    let zips = [zip::FORMAT.name, epub::FORMAT.name, docx::FORMAT.name];
    recognised.name == named.name || (zips.contains(&recognised.name) && zips.contains(&named.name))
}

fn unnamed(content: &Content) -> Result<&'static Format> {
    let path = content.path.display();
    match visible(content.text_head()) {
        (Some(b'{'), _) => return Ok(&json_lines::FORMAT),
        (Some(b'['), Some(b'{')) => return Ok(&json::FORMAT),
        _ => {}
    }
    if html::looks_like(&content.head) {
        return Ok(&html::FORMAT);
    }
    if mail::looks_like(&content.head) {
        return Ok(&mail::FORMAT);
    }
    if content.head.contains(&0) && wide_encoding(&content.head).is_none() {
        return Err(Error::failed(format!("{path} is binary: neither text nor a known format"))
            .with_hint(format!("known are {}", known())));
    }
    Ok(&text::FORMAT)
}

/// All extensions, for a hint.
pub(crate) fn known() -> String {
    let packings: Vec<String> = packings::ALL.iter().map(|p| format!(".{}", p.extension)).collect();
    format!("{} (each also with {})", searched_extensions().join(", "), packings.join(", "))
}

/// The first two bytes that are no white space.
pub(crate) fn visible(head: &[u8]) -> (Option<u8>, Option<u8>) {
    let mut visible = head.iter().copied().filter(|b| !b.is_ascii_whitespace());
    (visible.next(), visible.next())
}
