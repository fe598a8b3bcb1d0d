//! Reading the sources into documents.

use std::path::{Path, PathBuf};

use cupola_artifact::stage::Progress;
use cupola_artifact::{Error, Result, nearest};
use cupola_records::{Document, Record, expand, read_records};
use serde_json::Value;

use crate::config::{DataConfig, OnError};

/// Broken records that are reported one by one before the rest is only counted.
const WARNINGS: usize = 5;

/// A document on its way through the stage, or the place of one that is gone.
pub struct Item {
    /// Its text is empty once it is dropped.
    pub document: Document,
    /// Bytes of the text as read.
    pub bytes: u64,
    /// Why it was dropped.
    pub dropped: Option<&'static str>,
}

impl Item {
    /// Drops the document and frees its text.
    pub fn drop_for(&mut self, reason: &'static str) {
        self.dropped = Some(reason);
        self.document.text = String::new();
    }
}

/// Everything that was read, in order.
#[derive(Default)]
pub struct Ingested {
    pub items: Vec<Item>,
    pub files: Vec<PathBuf>,
    broken: usize,
}

/// Reads all sources.
pub fn ingest(config: &DataConfig, recipe_dir: &Path, progress: &dyn Progress) -> Result<Ingested> {
    let mut all = Ingested { files: expand(&config.sources, recipe_dir)?, ..Default::default() };
    let files = all.files.clone();
    progress.begin("reading", Some(files.len() as u64), "files");
    let result = files.iter().enumerate().try_for_each(|(i, file)| {
        let source = file.strip_prefix(recipe_dir).unwrap_or(file).display().to_string().replace('\\', "/");
        all.read(file, &source, config, progress)?;
        progress.update(i as u64 + 1, &format!("{} documents", all.items.len()));
        Ok(())
    });
    progress.end();
    if all.broken > WARNINGS {
        progress.warn(&format!("{} broken records in all were dropped", all.broken));
    }
    result.map(|()| all)
}

impl Ingested {
    fn read(&mut self, file: &Path, source: &str, config: &DataConfig, progress: &dyn Progress) -> Result<()> {
        let records = match read_records(file) {
            Ok(records) => records,
            Err(e) => return self.broken(e, source, config, progress),
        };
        for record in records {
            match record {
                Err(e) => self.broken(e, source, config, progress)?,
                Ok(record) => match document(record, source, &config.text_field) {
                    Ok(document) => {
                        let bytes = document.text.len() as u64;
                        self.items.push(Item { document, bytes, dropped: None });
                    }
                    Err(e) if config.on_error == OnError::Fail => return Err(e),
                    Err(_) => self.push_dropped(source, "no_text"),
                },
            }
        }
        Ok(())
    }

    fn broken(&mut self, error: Error, source: &str, config: &DataConfig, progress: &dyn Progress) -> Result<()> {
        if config.on_error == OnError::Fail {
            let hint = error.hint().map_or(String::new(), |hint| format!("{hint}; "));
            return Err(error.with_hint(format!("{hint}`on_error = \"skip\"` drops and counts what is broken")));
        }
        self.broken += 1;
        if self.broken <= WARNINGS {
            progress.warn(&format!("dropped: {}", error.chain()));
        }
        self.push_dropped(source, "broken_record");
        Ok(())
    }

    fn push_dropped(&mut self, source: &str, reason: &'static str) {
        let document = Document { id: String::new(), text: String::new(), source: source.to_owned() };
        self.items.push(Item { document, bytes: 0, dropped: Some(reason) });
    }
}

fn document(mut record: Record, source: &str, text_field: &str) -> Result<Document> {
    let Some(Value::String(text)) = record.value.get_mut(text_field).map(Value::take) else {
        return Err(no_text(&record, text_field));
    };
    let id = match record.value.get("id") {
        Some(Value::String(id)) => id.clone(),
        Some(Value::Number(id)) => id.to_string(),
        _ => format!("{source}:{}", record.line),
    };
    Ok(Document { id, text, source: source.to_owned() })
}

fn no_text(record: &Record, text_field: &str) -> Error {
    let place = format!("{}: line {}", record.source.display(), record.line);
    let Value::Object(fields) = &record.value else { return Error::failed(format!("{place}: not an object")) };
    if fields.contains_key(text_field) {
        return Error::failed(format!("{place}: the field `{text_field}` holds no text"))
            .with_hint("`on_error = \"skip\"` drops and counts such records");
    }
    let strings: Vec<&str> = fields.iter().filter(|(_, v)| v.is_string()).map(|(name, _)| name.as_str()).collect();
    let error = Error::failed(format!("{place}: there is no field `{text_field}`"));
    match nearest(text_field, strings.iter().copied()) {
        Some(near) => error.with_hint(format!("did you mean `text_field = \"{near}\"`?")),
        None if strings.is_empty() => error.with_hint("`on_error = \"skip\"` drops and counts such records"),
        None => error.with_hint(format!("set `text_field` to one of: {}", strings.join(", "))),
    }
}
