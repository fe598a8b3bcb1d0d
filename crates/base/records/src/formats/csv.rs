//! Tables of text: a row is a record with the header's names as keys and text as values (RFC 4180).

use std::io::{BufRead, BufReader, Cursor, Read};
use std::path::PathBuf;

use csv_core::{ReadRecordResult, Reader, ReaderBuilder};
use cupola_artifact::{Error, Result};
use serde_json::{Map, Value};

use super::json_lines::too_long;
use super::{Format, Stream};
use crate::content::{Content, READ_BUFFER_BYTES, broken_container};
use crate::encoding::{self, UTF_8};
use crate::{MAX_RECORD_BYTES, Record};

/// The most columns of a table.
const MAX_COLUMNS: usize = 1 << 16;

pub(crate) const FORMAT: Format = Format {
    name: "CSV",
    extensions: &["csv"],
    searched: true,
    fits: |_| true,
    is_surely: |_| false,
    open: |content| open(content, None),
};

/// The same with tabs. Such files know no quoting (IANA text/tab-separated-values): a quote is a character like any other.
pub(crate) const TABBED: Format = Format {
    name: "TSV",
    extensions: &["tsv", "tab"],
    searched: true,
    fits: |_| true,
    is_surely: |_| false,
    open: |content| open(content, Some(b'\t')),
};

fn open(content: Content, separator: Option<u8>) -> Result<Stream> {
    let path = content.path.clone();
    let found = match std::str::from_utf8(&content.head) {
        Ok(_) => None,
        // The head may end inside a character.
        Err(e) if e.error_len().is_none() => None,
        Err(_) => encoding::confident(&content.head),
    };
    let wide =
        encoding::wide_encoding(&content.head).and_then(|name| encoding_rs::Encoding::for_label(name.as_bytes()));
    let (reader, encoding): (Box<dyn BufRead + Send>, _) = match wide.or(found) {
        None => (Box::new(content.into_text().0), UTF_8),
        Some(encoding) => {
            let decoding = Decoding { inner: content.reader, decoder: encoding.new_decoder(), ended: false };
            (Box::new(BufReader::with_capacity(READ_BUFFER_BYTES, decoding)), encoding.name())
        }
    };
    Ok(Box::new(Rows::open(path, reader, separator, encoding)?))
}

/// Decodes to UTF-8 as it is read.
struct Decoding<R> {
    inner: R,
    decoder: encoding_rs::Decoder,
    ended: bool,
}

impl<R: Read> Read for Decoding<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        // A byte becomes at most three, and some are kept back.
        let mut raw = vec![0; (buffer.len() / 3).saturating_sub(16).clamp(1, READ_BUFFER_BYTES / 4)];
        while !self.ended {
            let n = self.inner.read(&mut raw)?;
            self.ended = n == 0;
            let (_, read, written, _) = self.decoder.decode_to_utf8(&raw[..n], buffer, self.ended);
            if read < n {
                return Err(std::io::Error::other("the decoder's buffer is too small"));
            }
            if written > 0 {
                return Ok(written);
            }
        }
        Ok(0)
    }
}

struct Rows {
    path: PathBuf,
    reader: Box<dyn BufRead + Send>,
    parser: Reader,
    names: Vec<String>,
    /// The fields of a row, one after the other, and where each ends.
    fields: Vec<u8>,
    ends: Vec<usize>,
    encoding: &'static str,
    done: bool,
}

/// What the parser came to.
enum Row {
    /// A row: the line it starts on, the bytes of its fields, and how many there are.
    Fields(u64, usize, usize),
    TooLong(u64),
    End,
}

impl Rows {
    fn open(
        path: PathBuf,
        mut reader: Box<dyn BufRead + Send>,
        separator: Option<u8>,
        encoding: &'static str,
    ) -> Result<Self> {
        let mut line = Vec::new();
        let limit = MAX_RECORD_BYTES as u64;
        (&mut reader).take(limit).read_until(b'\n', &mut line).map_err(|e| broken_container(&path, 0, e))?;
        let quoting = separator != Some(b'\t');
        let separator = separator.unwrap_or_else(|| likely_separator(&line));
        let parser = ReaderBuilder::new().delimiter(separator).quoting(quoting).build();
        let reader: Box<dyn BufRead + Send> = Box::new(Cursor::new(line).chain(reader));
        let (fields, ends) = (vec![0; 4096], vec![0; 64]);
        let mut rows = Self { path, reader, parser, names: Vec::new(), fields, ends, encoding, done: false };
        rows.names = rows.header()?;
        Ok(rows)
    }

    fn header(&mut self) -> Result<Vec<String>> {
        let path = self.path.display().to_string();
        let (length, count) = match self.row().map_err(|e| broken_container(&self.path, 0, e))? {
            Row::Fields(_, length, count) => (length, count),
            Row::End => return Ok(Vec::new()),
            Row::TooLong(line) => return Err(too_long(&self.path, line, MAX_RECORD_BYTES)),
        };
        let mut names: Vec<String> = Vec::with_capacity(count);
        for field in split(&self.fields[..length], &self.ends[..count]) {
            let name = std::str::from_utf8(field).map_err(|_| {
                Error::failed(format!("{path}: line 1: the header is not UTF-8"))
                    .with_hint("convert the file, e.g. `iconv -f latin1 -t utf-8`")
            })?;
            let name = name.trim();
            if names.iter().any(|other| other == name) {
                return Err(Error::failed(format!("{path}: line 1: two columns are called `{name}`"))
                    .with_hint("the first line must name the columns, each differently"));
            }
            names.push(name.to_owned());
        }
        Ok(names)
    }

    fn row(&mut self) -> std::io::Result<Row> {
        let (mut length, mut count, mut started) = (0, 0, None);
        loop {
            let input = self.reader.fill_buf()?;
            let at_end = input.is_empty();
            // Blank lines come before the row.
            let blank =
                if started.is_none() { input.iter().take_while(|b| matches!(b, b'\n' | b'\r')).count() } else { 0 };
            if blank > 0 {
                let lines = input[..blank].iter().filter(|b| **b == b'\n').count() as u64;
                self.reader.consume(blank);
                self.parser.set_line(self.parser.line() + lines);
                continue;
            }
            let line = *started.get_or_insert(self.parser.line());
            let (result, read, written, ended) =
                self.parser.read_record(input, &mut self.fields[length..], &mut self.ends[count..]);
            self.reader.consume(read);
            length += written;
            count += ended;
            match result {
                ReadRecordResult::Record => return Ok(Row::Fields(line, length, count)),
                ReadRecordResult::End => return Ok(Row::End),
                ReadRecordResult::InputEmpty if at_end && count == 0 && length == 0 => return Ok(Row::End),
                ReadRecordResult::InputEmpty => {}
                ReadRecordResult::OutputFull if length >= MAX_RECORD_BYTES => return Ok(Row::TooLong(line)),
                ReadRecordResult::OutputFull => self.fields.resize(2 * self.fields.len(), 0),
                ReadRecordResult::OutputEndsFull if count >= MAX_COLUMNS => return Ok(Row::TooLong(line)),
                ReadRecordResult::OutputEndsFull => self.ends.resize(2 * self.ends.len(), 0),
            }
        }
    }

    fn record(&self, line: u64, length: usize, count: usize) -> Result<Record> {
        let place = || format!("{}: line {line}", self.path.display());
        if count != self.names.len() {
            let error = Error::failed(format!(
                "{}: the row has {count} fields, but the header names {} columns",
                place(),
                self.names.len()
            ));
            let spans_lines = self.fields[..length].contains(&b'\n');
            return Err(error.with_hint(match spans_lines {
                true => "a field goes over several lines: is a quote never closed?",
                false => "quote fields that hold the separator; the first line must name the columns",
            }));
        }
        let mut value = Map::with_capacity(count + 1);
        for (name, field) in self.names.iter().zip(split(&self.fields[..length], &self.ends[..count])) {
            let text = std::str::from_utf8(field).map_err(|e| {
                Error::failed(format!("{}: column `{name}` is not UTF-8", place()))
                    .with_hint("convert the file, e.g. `iconv -f latin1 -t utf-8`")
                    .with_source(e)
            })?;
            value.insert(name.clone(), Value::from(text));
        }
        if self.encoding != UTF_8 {
            value.entry("encoding").or_insert_with(|| self.encoding.into());
        }
        Ok(Record { source: self.path.clone(), line, value: Value::Object(value) })
    }
}

impl Iterator for Rows {
    type Item = Result<Record>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done || self.names.is_empty() {
            return None;
        }
        let line = self.parser.line();
        match self.row() {
            Ok(Row::Fields(line, length, count)) => Some(self.record(line, length, count)),
            Ok(Row::End) => {
                self.done = true;
                None
            }
            Ok(Row::TooLong(line)) => {
                self.done = true;
                Some(Err(too_long(&self.path, line, MAX_RECORD_BYTES)))
            }
            Err(error) => {
                self.done = true;
                Some(Err(broken_container(&self.path, line, error)))
            }
        }
    }
}

fn split<'a>(fields: &'a [u8], ends: &'a [usize]) -> impl Iterator<Item = &'a [u8]> {
    std::iter::once(0).chain(ends.iter().copied()).zip(ends).map(|(start, end)| &fields[start..*end])
}

/// Of comma, semicolon, tab and bar the one that comes most often in the header outside quotes.
fn likely_separator(line: &[u8]) -> u8 {
    let count = |separator: u8| {
        let mut quoted = false;
        line.iter()
            .filter(|b| {
                quoted ^= **b == b'"';
                !quoted && **b == separator
            })
            .count()
    };
    // Of equals the last wins, so the usual one stands there.
    b"|\t;,".iter().copied().max_by_key(|separator| count(*separator)).unwrap_or(b',')
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failing test should panic")]
mod tests {
    use super::*;

    fn rows(text: &str, separator: Option<u8>) -> Vec<Result<Record>> {
        let reader = Box::new(Cursor::new(text.as_bytes().to_vec()));
        Rows::open("t.csv".into(), reader, separator, UTF_8).unwrap().collect()
    }

    #[test]
    fn rows_have_the_lines_they_start_on() {
        let rows = rows("a,b\n\n1,\"x\ny\"\r\n\n2,z\n", None);
        let lines: Vec<u64> = rows.iter().map(|r| r.as_ref().unwrap().line).collect();
        assert_eq!(lines, [3, 6]);
        assert_eq!(rows[0].as_ref().unwrap().value, serde_json::json!({ "a": "1", "b": "x\ny" }));
    }

    #[test]
    fn a_row_that_is_too_wide_or_too_short_is_an_error_with_its_line() {
        let rows = rows("a;b\n1;2;3\n4\n5;6", None);
        assert_eq!(rows.len(), 3);
        assert!(rows[0].as_ref().unwrap_err().chain().contains("line 2: the row has 3 fields"));
        assert!(rows[1].as_ref().unwrap_err().chain().contains("line 3: the row has 1 fields"));
        assert_eq!(rows[2].as_ref().unwrap().value["b"], "6");
    }

    #[test]
    fn a_quote_in_a_table_with_tabs_is_a_character() {
        let rows = rows("a\tb\n\"so\tit \"is\"\nx\ty\n", Some(b'\t'));
        assert_eq!(rows[0].as_ref().unwrap().value, serde_json::json!({ "a": "\"so", "b": "it \"is\"" }));
        assert_eq!(rows.len(), 2);
    }

    #[test]
    fn a_field_larger_than_the_buffers_is_read() {
        let long = "y".repeat(100_000);
        let columns: Vec<String> = (0..200).map(|i| format!("c{i}")).collect();
        let values: Vec<&str> = (0..200).map(|_| "v").collect();
        let rows = rows(&format!("{},z\n{},{long}\n", columns.join(","), values.join(",")), None);
        assert_eq!(rows[0].as_ref().unwrap().value["z"], long.as_str());
    }

    #[test]
    fn two_columns_of_the_same_name_are_an_error() {
        let reader = Box::new(Cursor::new(b"a,a\n1,2\n".to_vec()));
        assert!(Rows::open("t.csv".into(), reader, None, UTF_8).is_err());
    }
}
