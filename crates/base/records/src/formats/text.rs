//! Text and Markdown: a file is one record.

use std::io::{BufRead, Read};
use std::path::Path;

use cupola_artifact::{Error, Result};
use serde_json::json;

use super::{Format, Stream};
use crate::content::{Content, broken_container};
use crate::encoding::{self, Decoded};
use crate::{MAX_TEXT_BYTES, Record, invalid_utf8};

pub(crate) const FORMAT: Format = Format {
    name: "text",
    extensions: &["txt", "md"],
    searched: true,
    fits: |_| true,
    is_surely: |_| false,
    open: |content| Ok(Box::new(std::iter::once_with(move || whole(content))) as Stream),
};

fn whole(content: Content) -> Result<Record> {
    let path = content.path.clone();
    let decoded = read_text(content)?;
    let mut value = json!({ "text": decoded.text });
    if decoded.encoding != encoding::UTF_8 {
        value["encoding"] = decoded.encoding.into();
    }
    Ok(Record { source: path, line: 1, value })
}

/// All of a file's text. What is not UTF-8 is decoded where its encoding is beyond doubt, and an error elsewhere.
pub(crate) fn read_text(content: Content) -> Result<Decoded> {
    let path = content.path.clone();
    let (reader, mark) = content.into_text();
    let bytes = read_whole(&path, reader)?;
    encoding::decode(bytes).map_err(|(bytes, error)| {
        let line = 1 + bytes[..error.valid_up_to()].iter().filter(|&&b| b == b'\n').count() as u64;
        invalid_utf8(&path, line, mark, &bytes, error)
    })
}

/// All bytes of a text file, up to [`MAX_TEXT_BYTES`].
pub(crate) fn read_whole(path: &Path, reader: impl BufRead) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    reader.take(MAX_TEXT_BYTES as u64 + 1).read_to_end(&mut bytes).map_err(|error| {
        let lines = bytes.iter().filter(|&&b| b == b'\n').count() as u64;
        broken_container(path, lines, error)
    })?;
    if bytes.len() > MAX_TEXT_BYTES {
        let limit = MAX_TEXT_BYTES >> 20;
        return Err(Error::failed(format!("{}: the text is longer than {limit} MiB", path.display()))
            .with_hint("split it into several files, or use JSONL with one document per line"));
    }
    Ok(bytes)
}
