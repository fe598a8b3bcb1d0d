//! HTML pages: the page as it is; what its main text is, the data stage finds.

use cupola_artifact::Result;
use serde_json::json;

use super::text::read_whole;
use super::{Format, Stream};
use crate::Record;
use crate::content::{Content, READ_BUFFER_BYTES};
use crate::encoding::decode_page;

pub(crate) const FORMAT: Format = Format {
    name: "HTML",
    extensions: &["html", "htm", "xhtml"],
    searched: true,
    fits: |_| true,
    is_surely: |_| false,
    open: |content| Ok(Box::new(std::iter::once_with(move || page(content))) as Stream),
};

fn page(content: Content) -> Result<Record> {
    let path = content.path;
    let reader = std::io::BufReader::with_capacity(READ_BUFFER_BYTES, content.reader);
    let decoded = decode_page(&read_whole(&path, reader)?, None, None);
    Ok(Record { source: path, line: 1, value: json!({ "html": decoded.text, "encoding": decoded.encoding }) })
}

/// Whether bytes begin as pages do.
pub(crate) fn looks_like(head: &[u8]) -> bool {
    let start = String::from_utf8_lossy(&head[..head.len().min(512)]).to_ascii_lowercase();
    let start = start.trim_start_matches('\u{FEFF}').trim_start();
    ["<!doctype html", "<html", "<head>", "<body"].iter().any(|mark| start.starts_with(mark))
}
