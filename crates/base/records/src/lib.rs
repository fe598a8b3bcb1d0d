//! Reading records from anything, and the documents in which cleaned text is handed from stage to stage.
//!
//! [`expand`] turns files, folders and globs into a list of files; [`read_records`] reads one of them, whatever its
//! format and compression, as a stream of JSON objects. Every defect is an error that names file, line and cause. After
//! a broken *record* the stream goes on, so the caller chooses between failing and counting; after a broken *container*
//! (a cut-off gzip stream, a Parquet file without a footer) it ends.
//!
//! A format is a file in `formats/`, a packing one in `packings/`, each with a line in a list.
//!
//! Memory is bounded by [`MAX_RECORD_BYTES`] per line and [`MAX_TEXT_BYTES`] per text file: compressed input is
//! decompressed as it is read, and input that unpacks more than [`MAX_UNPACK_RATIO`] to one is refused.

mod archive;
mod content;
mod documents;
mod encoding;
mod expand;
mod formats;
mod fuzz;
mod packings;
mod source;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use cupola_artifact::{Error, Result};
use serde_json::Value;

use content::{Content, Skipped};
use source::Source;

pub use documents::{
    Document, DocumentWriter, Split, TRAIN_FILE, VALIDATION_FILE, read_documents, split_by_position, total_bytes,
};
pub use expand::expand;
pub use fuzz::{Ended, read_named_by_first_byte};
pub use source::{file_of_source, source_bytes};

/// The longest line of JSONL, or element of a JSON array, in bytes: 64 MiB.
pub const MAX_RECORD_BYTES: usize = 64 << 20;

/// The longest text file that is read as one record, in bytes: 1 GiB.
pub const MAX_TEXT_BYTES: usize = 1 << 30;

/// How many bytes a compressed byte may become, once [`UNPACK_GRACE_BYTES`] have come out. Text seldom passes 20;
/// gzip's format ends at 1,032 and zstd's has no end, which is what decompression bombs are made of.
pub const MAX_UNPACK_RATIO: u64 = 500;

/// What may come out of a compressed file before [`MAX_UNPACK_RATIO`] is enforced, in bytes: 256 MiB.
pub const UNPACK_GRACE_BYTES: u64 = 256 << 20;

/// One record and where it came from.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// The file; of an archive's member `archive.zip!inner/name.jsonl`.
    pub source: PathBuf,
    /// The line it starts on, or its row in a table, or its number in a web archive; from 1.
    pub line: u64,
    /// Always an object. A text file is one record, `{"text": …}`. Of a repeated key the last value wins.
    pub value: Value,
}

/// The records of one file, in order; what [`read_records`] gives.
pub struct Records {
    stream: formats::Stream,
    skipped: Skipped,
}

impl Records {
    /// What has been left out so far because it is no document (pictures and redirects in a web archive, binary files in a
    /// tree of code, members of unknown kinds in an archive), by reason. These are no errors.
    pub fn skipped(&self) -> BTreeMap<String, u64> {
        self.skipped.counts()
    }
}

impl Iterator for Records {
    type Item = Result<Record>;

    fn next(&mut self) -> Option<Self::Item> {
        self.stream.next()
    }
}

/// Reads a source: a file of any known format, compressed or not; a member of an archive (`archive.zip!inner/name.jsonl`); a
/// query to a database (`file.sqlite#SELECT …`); a tree of source code (`code:FOLDER`).
///
/// The name says what the file is; where the content clearly is something else, the content wins if it can be read (a
/// gzip stream without `.gz`) and an error says so if not (`.gz` without a gzip stream). Text that is not UTF-8 is decoded
/// where its encoding is beyond doubt, and its record says which it was (`encoding`).
pub fn read_records(path: &Path) -> Result<Records> {
    let skipped = Skipped::default();
    let stream = match Source::of(path) {
        Source::File(file) => formats::open(Content::of_file(&file, skipped.clone())?)?,
        Source::Query(file, query) => {
            formats::open(Content { query: Some(query), ..Content::of_file(&file, skipped.clone())? })?
        }
        Source::Member(file, member) => {
            formats::open(Content { member: Some(member), ..Content::of_file(&file, skipped.clone())? })?
        }
        Source::Code(folder) => formats::tree(&folder, skipped.clone())?,
    };
    Ok(Records { stream, skipped })
}

/// Reads bytes in memory as if they were a file of that name; sources that are more than a file's name are not known here.
pub fn read_bytes(name: &str, bytes: Vec<u8>) -> Result<Records> {
    let skipped = Skipped::default();
    let stream = formats::open(Content::of_bytes(name, bytes, skipped.clone())?)?;
    Ok(Records { stream, skipped })
}

/// A zip archive, a book or a Word document, for what lies in it beside records.
pub struct Archive(formats::Zip);

impl Archive {
    /// Opens it.
    ///
    /// # Errors
    /// A file that is none, or damaged.
    pub fn open(path: &Path) -> Result<Self> {
        formats::Zip::open(Content::of_file(path, Skipped::default())?).map(Self)
    }

    /// The names of its members, in order.
    pub fn names(&self) -> impl Iterator<Item = String> {
        self.0.names()
    }

    /// A member by its name; `None` where there is none.
    ///
    /// # Errors
    /// A member that is damaged, encrypted, longer than `limit` bytes, or unpacks to suspiciously much.
    pub fn read(&mut self, name: &str, limit: usize) -> Result<Option<Vec<u8>>> {
        self.0.read(name, limit)
    }
}

/// Parses one JSON object; `offset` is where `bytes` starts in the (decompressed) file.
fn parse_object(path: &Path, line: u64, offset: u64, bytes: &[u8]) -> Result<Record> {
    let text = std::str::from_utf8(bytes).map_err(|e| invalid_utf8(path, line, offset, bytes, e))?;
    match serde_json::from_str::<Value>(text) {
        Ok(value @ Value::Object(_)) => Ok(Record { source: path.to_path_buf(), line, value }),
        Ok(other) => {
            Err(Error::failed(format!("{}: line {line} is {}, not a JSON object", path.display(), name_of(&other)))
                .with_hint("each record must be an object such as {\"text\": \"…\"}"))
        }
        Err(e) => {
            let full = e.to_string();
            let cause = full.rsplit_once(" at line ").map_or(full.as_str(), |(cause, _)| cause);
            let position = if e.line() > 1 {
                format!("line {}, column {}", line + e.line() as u64 - 1, e.column())
            } else {
                format!("line {line}, column {}", e.column())
            };
            Err(Error::failed(format!("{}: {position}: broken JSON: {cause}", path.display()))
                .with_hint("repair or remove the record, or let the stage count and skip broken ones"))
        }
    }
}

fn invalid_utf8(path: &Path, line: u64, offset: u64, bytes: &[u8], e: std::str::Utf8Error) -> Error {
    let at = e.valid_up_to();
    let byte = bytes.get(at).copied().unwrap_or_default();
    Error::failed(format!(
        "{}: line {line}: invalid UTF-8 at byte offset {} (0x{byte:02X})",
        path.display(),
        offset + at as u64
    ))
    .with_hint("the text must be UTF-8; convert it, e.g. `iconv -f latin1 -t utf-8`")
}

fn name_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}
