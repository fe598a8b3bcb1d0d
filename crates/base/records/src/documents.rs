//! Documents: what the data stage hands to the stages after it.
//!
//! A data artifact holds `train.jsonl.zst` and `validation.jsonl.zst`, one `{"id", "text", "source"}` per line.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use cupola_artifact::{Context, Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{Record, expand, read_records};

/// The training documents' file in a data artifact.
pub const TRAIN_FILE: &str = "train.jsonl.zst";

/// The validation documents' file in a data artifact.
pub const VALIDATION_FILE: &str = "validation.jsonl.zst";

/// The share of the bytes that is held out when there is no data artifact to say otherwise.
const DEFAULT_VALIDATION_FRACTION: f64 = 0.1;

/// zstd's default; higher levels cost more time than they save space on text.
const COMPRESSION_LEVEL: i32 = 3;

/// A text with its name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Document {
    /// Its own `id` if the record had one, else where it was found.
    pub id: String,
    /// The text.
    pub text: String,
    /// The file it came from.
    pub source: String,
    /// What else is known of it: `url`, `language`, `date`, `license`, ….
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub fields: Map<String, Value>,
}

impl Document {
    /// A document of which nothing else is known.
    pub fn new(id: impl Into<String>, text: impl Into<String>, source: impl Into<String>) -> Self {
        Self { id: id.into(), text: text.into(), source: source.into(), fields: Map::new() }
    }

    /// A field that holds text.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.get(name).and_then(Value::as_str)
    }
}

/// Which part of the documents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Split {
    /// To learn from.
    Train,
    /// Held out, to measure on.
    Validation,
}

impl Split {
    /// The file in a data artifact.
    pub fn file(self) -> &'static str {
        match self {
            Self::Train => TRAIN_FILE,
            Self::Validation => VALIDATION_FILE,
        }
    }
}

/// Writes documents one by one; the file appears under its name only when [`DocumentWriter::finish`] has been called.
pub struct DocumentWriter {
    path: PathBuf,
    partial: PathBuf,
    encoder: Option<zstd::stream::write::Encoder<'static, BufWriter<File>>>,
}

impl DocumentWriter {
    /// Starts a file.
    pub fn create(path: &Path) -> Result<Self> {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        // The form in which the files of an interrupted run are recognised and swept away.
        let partial = path.with_file_name(format!(".{name}.partial"));
        let cannot = || format!("cannot write {}", path.display());
        let file = File::create(&partial).context(cannot)?;
        let mut encoder = zstd::stream::write::Encoder::new(BufWriter::new(file), COMPRESSION_LEVEL).context(cannot)?;
        encoder.include_checksum(true).context(cannot)?;
        Ok(Self { path: path.to_path_buf(), partial, encoder: Some(encoder) })
    }

    /// Adds a document.
    pub fn write(&mut self, document: &Document) -> Result<()> {
        let cannot = || format!("cannot write {}", self.path.display());
        let Some(encoder) = &mut self.encoder else { return Ok(()) };
        serde_json::to_writer(&mut *encoder, document).map_err(std::io::Error::from).context(cannot)?;
        encoder.write_all(b"\n").context(cannot)
    }

    /// Completes the file; its size in bytes, as compressed.
    pub fn finish(mut self) -> Result<u64> {
        let cannot = || format!("cannot write {}", self.path.display());
        let Some(encoder) = self.encoder.take() else { return Ok(0) };
        let buffered = encoder.finish().context(cannot)?;
        let file = buffered.into_inner().map_err(std::io::IntoInnerError::into_error).context(cannot)?;
        file.sync_all().context(cannot)?;
        let bytes = file.metadata().context(cannot)?.len();
        std::fs::rename(&self.partial, &self.path).context(cannot)?;
        Ok(bytes)
    }
}

impl Drop for DocumentWriter {
    fn drop(&mut self) {
        // After `finish` there is nothing under this name any more.
        let _ = std::fs::remove_file(&self.partial);
    }
}

/// The documents of one split, of a data artifact's folder or of anything that [`read_records`] reads.
///
/// What is not a data artifact is split by position: the last tenth of the bytes is the validation split, the rest the
/// training split, so that no text is in both. Any broken record is an error.
pub fn read_documents(dir_or_file: &Path, split: Split) -> Result<Vec<Document>> {
    let in_artifact = dir_or_file.join(split.file());
    if in_artifact.is_file() {
        return read_artifact_file(&in_artifact);
    }
    if [TRAIN_FILE, VALIDATION_FILE].iter().any(|name| dir_or_file.join(name).is_file()) {
        return Err(Error::failed(format!("{} has no {}", dir_or_file.display(), split.file()))
            .with_hint("the data artifact is incomplete: run the data stage again"));
    }
    let (folder, name) = match (dir_or_file.parent(), dir_or_file.file_name()) {
        (Some(folder), Some(name)) => (folder, name.to_string_lossy().into_owned()),
        _ => (dir_or_file, ".".to_owned()),
    };
    let mut documents = Vec::new();
    for file in expand(&[name], folder)? {
        let source = file.strip_prefix(folder).unwrap_or(&file).display().to_string();
        for record in read_records(&file)? {
            documents.push(document(record?, &source)?);
        }
    }
    let (train, validation) = split_by_position(documents, DEFAULT_VALIDATION_FRACTION);
    let chosen = match split {
        Split::Train => train,
        Split::Validation => validation,
    };
    if chosen.is_empty() {
        return Err(Error::failed(format!("{} holds no text", dir_or_file.display()))
            .with_hint("check that the file is the one you mean and that it is not empty"));
    }
    Ok(chosen)
}

fn read_artifact_file(path: &Path) -> Result<Vec<Document>> {
    read_records(path)?
        .map(|record| {
            let record = record?;
            let line = record.line;
            serde_json::from_value(record.value)
                .context(|| format!("{}: line {line} is not a document", path.display()))
        })
        .collect()
}

fn document(mut record: Record, source: &str) -> Result<Document> {
    let place = format!("{source}:{}", record.line);
    match record.value.get_mut("text").map(Value::take) {
        Some(Value::String(text)) => {
            let id = match record.value.get("id") {
                Some(Value::String(id)) => id.clone(),
                Some(Value::Number(id)) => id.to_string(),
                _ => place,
            };
            Ok(Document::new(id, text, source))
        }
        _ => Err(Error::failed(format!(
            "{}: line {} has no text in the field `text`",
            record.source.display(),
            record.line
        ))
        .with_hint("the data stage reads other fields: set its `text_field`")),
    }
}

/// Cuts the documents, laid end to end, so that the last `validation_fraction` of the bytes is the second part.
///
/// The cut is after `floor((1 - validation_fraction) * total)` bytes, moved back to the start of a character where it
/// would fall inside one. A document it goes through becomes two; the second half's id ends in `+`.
pub fn split_by_position(documents: Vec<Document>, validation_fraction: f64) -> (Vec<Document>, Vec<Document>) {
    let total = total_bytes(&documents);
    let cut = ((1.0 - validation_fraction) * total as f64).floor() as u64;
    let (mut train, mut validation, mut before) = (Vec::new(), Vec::new(), 0);
    for mut document in documents {
        let length = document.text.len() as u64;
        let at = document.text.floor_char_boundary(usize::try_from(cut.saturating_sub(before)).unwrap_or(usize::MAX));
        before += length;
        if at == 0 && length > 0 {
            validation.push(document);
        } else if at as u64 >= length {
            train.push(document);
        } else {
            let text = document.text.split_off(at);
            validation.push(Document { id: format!("{}+", document.id), text, ..document.clone() });
            train.push(document);
        }
    }
    (train, validation)
}

/// The bytes of the documents' texts together.
pub fn total_bytes(documents: &[Document]) -> u64 {
    documents.iter().map(|document| document.text.len() as u64).sum()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failing test should panic")]
mod tests {
    use super::*;

    fn doc(id: &str, text: &str) -> Document {
        Document::new(id, text, "s")
    }

    #[test]
    fn what_was_written_is_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let documents = vec![doc("a", "line\n\"quoted\" \u{1F600}"), doc("b", "")];
        for split in [Split::Train, Split::Validation] {
            let mut writer = DocumentWriter::create(&dir.path().join(split.file())).unwrap();
            documents.iter().for_each(|d| writer.write(d).unwrap());
            assert!(writer.finish().unwrap() > 0);
        }
        assert_eq!(read_documents(dir.path(), Split::Train).unwrap(), documents);
        assert_eq!(read_documents(dir.path(), Split::Validation).unwrap(), documents);
    }

    #[test]
    fn an_unfinished_file_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = DocumentWriter::create(&dir.path().join(TRAIN_FILE)).unwrap();
        writer.write(&doc("a", "x")).unwrap();
        drop(writer);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn the_last_tenth_of_one_text_is_cut_at_the_exact_byte() {
        let text: String = (0..1_115_394_u32).map(|i| char::from(b'a' + (i % 26) as u8)).collect();
        let (train, validation) = split_by_position(vec![doc("t", &text)], 0.1);
        assert_eq!((train[0].text.len(), validation[0].text.len()), (1_003_854, 111_540));
        assert_eq!(format!("{}{}", train[0].text, validation[0].text), text);
        assert_eq!(validation[0].id, "t+");
    }

    #[test]
    fn a_cut_between_documents_cuts_none_and_inside_a_character_moves_back() {
        let (train, validation) = split_by_position(vec![doc("a", "12345"), doc("b", "67890")], 0.5);
        assert_eq!((train, validation), (vec![doc("a", "12345")], vec![doc("b", "67890")]));
        let (train, validation) = split_by_position(vec![doc("a", "aé")], 0.3);
        assert_eq!((train[0].text.as_str(), validation[0].text.as_str()), ("a", "é"));
        assert_eq!(split_by_position(vec![doc("a", "é")], 0.0).1, vec![]);
    }

    #[test]
    fn a_plain_file_is_split_by_position_without_overlap() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("plain.txt");
        std::fs::write(&path, "0123456789").unwrap();
        assert_eq!(read_documents(&path, Split::Train).unwrap()[0].text, "012345678");
        assert_eq!(read_documents(&path, Split::Validation).unwrap()[0].text, "9");
    }
}
