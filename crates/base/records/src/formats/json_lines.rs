//! JSON lines: one object per line.

use std::io::{BufRead, Read};
use std::path::{Path, PathBuf};

use cupola_artifact::{Error, Result};

use super::{Format, Stream, json, visible};
use crate::content::{Content, broken_container};
use crate::encoding::wide_encoding;
use crate::{MAX_RECORD_BYTES, Record, parse_object};

pub(crate) const FORMAT: Format = Format {
    name: "JSON lines",
    extensions: &["jsonl", "ndjson"],
    searched: true,
    fits: |_| true,
    is_surely: |_| false,
    open,
};

fn open(content: Content) -> Result<Stream> {
    // Some write an array under this name.
    if matches!(visible(content.text_head()), (Some(b'['), Some(b'{') | None)) {
        return (json::FORMAT.open)(content);
    }
    refuse_wide(&content)?;
    let path = content.path.clone();
    let (reader, mark) = content.into_text();
    Ok(Box::new(JsonLines::new(path, Box::new(reader), mark)))
}

/// JSON is UTF-8 (RFC 8259).
pub(crate) fn refuse_wide(content: &Content) -> Result<()> {
    match wide_encoding(&content.head) {
        None => Ok(()),
        Some(encoding) => {
            Err(Error::failed(format!("{} is {encoding} (seen at byte offset 0), not UTF-8", content.path.display()))
                .with_hint(format!("convert it: `iconv -f {encoding} -t UTF-8`")))
        }
    }
}

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
