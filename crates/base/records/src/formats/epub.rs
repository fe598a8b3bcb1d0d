//! Books (EPUB 2 and 3): the chapters in reading order, as one page of HTML.

use std::collections::HashMap;
use std::path::Path;

use cupola_artifact::{Error, Result};
use serde_json::{Map, Value};

use super::xml::{Met, attribute, walk};
use super::zip::{Zip, is_zip};
use super::{Format, Stream};
use crate::content::Content;
use crate::encoding::decode_page;
use crate::{MAX_RECORD_BYTES, MAX_TEXT_BYTES, Record};

pub(crate) const FORMAT: Format = Format {
    name: "a book (EPUB)",
    extensions: &["epub"],
    searched: true,
    fits: is_zip,
    // The first member is called `mimetype`, is stored, and holds this.
    is_surely: |content| is_zip(content) && content.head.get(30..58) == Some(b"mimetypeapplication/epub+zip"),
    open: |content| Ok(Box::new(std::iter::once_with(move || book(content))) as Stream),
};

/// What the package document says.
#[derive(Default)]
struct Package {
    /// Title, author and language, as found.
    fields: Map<String, Value>,
    /// Files by their ids.
    files: HashMap<String, String>,
    /// Ids in reading order.
    spine: Vec<String>,
}

fn book(content: Content) -> Result<Record> {
    let path = content.path.clone();
    let mut zip = Zip::open(content)?;
    let container = text_of(&mut zip, "META-INF/container.xml")?;
    let mut package_path = None;
    walk(&container, |met| {
        if let Met::Start("rootfile", start) = met {
            package_path = package_path.take().or_else(|| attribute(start, "full-path"));
        }
    })
    .map_err(|what| broken(&path, &format!("META-INF/container.xml: {what}")))?;
    let package_path = package_path.ok_or_else(|| broken(&path, "META-INF/container.xml names no package"))?;
    let package = package(&text_of(&mut zip, &package_path)?).map_err(|what| broken(&path, &what))?;
    let folder = package_path.rsplit_once('/').map_or("", |(folder, _)| folder);
    let html = chapters(&mut zip, &package, folder)?;
    let mut value = Map::new();
    value.insert("html".to_owned(), html.into());
    value.extend(package.fields);
    Ok(Record { source: path, line: 1, value: Value::Object(value) })
}

fn chapters(zip: &mut Zip, package: &Package, folder: &str) -> Result<String> {
    let mut html = String::from("<!DOCTYPE html>\n<html><head>");
    if let Some(title) = package.fields.get("title").and_then(Value::as_str) {
        html.push_str(&format!("<title>{}</title>", quick_xml::escape::escape(title)));
    }
    html.push_str("</head><body>\n");
    let mut chapters = 0;
    for id in &package.spine {
        let Some(file) = package.files.get(id) else { continue };
        let name = resolve(folder, file);
        let Some(bytes) = zip.read(&name, MAX_RECORD_BYTES)? else { continue };
        html.push_str(inside_body(&decode_page(&bytes, None, None).text));
        html.push('\n');
        chapters += 1;
        if html.len() > MAX_TEXT_BYTES {
            return Err(broken(
                &zip.path,
                &format!("the chapters together are longer than {} MiB", MAX_TEXT_BYTES >> 20),
            ));
        }
    }
    if chapters == 0 {
        return Err(broken(&zip.path, "it has no chapter"));
    }
    html.push_str("</body></html>\n");
    Ok(html)
}

fn package(xml: &str) -> Result<Package, String> {
    let mut package = Package::default();
    let mut within: Option<&'static str> = None;
    let mut text = String::new();
    walk(xml, |met| match met {
        Met::Start("item", start) => {
            let kind = attribute(start, "media-type").unwrap_or_default();
            if let (Some(id), Some(href)) = (attribute(start, "id"), attribute(start, "href"))
                && matches!(kind.as_str(), "application/xhtml+xml" | "text/html" | "")
            {
                package.files.insert(id, href);
            }
        }
        Met::Start("itemref", start) => {
            // Notes and the like, which are no part of the reading order, say no.
            if attribute(start, "linear").as_deref() != Some("no") {
                package.spine.extend(attribute(start, "idref"));
            }
        }
        Met::Start(name, _) => {
            within = match name {
                "title" => Some("title"),
                "creator" => Some("author"),
                "language" => Some("language"),
                _ => None,
            };
            text.clear();
        }
        Met::Text(piece) if within.is_some() => text.push_str(piece),
        Met::End(_) => {
            if let Some(field) = within.take()
                && !text.trim().is_empty()
            {
                // The first title and the first author are the book's.
                package.fields.entry(field).or_insert_with(|| text.trim().into());
            }
        }
        Met::Text(_) => {}
    })?;
    Ok(package)
}

fn text_of(zip: &mut Zip, name: &str) -> Result<String> {
    let bytes = zip.read(name, MAX_RECORD_BYTES)?;
    let bytes = bytes.ok_or_else(|| broken(&zip.path, &format!("there is no {name}")))?;
    Ok(decode_page(&bytes, None, None).text)
}

fn broken(path: &Path, what: &str) -> Error {
    Error::failed(format!("{}: broken book: {what}", path.display())).with_hint("an EPUB checker says more")
}

/// A member's name from a reference in the package: relative to its folder, with %-escapes, without a fragment.
fn resolve(folder: &str, reference: &str) -> String {
    let reference = percent_decoded(reference.split('#').next().unwrap_or_default());
    let mut parts: Vec<&str> = folder.split('/').filter(|part| !part.is_empty()).collect();
    for part in reference.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let code = (*first == b'%').then(|| after.get(..2)).flatten();
        match code.and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// What is between `<body …>` and `</body>`, or all.
fn inside_body(page: &str) -> &str {
    let lower = page.to_ascii_lowercase();
    let start = lower.find("<body").and_then(|at| Some(at + lower[at..].find('>')? + 1)).unwrap_or(0);
    let end = lower.rfind("</body").filter(|end| *end >= start).unwrap_or(page.len());
    &page[start..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_resolved_within_the_book() {
        assert_eq!(resolve("OEBPS/text", "../a%20b.xhtml#c"), "OEBPS/a b.xhtml");
        assert_eq!(resolve("", "./x.html"), "x.html");
        assert_eq!(resolve("a", "../../../etc/passwd"), "etc/passwd");
        assert_eq!(percent_decoded("100%"), "100%");
    }

    #[test]
    fn the_inside_of_a_page_is_its_body() {
        assert_eq!(inside_body("<html><BODY class='x'><p>a</p></BODY></html>"), "<p>a</p>");
        assert_eq!(inside_body("no page"), "no page");
    }
}
