//! PDF: the text of all pages in reading order.

mod glyphs;
mod layout;

use std::io::Read;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use cupola_artifact::{Error, Result};
use hayro_interpret::hayro_syntax::{LoadPdfError, Pdf};
use serde_json::{Map, Value};

use super::{Format, Stream};
use crate::content::Content;
use crate::packings::Budget;
use crate::{MAX_TEXT_BYTES, Record};

/// The largest file that is read, bytes: 256 MiB.
const MAX_PDF_BYTES: usize = 256 << 20;

/// The longest time for a file. Of books a page takes some milliseconds.
const MAX_TIME: Duration = Duration::from_secs(60);

/// The most glyphs of a page: a full page of newsprint has 30,000.
const MAX_GLYPHS: usize = 1 << 20;

pub(crate) const FORMAT: Format = Format {
    name: "a PDF",
    extensions: &["pdf"],
    searched: true,
    fits: |content| content.head[..content.head.len().min(1024)].windows(5).any(|w| w == b"%PDF-"),
    is_surely: |content| content.head.starts_with(b"%PDF-"),
    open: |content| Ok(Box::new(std::iter::once_with(move || record(content))) as Stream),
};

/// What was found in a file.
pub(super) struct Found {
    pub text: String,
    title: Option<String>,
    pages: usize,
}

fn record(content: Content) -> Result<Record> {
    let (path, bytes) = content.into_bytes(MAX_PDF_BYTES)?;
    let found = text(bytes).map_err(|what| {
        Error::failed(format!("{}: {what}", path.display())).with_hint("open it in a PDF reader, or leave it out")
    })?;
    let mut value = Map::new();
    value.insert("text".to_owned(), found.text.into());
    value.extend(found.title.map(|title| ("title".to_owned(), title.into())));
    value.insert("pages".to_owned(), found.pages.into());
    Ok(Record { source: path, line: 1, value: Value::Object(value) })
}

/// The text of a file, or what is wrong with it. Whatever the file is, this ends, and soon.
pub(super) fn text(bytes: Vec<u8>) -> std::result::Result<Found, String> {
    check_streams(&bytes)?;
    match catch_unwind(AssertUnwindSafe(|| read(bytes))) {
        Ok(result) => result,
        // What the glyphs' reader threw to get out.
        Err(thrown) => match thrown.downcast::<glyphs::Abandoned>() {
            Ok(abandoned) => Err(abandoned.why().to_owned()),
            Err(_) => Err("broken PDF: the reader gave up on its content".to_owned()),
        },
    }
}

fn read(bytes: Vec<u8>) -> std::result::Result<Found, String> {
    let deadline = Instant::now() + MAX_TIME;
    let pdf = Pdf::new(bytes).map_err(|error| match error {
        LoadPdfError::Decryption(_) => "the PDF is protected by a password".to_owned(),
        LoadPdfError::Invalid => "broken PDF: its structure cannot be read".to_owned(),
    })?;
    let pages = glyphs::pages(&pdf, deadline, MAX_GLYPHS);
    let (mut text, mut unknown, mut known) = (String::new(), 0, 0);
    for page in pages {
        unknown += page.unknown;
        known += page.glyphs.len();
        let laid_out = layout::text(page);
        if !text.is_empty() && !laid_out.is_empty() {
            text.push_str("\n\n");
        }
        text.push_str(&laid_out);
        if text.len() > MAX_TEXT_BYTES {
            return Err(format!("the PDF's text is longer than {} MiB", MAX_TEXT_BYTES >> 20));
        }
    }
    if text.trim().is_empty() {
        return Err(match pdf.pages().is_empty() {
            true => "broken PDF: it has no page".to_owned(),
            false => "the PDF has no text: its pages are pictures".to_owned(),
        });
    }
    if unknown > known {
        return Err("the PDF's fonts do not say which characters they show".to_owned());
    }
    let title = pdf.metadata().title.as_deref().map(title).filter(|title| !title.is_empty());
    Ok(Found { text, title, pages: pdf.pages().len() })
}

/// A text string (PDF 32000-1, 7.9.2): UTF-16 or UTF-8 with a mark, else near enough Latin 1.
fn title(bytes: &[u8]) -> String {
    let decoded = match encoding_rs::Encoding::for_bom(bytes) {
        Some((encoding, mark)) => encoding.decode_without_bom_handling(&bytes[mark..]).0,
        None => encoding_rs::WINDOWS_1252.decode_without_bom_handling(bytes).0,
    };
    decoded.trim().to_owned()
}

/// Unpacks every compressed stream once without keeping it: the reader would set up whatever they come to.
fn check_streams(bytes: &[u8]) -> std::result::Result<(), String> {
    let budget = Budget::of_size(bytes.len() as u64);
    let mut rest = bytes;
    while let Some(at) = find(rest, b"stream") {
        let before = &rest[at.saturating_sub(512)..at];
        rest = &rest[at + 6..];
        let own = before.windows(4).rposition(|w| w == b" obj").unwrap_or(0);
        let dictionary = &before[own..];
        let packings = dictionary.windows(5).filter(|w| matches!(*w, b"Flate" | b"LZWDe" | b"RunLe")).count();
        if packings > 1 {
            return Err("a part of the PDF is packed twice, which no program does that means well".to_owned());
        }
        let data = rest.strip_prefix(b"\r\n").or_else(|| rest.strip_prefix(b"\n")).unwrap_or(rest);
        if packings == 1 && find(dictionary, b"85").is_some() {
            check_unpacked(&ascii85(data), &budget)?;
        } else if packings == 1 {
            check_unpacked(data, &budget)?;
        }
    }
    Ok(())
}

/// Counts what a zlib stream comes to. A broken one ends at the same place for the reader.
fn check_unpacked(data: &[u8], budget: &Budget) -> std::result::Result<(), String> {
    let mut buffer = vec![0; 64 << 10];
    let mut decoder = flate2::read::ZlibDecoder::new(data);
    while let Ok(n @ 1..) = decoder.read(&mut buffer) {
        budget.spend(n as u64).map_err(|e| e.to_string())?;
    }
    Ok(())
}

/// Bytes from five characters for each four (PDF 32000-1, 7.4.3), up to the first that is none.
fn ascii85(data: &[u8]) -> Vec<u8> {
    let (mut bytes, mut word, mut digits) = (Vec::new(), 0_u32, 0);
    for byte in data.iter().filter(|b| !b.is_ascii_whitespace()) {
        match byte {
            b'z' if digits == 0 => bytes.extend([0; 4]),
            b'!'..=b'u' => {
                word = word.wrapping_mul(85).wrapping_add(u32::from(byte - b'!'));
                digits += 1;
                if digits == 5 {
                    bytes.extend(word.to_be_bytes());
                    (word, digits) = (0, 0);
                }
            }
            _ => break,
        }
    }
    if digits > 1 {
        for _ in digits..5 {
            word = word.wrapping_mul(85).wrapping_add(84);
        }
        bytes.extend(&word.to_be_bytes()[..digits - 1]);
    }
    bytes
}

fn find(bytes: &[u8], needle: &[u8]) -> Option<usize> {
    let mut from = 0;
    while let Some(at) = bytes[from..].iter().position(|b| *b == needle[0]) {
        if bytes[from + at..].starts_with(needle) {
            return Some(from + at);
        }
        from += at + 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_become_bytes_as_the_standard_says() {
        // "Man " and "su" in the encoding's best known example.
        assert_eq!(ascii85(b"9jqo^ F*.\n~>"), b"Man su");
        assert_eq!(ascii85(b"z~>"), [0; 4]);
    }
}
