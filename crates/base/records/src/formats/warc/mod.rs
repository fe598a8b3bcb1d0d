//! Web archives: WARC (ISO 28500) with pages as they were received, and WET with their text.
//!
//! A response that is a page becomes `{"url", "html", "content_type", "date", "encoding"}`, plain text and PDF `text` in place of
//! `html`; a conversion (WET) `{"url", "text", "content_type", "date"}`. What is no document (requests, redirects, pictures) is
//! left out and counted.

mod http;
mod records;

use std::path::{Path, PathBuf};

use cupola_artifact::{Error, Result};
use serde_json::{Map, Value};

use super::{Format, Stream, html, pdf};
use crate::Record;
use crate::content::{Content, Skipped, broken_container};
use crate::encoding::decode_page;
use records::{Failure, RawRecord, RawRecords};

pub(crate) const FORMAT: Format = Format {
    name: "a web archive (WARC)",
    extensions: &["warc", "wet"],
    searched: true,
    fits: |content| content.head.is_empty() || content.text_head().trim_ascii_start().starts_with(b"WARC/"),
    is_surely: |content| content.head.starts_with(b"WARC/1.") || content.head.starts_with(b"WARC/0."),
    open: |content| Ok(Box::new(Pages::open(content)) as Stream),
};

struct Pages {
    path: PathBuf,
    records: RawRecords,
    skipped: Skipped,
    done: bool,
}

impl Pages {
    fn open(content: Content) -> Self {
        Self {
            path: content.path,
            records: RawRecords::new(content.reader, content.members),
            skipped: content.skipped,
            done: false,
        }
    }
}

impl Iterator for Pages {
    type Item = Result<Record>;

    fn next(&mut self) -> Option<Self::Item> {
        while !self.done {
            match self.records.next() {
                None => self.done = true,
                Some(Err(Failure::Container(error))) => {
                    self.done = true;
                    return Some(Err(broken_container(&self.path, self.records.number(), error)));
                }
                Some(Err(Failure::Record(what))) => return Some(Err(broken(&self.path, self.records.number(), &what))),
                Some(Ok(raw)) => {
                    let number = self.records.number();
                    match document(&raw) {
                        Ok(Found::Document(value)) => {
                            return Some(Ok(Record { source: self.path.clone(), line: number, value }));
                        }
                        Ok(Found::Other(reason)) => self.skipped.count(&reason),
                        Err(what) => return Some(Err(broken(&self.path, number, &what))),
                    }
                }
            }
        }
        None
    }
}

fn broken(path: &Path, number: u64, what: &str) -> Error {
    Error::failed(format!("{}: record {number}: broken web archive: {what}", path.display()))
        .with_hint("the records after it are read; let the stage count and skip broken ones")
}

/// What a record holds.
enum Found {
    Document(Value),
    /// No document, and why.
    Other(String),
}

fn document(raw: &RawRecord) -> Result<Found, String> {
    match raw.header("warc-type").unwrap_or_default().to_ascii_lowercase().as_str() {
        "response" => response(raw),
        "conversion" | "resource" => {
            let content_type = raw.header("content-type").unwrap_or("text/plain");
            payload(raw, &raw.block, content_type)
        }
        "" => Err("it has no WARC-Type".to_owned()),
        other => Ok(Found::Other(format!("warc_{other}"))),
    }
}

fn response(raw: &RawRecord) -> Result<Found, String> {
    if raw.header("content-type").is_some_and(|kind| !kind.to_ascii_lowercase().starts_with("application/http")) {
        return Ok(Found::Other("not_http".to_owned()));
    }
    let message = http::parse(&raw.block)?;
    if !(200..300).contains(&message.status) {
        return Ok(Found::Other(format!("http_status_{}", message.status)));
    }
    let content_type = message.header("content-type").unwrap_or_default();
    match message.body()? {
        Ok(body) => payload(raw, &body, content_type),
        Err(encoding) => Ok(Found::Other(format!("content_encoding_{encoding}"))),
    }
}

/// A document from a body and its media type with parameters, e.g. `text/html; charset=utf-8`.
fn payload(raw: &RawRecord, body: &[u8], content_type: &str) -> Result<Found, String> {
    let kind = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let charset = content_type.split(';').skip(1).find_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        name.trim().eq_ignore_ascii_case("charset").then(|| value.trim().trim_matches(['"', '\'']))
    });
    let address = raw.header("warc-target-uri").map(|a| a.trim_matches(['<', '>']));
    let mut fields = Map::new();
    if let Some(address) = address {
        fields.insert("url".to_owned(), address.into());
    }
    let is_page = matches!(kind.as_str(), "text/html" | "application/xhtml+xml");
    if is_page || (kind.is_empty() && html::looks_like(body)) {
        let decoded = decode_page(body, charset, address);
        fields.insert("html".to_owned(), decoded.text.into());
        fields.insert("encoding".to_owned(), decoded.encoding.into());
    } else if kind == "text/plain" {
        let decoded = decode_page(body, charset, address);
        fields.insert("text".to_owned(), decoded.text.into());
        fields.insert("encoding".to_owned(), decoded.encoding.into());
    } else if kind == "application/pdf" {
        fields.insert("text".to_owned(), pdf::text(body.to_vec())?.text.into());
    } else {
        return Ok(Found::Other(if kind.is_empty() { "no_content_type".to_owned() } else { kind }));
    }
    fields.insert("content_type".to_owned(), kind.into());
    if let Some(date) = raw.header("warc-date") {
        fields.insert("date".to_owned(), date.into());
    }
    Ok(Found::Document(Value::Object(fields)))
}
