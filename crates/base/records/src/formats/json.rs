//! JSON files: an array of objects, or objects one after the other; one element in memory at a time.

use std::io::Read;
use std::path::PathBuf;

use cupola_artifact::{Error, Result};

use super::json_lines::{refuse_wide, too_long};
use super::{Format, Stream, visible};
use crate::content::{Content, broken_container};
use crate::{MAX_RECORD_BYTES, Record, parse_object};

pub(crate) const FORMAT: Format = Format {
    name: "JSON",
    extensions: &["json"],
    searched: true,
    fits: |content| matches!(visible(content.text_head()).0, None | Some(b'{' | b'[' | 0xFF | 0xFE | 0)),
    is_surely: |_| false,
    open,
};

fn open(content: Content) -> Result<Stream> {
    refuse_wide(&content)?;
    let path = content.path.clone();
    Ok(Box::new(JsonValues::new(path, content.into_text().0)))
}

/// Finds where each element starts and ends, which needs only brackets and quotes, and leaves the rest to the parser: so
/// a broken element does not hide those after it, and a deeply nested one costs no stack.
pub(crate) struct JsonValues {
    path: PathBuf,
    bytes: Bytes,
    /// Inside `[ … ]`; unknown before the first byte.
    in_array: Option<bool>,
    /// An element has been read, so a comma must come before the next.
    after_element: bool,
    done: bool,
}

impl JsonValues {
    pub fn new(path: PathBuf, reader: impl Read + Send + 'static) -> Self {
        let bytes = Bytes { reader: Box::new(reader), buffer: vec![0; 64 << 10], at: 0, end: 0, line: 1, offset: 0 };
        Self { path, bytes, in_array: None, after_element: false, done: false }
    }

    fn structural(&mut self, what: &str) -> Option<Result<Record>> {
        self.done = true;
        let message = format!("{}: line {}: broken JSON: {what}", self.path.display(), self.bytes.line);
        Some(Err(Error::failed(message).with_hint("the file may be cut off; check it with a JSON validator")))
    }

    /// The next element's first byte, past brackets and commas; `None` at the end.
    fn seek(&mut self) -> std::io::Result<Result<Option<u8>, &'static str>> {
        loop {
            let Some(byte) = self.bytes.peek()? else {
                return Ok(if self.in_array == Some(true) { Err("the array has no end") } else { Ok(None) });
            };
            match byte {
                _ if byte.is_ascii_whitespace() => {}
                b'[' if self.in_array.is_none() => self.in_array = Some(true),
                b']' if self.in_array == Some(true) => {
                    self.bytes.bump();
                    return self.only_space_follows();
                }
                b',' if self.in_array == Some(true) && self.after_element => self.after_element = false,
                b',' => return Ok(Err("a comma where an element should be")),
                _ if self.in_array == Some(true) && self.after_element => {
                    return Ok(Err("no comma between two elements"));
                }
                _ => {
                    self.in_array.get_or_insert(false);
                    return Ok(Ok(Some(byte)));
                }
            }
            self.bytes.bump();
        }
    }

    fn only_space_follows(&mut self) -> std::io::Result<Result<Option<u8>, &'static str>> {
        while let Some(byte) = self.bytes.peek()? {
            if !byte.is_ascii_whitespace() {
                return Ok(Err("something follows the array"));
            }
            self.bytes.bump();
        }
        Ok(Ok(None))
    }

    /// Copies the element into `element`; false when it is over the limit or the file ends inside it.
    fn element(&mut self, first: u8, element: &mut Vec<u8>) -> std::io::Result<Option<&'static str>> {
        let (mut depth, mut in_string, mut escaped) = (0_u64, false, false);
        let scalar = !matches!(first, b'{' | b'[' | b'"');
        while let Some(byte) = self.bytes.peek()? {
            if scalar && (byte.is_ascii_whitespace() || matches!(byte, b',' | b']' | b'}')) {
                break;
            }
            element.push(byte);
            self.bytes.bump();
            if element.len() > MAX_RECORD_BYTES {
                return Ok(Some("too long"));
            }
            match byte {
                _ if escaped => escaped = false,
                b'\\' if in_string => escaped = true,
                b'"' => in_string = !in_string,
                b'{' | b'[' if !in_string => depth += 1,
                b'}' | b']' if !in_string => depth = depth.saturating_sub(1),
                _ => {}
            }
            if !scalar && depth == 0 && !in_string {
                return Ok(None);
            }
        }
        // A stray closing bracket is an element of its own, for the parser to reject.
        if element.is_empty() {
            element.push(first);
            self.bytes.bump();
        }
        Ok(if scalar { None } else { Some("the file ends inside an element") })
    }
}

impl Iterator for JsonValues {
    type Item = Result<Record>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        let first = match self.seek() {
            Ok(Ok(Some(first))) => first,
            Ok(Ok(None)) => {
                self.done = true;
                return None;
            }
            Ok(Err(what)) => return self.structural(what),
            Err(error) => {
                self.done = true;
                return Some(Err(broken_container(&self.path, self.bytes.line, error)));
            }
        };
        let (line, offset) = (self.bytes.line, self.bytes.offset);
        let mut element = Vec::new();
        match self.element(first, &mut element) {
            Ok(None) => {}
            Ok(Some("too long")) => {
                self.done = true;
                return Some(Err(too_long(&self.path, line, MAX_RECORD_BYTES)));
            }
            Ok(Some(what)) => return self.structural(&format!("{what} that starts on line {line}")),
            Err(error) => {
                self.done = true;
                return Some(Err(broken_container(&self.path, self.bytes.line, error)));
            }
        }
        self.after_element = true;
        Some(parse_object(&self.path, line, offset, &element))
    }
}

/// Single bytes with the line they are on.
struct Bytes {
    reader: Box<dyn Read + Send>,
    buffer: Vec<u8>,
    at: usize,
    end: usize,
    line: u64,
    offset: u64,
}

impl Bytes {
    fn peek(&mut self) -> std::io::Result<Option<u8>> {
        while self.at == self.end {
            match self.reader.read(&mut self.buffer) {
                Ok(0) => return Ok(None),
                Ok(n) => (self.at, self.end) = (0, n),
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(Some(self.buffer[self.at]))
    }

    /// Past the byte that `peek` showed.
    fn bump(&mut self) {
        self.line += u64::from(self.buffer[self.at] == b'\n');
        self.offset += 1;
        self.at += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> (Vec<u64>, Vec<String>) {
        let (mut lines, mut errors) = (Vec::new(), Vec::new());
        for result in JsonValues::new("f.json".into(), std::io::Cursor::new(text.as_bytes().to_vec())) {
            match result {
                Ok(record) => lines.push(record.line),
                Err(e) => errors.push(e.chain()),
            }
        }
        (lines, errors)
    }

    #[test]
    fn an_array_gives_its_objects_with_their_lines() {
        let (lines, errors) = read("[\n {\"a\": \"],}[\\\"\"},\n\n {\"b\": [1, {}]}\n]\n");
        assert_eq!((lines, errors.len()), (vec![2, 4], 0));
    }

    #[test]
    fn objects_one_after_the_other_are_records() {
        assert_eq!(read("{\n\"a\": 1\n}\n{\"b\": 2}").0, [1, 4]);
    }

    #[test]
    fn a_broken_element_does_not_hide_the_others() {
        let (lines, errors) = read("[{\"a\": 1},\n{\"b\" 2},\n17,\n{\"c\": 3}]");
        assert_eq!(lines, [1, 4]);
        assert!(errors[0].contains("line 2") && errors[1].contains("a number"), "{errors:?}");
    }

    #[test]
    fn a_cut_off_array_keeps_what_came_before() {
        for cut in ["[{\"a\": 1}, {\"b\"", "[{\"a\": 1}", "[{\"a\": 1},"] {
            let (lines, errors) = read(cut);
            assert_eq!((lines.len(), errors.len()), (1, 1), "{cut}");
        }
    }

    #[test]
    fn wrong_structure_is_an_error_and_ends() {
        for wrong in ["[,]", "[{} {}]", "[{}] {}", "]", "}}}", "[}]", "[[[[", "{} ]"] {
            assert!(!read(wrong).1.is_empty(), "{wrong}");
        }
    }

    #[test]
    fn deep_nesting_is_an_error_and_not_a_stack_overflow() {
        let deep = format!("[{{\"a\": {}{}}}, {{}}]", "[".repeat(100_000), "]".repeat(100_000));
        let (lines, errors) = read(&deep);
        assert_eq!((lines.len(), errors.len()), (1, 1));
    }
}
