//! Reading the sources, a chunk of documents at a time.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};

use cupola_artifact::{Error, Result, nearest};
use cupola_records::{Document, Record, Records, expand, file_of_source, read_records, source_bytes};
use serde_json::{Map, Value};

use super::part::MAX_DOCUMENTS;
use crate::collect::LocalFile;
use crate::config::{DataConfig, OnError};

/// Bytes of text in a chunk: enough that parts are few, little enough that a chunk for each thread is no burden.
const CHUNK_BYTES: u64 = 8 << 20;

/// Bytes on disk of small files that are read as one group.
const GROUP_BYTES: u64 = 4 << 20;

/// A file, and what documents call it.
#[derive(Clone, Debug)]
pub struct SourceFile {
    /// Where it is.
    pub path: PathBuf,
    /// Its path relative to the recipe, or its address.
    pub name: String,
    /// Bytes on disk.
    pub bytes: u64,
    /// Which of the recipe's sources names it first.
    pub source: usize,
}

/// All files that the sources name, in order, no file twice; `collected` has those of sources that lie elsewhere.
pub fn files(config: &DataConfig, recipe_dir: &Path, collected: &[Option<Vec<LocalFile>>]) -> Result<Vec<SourceFile>> {
    let mut seen = HashSet::new();
    let mut files = Vec::new();
    for (number, source) in config.sources.iter().enumerate() {
        if let Some(Some(local)) = collected.get(number) {
            let new = local.iter().filter(|file| seen.insert(file.path.clone()));
            files.extend(new.map(|LocalFile { path, name, bytes }| SourceFile {
                path: path.clone(),
                name: name.clone(),
                bytes: *bytes,
                source: number,
            }));
            continue;
        }
        for path in expand(&[source.path().to_owned()], recipe_dir)? {
            if seen.insert(path.clone()) {
                let name = path.strip_prefix(recipe_dir).unwrap_or(&path).display().to_string().replace('\\', "/");
                let bytes = source_bytes(&path)?;
                files.push(SourceFile { path, name, bytes, source: number });
            }
        }
    }
    Ok(files)
}

/// Divides the files into groups that are read one after the other: a large file alone, small ones together.
pub fn groups(files: &[SourceFile]) -> Vec<&[SourceFile]> {
    let mut groups = Vec::new();
    let (mut start, mut bytes) = (0, 0);
    for (i, file) in files.iter().enumerate() {
        bytes += file.bytes;
        if bytes >= GROUP_BYTES {
            groups.push(&files[start..=i]);
            (start, bytes) = (i + 1, 0);
        }
    }
    if start < files.len() {
        groups.push(&files[start..]);
    }
    groups
}

/// What was read where a document was expected.
#[derive(Debug)]
pub enum Read {
    /// A document.
    Document(Document),
    /// A record that is broken or without text: the source, the reason it is counted under, and the error.
    Broken(String, &'static str, String),
    /// What a file held beside documents, by kind: no errors.
    Skipped(BTreeMap<String, u64>),
}

/// Reads a group of files.
pub struct GroupReader<'a> {
    files: std::slice::Iter<'a, SourceFile>,
    current: Option<(&'a SourceFile, Records)>,
    config: &'a DataConfig,
    next: Option<Read>,
}

impl<'a> GroupReader<'a> {
    /// Starts with the group's first file.
    pub fn new(files: &'a [SourceFile], config: &'a DataConfig) -> Self {
        Self { files: files.iter(), current: None, config, next: None }
    }

    /// The next chunk, and whether it is the last; where chunks end depends on the files alone.
    pub fn chunk(&mut self) -> Result<(Vec<Read>, bool)> {
        let (mut chunk, mut bytes) = (Vec::new(), 0);
        loop {
            let read = match self.next.take() {
                Some(read) => read,
                None => match self.read()? {
                    Some(read) => read,
                    None => return Ok((chunk, true)),
                },
            };
            bytes += size(&read);
            chunk.push(read);
            if bytes >= CHUNK_BYTES || chunk.len() == MAX_DOCUMENTS {
                self.next = self.read()?;
                return Ok((chunk, self.next.is_none()));
            }
        }
    }

    fn read(&mut self) -> Result<Option<Read>> {
        loop {
            let Some((file, records)) = &mut self.current else {
                let Some(file) = self.files.next() else { return Ok(None) };
                match read_records(&file.path) {
                    Ok(records) => self.current = Some((file, records)),
                    Err(e) => return broken(e, &file.name, "broken_record", self.config).map(Some),
                }
                continue;
            };
            let file = *file;
            match records.next() {
                None => {
                    let skipped = records.skipped();
                    self.current = None;
                    if !skipped.is_empty() {
                        return Ok(Some(Read::Skipped(skipped)));
                    }
                }
                Some(Err(e)) => return broken(e, &file.name, "broken_record", self.config).map(Some),
                Some(Ok(record)) => {
                    let name = name_of(&record, file);
                    return Ok(Some(match document(record, &name, &self.config.text_field) {
                        Ok(document) => Read::Document(document),
                        Err(e) => match self.config.on_error {
                            OnError::Fail => return Err(e),
                            OnError::Skip => Read::Broken(name, "no_text", e.chain()),
                        },
                    }));
                }
            }
        }
    }
}

/// What a record's document calls its source: the file, the member of an archive, the file of a tree.
fn name_of(record: &Record, file: &SourceFile) -> String {
    let (source, whole) = (record.source.display().to_string(), file.path.display().to_string());
    if let Some(member) = source.strip_prefix(&whole) {
        return format!("{}{member}", file.name);
    }
    match record.source.strip_prefix(file_of_source(&file.path)) {
        Ok(inside) => format!("{}/{}", file.name, inside.display()),
        Err(_) => source,
    }
    .replace('\\', "/")
}

fn size(read: &Read) -> u64 {
    match read {
        Read::Document(document) => {
            (document.text.len() + document.field("html").map_or(0, str::len) + document.id.len()) as u64
        }
        Read::Broken(_, _, error) => error.len() as u64,
        Read::Skipped(_) => 0,
    }
}

fn broken(error: Error, source: &str, reason: &'static str, config: &DataConfig) -> Result<Read> {
    match config.on_error {
        OnError::Skip => Ok(Read::Broken(source.to_owned(), reason, error.chain())),
        OnError::Fail => {
            let hint = error.hint().map_or(String::new(), |hint| format!("{hint}; "));
            Err(error.with_hint(format!("{hint}`on_error = \"skip\"` sets aside and counts what is broken")))
        }
    }
}

/// A record as a document: its text, its name, and all else that it says as fields. A page has the field `html` in
/// place of a text.
fn document(mut record: Record, source: &str, text_field: &str) -> Result<Document> {
    let text = match record.value.get_mut(text_field).map(Value::take) {
        Some(Value::String(text)) => text,
        None if record.value.get("html").is_some_and(Value::is_string) => String::new(),
        Some(other) => {
            record.value[text_field] = other;
            return Err(no_text(&record, text_field));
        }
        None => return Err(no_text(&record, text_field)),
    };
    let id = match record.value.get("id") {
        Some(Value::String(id)) => id.clone(),
        Some(Value::Number(id)) => id.to_string(),
        _ => format!("{source}:{}", record.line),
    };
    let mut fields = Map::new();
    if let Value::Object(all) = record.value {
        for (name, value) in all {
            match value {
                // The fields of a document that a data stage wrote.
                Value::Object(inner) if name == "fields" => fields.extend(inner),
                Value::Null => {}
                value if name != "id" && name != text_field => drop(fields.insert(name, value)),
                _ => {}
            }
        }
    }
    Ok(Document { id, text, source: source.to_owned(), fields })
}

fn no_text(record: &Record, text_field: &str) -> Error {
    let place = format!("{}: line {}", record.source.display(), record.line);
    let Value::Object(fields) = &record.value else { return Error::failed(format!("{place}: not an object")) };
    let skip = "`on_error = \"skip\"` sets aside and counts such records";
    if fields.contains_key(text_field) {
        return Error::failed(format!("{place}: the field `{text_field}` holds no text")).with_hint(skip);
    }
    let strings: Vec<&str> = fields.iter().filter(|(_, v)| v.is_string()).map(|(name, _)| name.as_str()).collect();
    let error = Error::failed(format!("{place}: there is no field `{text_field}`"));
    match nearest(text_field, strings.iter().copied()) {
        Some(near) => error.with_hint(format!("did you mean `text_field = \"{near}\"`?")),
        None if strings.is_empty() => error.with_hint(skip),
        None => error.with_hint(format!("set `text_field` to one of: {}", strings.join(", "))),
    }
}
