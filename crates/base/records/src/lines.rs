//! JSON lines, and whole text files.

use std::io::{BufRead, Read};
use std::path::{Path, PathBuf};

use cupola_artifact::{Error, Result};
use serde_json::json;

use crate::open::broken_container;
use crate::{MAX_RECORD_BYTES, MAX_TEXT_BYTES, Record, invalid_utf8, parse_object};

/// One object per line; blank lines are skipped.
pub(crate) struct JsonLines {
    path: PathBuf,
    reader: Box<dyn BufRead + Send>,
    /// Lines read so far.
    line: u64,
    /// Where the next line starts, bytes.
    offset: u64,
    buffer: Vec<u8>,
    done: bool,
    limit: usize,
}

impl JsonLines {
    pub fn new(path: PathBuf, reader: Box<dyn BufRead + Send>, offset: u64) -> Self {
        Self { path, reader, line: 0, offset, buffer: Vec::new(), done: false, limit: MAX_RECORD_BYTES }
    }

    fn end(&mut self, error: std::io::Error) -> Option<Result<Record>> {
        self.done = true;
        Some(Err(broken_container(&self.path, self.line, error)))
    }

    /// Reads past the rest of a line that is over the limit.
    fn skip_line(&mut self) -> std::io::Result<()> {
        loop {
            let available = self.reader.fill_buf()?;
            let end = available.iter().position(|&b| b == b'\n');
            let n = end.map_or(available.len(), |i| i + 1);
            self.reader.consume(n);
            self.offset += n as u64;
            if end.is_some() || n == 0 {
                return Ok(());
            }
        }
    }
}

impl Iterator for JsonLines {
    type Item = Result<Record>;

    fn next(&mut self) -> Option<Self::Item> {
        while !self.done {
            self.buffer.clear();
            let limit = self.limit as u64 + 1;
            let n = match (&mut self.reader).take(limit).read_until(b'\n', &mut self.buffer) {
                Ok(0) => break,
                Ok(n) => n,
                Err(error) => return self.end(error),
            };
            let start = self.offset;
            self.offset += n as u64;
            self.line += 1;
            if n as u64 == limit && self.buffer.last() != Some(&b'\n') {
                self.buffer = Vec::new();
                if let Err(error) = self.skip_line() {
                    return self.end(error);
                }
                return Some(Err(too_long(&self.path, self.line, self.limit)));
            }
            if !self.buffer.trim_ascii().is_empty() {
                // Without its line end, which would count as a second line in the parser's position.
                let content = self.buffer.trim_ascii_end();
                return Some(parse_object(&self.path, self.line, start, content));
            }
        }
        None
    }
}

pub(crate) fn too_long(path: &Path, line: u64, limit: usize) -> Error {
    Error::failed(format!("{}: the record on line {line} is longer than {} MiB", path.display(), limit >> 20))
        .with_hint("split it into several records")
}

/// A text file as one record.
pub(crate) fn whole_text(path: PathBuf, reader: Box<dyn BufRead + Send>, skipped: u64) -> Result<Record> {
    let mut bytes = Vec::new();
    reader.take(MAX_TEXT_BYTES as u64 + 1).read_to_end(&mut bytes).map_err(|error| {
        let lines = bytes.iter().filter(|&&b| b == b'\n').count() as u64;
        broken_container(&path, lines, error)
    })?;
    if bytes.len() > MAX_TEXT_BYTES {
        let limit = MAX_TEXT_BYTES >> 20;
        return Err(Error::failed(format!("{}: the text is longer than {limit} MiB", path.display()))
            .with_hint("split it into several files, or use JSONL with one document per line"));
    }
    match String::from_utf8(bytes) {
        Ok(text) => Ok(Record { source: path, line: 1, value: json!({ "text": text }) }),
        Err(e) => {
            let line = 1 + e.as_bytes()[..e.utf8_error().valid_up_to()].iter().filter(|&&b| b == b'\n').count() as u64;
            Err(invalid_utf8(&path, line, skipped, e.as_bytes(), e.utf8_error()))
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failing test should panic")]
mod tests {
    use super::*;

    #[test]
    fn a_line_over_the_limit_is_an_error_and_the_next_line_is_read() {
        let text = format!("{{\"a\":1}}\n{{\"b\":\"{}\"}}\n{{\"c\":3}}\n", "x".repeat(300_000));
        let mut lines = JsonLines::new("f.jsonl".into(), Box::new(std::io::Cursor::new(text.into_bytes())), 0);
        lines.limit = 1000;
        let results: Vec<_> = lines.collect();
        assert_eq!(results.len(), 3);
        assert!(results[1].as_ref().unwrap_err().chain().contains("line 2"));
        assert_eq!(results[2].as_ref().unwrap().line, 3);
    }

    #[test]
    fn a_line_of_exactly_the_limit_is_read() {
        let mut lines =
            JsonLines::new("f.jsonl".into(), Box::new(std::io::Cursor::new(b"{\"a\":1}\n{\"a\":2}".to_vec())), 0);
        lines.limit = 7;
        assert_eq!(lines.filter(Result::is_ok).count(), 2);
    }
}
