//! Parquet files through the row interface: every row an object with its columns as keys.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use cupola_artifact::{Error, Result};
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::reader::{ReaderIter, TreeBuilder};
use parquet::record::{Field, Row};
use serde_json::{Map, Value};

use super::{Format, Stream};
use crate::Record;
use crate::content::Content;

pub(crate) const FORMAT: Format = Format {
    name: "a Parquet file",
    extensions: &["parquet"],
    searched: true,
    // Its end says more than its beginning: the reader is the judge.
    fits: |_| true,
    is_surely: |content| content.head.starts_with(b"PAR1"),
    open: |content| Ok(Box::new(ParquetRecords::open(content)?) as Stream),
};

/// The rows of a file, one row group after the other. A damaged row group is one error, and the next group is read.
pub(crate) struct ParquetRecords {
    path: PathBuf,
    reader: SerializedFileReader<std::fs::File>,
    next_group: usize,
    rows: Option<ReaderIter>,
    /// Rows before the current group, and rows read of it.
    before: u64,
    read: u64,
}

impl ParquetRecords {
    fn open(content: Content) -> Result<Self> {
        let path = content.path.clone();
        let file = content.into_file()?;
        let reader = guard(&path, "the footer", || SerializedFileReader::new(file))?;
        Ok(Self { path, reader, next_group: 0, rows: None, before: 0, read: 0 })
    }

    fn open_group(&mut self) -> Result<ReaderIter> {
        let (path, reader, group) = (&self.path, &self.reader, self.next_group);
        self.next_group += 1;
        let metadata = reader.metadata().row_group(group);
        let rows = metadata.num_rows();
        // Rows that no column has values for would be handed out as nulls for as long as the footer asks.
        if rows < 0 || metadata.columns().iter().any(|column| column.num_values() < rows) {
            return Err(damaged(path, &group_name(group), "the footer claims more rows than there are values"));
        }
        guard(path, &group_name(group), || {
            let group = reader.get_row_group(group)?;
            TreeBuilder::new().as_iter(reader.metadata().file_metadata().schema_descr_ptr(), &*group)
        })
    }

    fn next_row(&mut self) -> Option<Result<Row>> {
        let group = group_name(self.next_group.saturating_sub(1));
        let rows = self.rows.as_mut()?;
        match guard(&self.path, &group, || Ok(rows.next())) {
            Ok(None) => None,
            Ok(Some(Ok(row))) => Some(Ok(row)),
            Ok(Some(Err(e))) => Some(Err(damaged(&self.path, &group, &e.to_string()))),
            Err(e) => Some(Err(e)),
        }
    }
}

impl Iterator for ParquetRecords {
    type Item = Result<Record>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            match self.next_row() {
                Some(Ok(row)) => {
                    self.read += 1;
                    let line = self.before + self.read;
                    return Some(Ok(Record { source: self.path.clone(), line, value: object(row) }));
                }
                Some(Err(e)) => {
                    self.rows = None;
                    return Some(Err(e));
                }
                None => {}
            }
            self.rows = None;
            if self.next_group > 0 {
                let rows = self.reader.metadata().row_group(self.next_group - 1).num_rows();
                self.before += u64::try_from(rows).unwrap_or(0);
            }
            self.read = 0;
            if self.next_group == self.reader.metadata().num_row_groups() {
                // Nothing is left, however often this is called again.
                self.before = 0;
                return None;
            }
            match self.open_group() {
                Ok(rows) => self.rows = Some(rows),
                Err(e) => return Some(Err(e)),
            }
        }
    }
}

fn group_name(group: usize) -> String {
    format!("row group {group}")
}

fn damaged(path: &Path, part: &str, cause: &str) -> Error {
    Error::failed(format!("{}: {part} of the Parquet file is damaged: {cause}", path.display()))
        .with_hint("copy or write the file again; the other row groups can be read")
}

/// Runs a call into the reader, which panics on some damaged files instead of returning an error.
fn guard<T>(path: &Path, part: &str, call: impl FnOnce() -> parquet::errors::Result<T>) -> Result<T> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(e)) => Err(damaged(path, part, &e.to_string())),
        Err(_) => Err(damaged(path, part, "the reader gave up on its content")),
    }
}

fn object(row: Row) -> Value {
    Value::Object(row.into_columns().into_iter().map(|(name, field)| (name, value(&field))).collect::<Map<_, _>>())
}

/// Dates, times and decimals become their text; bytes become text if they are UTF-8 (older writers mark no strings) and
/// null if not.
fn value(field: &Field) -> Value {
    match field {
        Field::Null => Value::Null,
        Field::Bool(b) => Value::from(*b),
        Field::Byte(n) => Value::from(*n),
        Field::Short(n) => Value::from(*n),
        Field::Int(n) => Value::from(*n),
        Field::Long(n) => Value::from(*n),
        Field::UByte(n) => Value::from(*n),
        Field::UShort(n) => Value::from(*n),
        Field::UInt(n) => Value::from(*n),
        Field::ULong(n) => Value::from(*n),
        Field::Float16(x) => Value::from(f32::from(*x)),
        Field::Float(x) => Value::from(*x),
        Field::Double(x) => Value::from(*x),
        Field::Str(s) => Value::from(s.as_str()),
        Field::Bytes(b) => std::str::from_utf8(b.data()).map_or(Value::Null, Value::from),
        Field::Group(row) => row.get_column_iter().map(|(name, field)| (name.clone(), value(field))).collect(),
        Field::ListInternal(list) => list.elements().iter().map(value).collect(),
        Field::MapInternal(map) => map.entries().iter().map(|(k, v)| (key(k), value(v))).collect(),
        other => Value::from(other.to_string()),
    }
}

fn key(field: &Field) -> String {
    match value(field) {
        Value::String(s) => s,
        other => other.to_string(),
    }
}
