//! What EPUB and DOCX share: small XML files read element by element.

use quick_xml::Reader;
use quick_xml::events::{BytesStart, Event};

/// The deepest nesting that is followed: documents have some dozens.
const MAX_DEPTH: usize = 1000;

/// What is met in an XML file.
pub(super) enum Met<'a> {
    /// An element begins: its name without prefix, and itself for its attributes.
    Start(&'a str, &'a BytesStart<'a>),
    /// It ends; an empty element begins and ends.
    End(&'a str),
    /// A piece of text, references resolved.
    Text(&'a str),
}

/// Walks through an XML file; what is wrong with it, as text.
pub(super) fn walk(xml: &str, mut met: impl FnMut(Met<'_>)) -> Result<(), String> {
    let mut reader = Reader::from_str(xml);
    let mut depth = 0_usize;
    loop {
        match reader.read_event().map_err(|e| format!("byte {}: {e}", reader.error_position()))? {
            Event::Start(start) => {
                depth += 1;
                if depth > MAX_DEPTH {
                    return Err(format!("elements are nested more than {MAX_DEPTH} deep"));
                }
                met(Met::Start(start.local_name().as_ref(), &start));
            }
            Event::Empty(start) => {
                met(Met::Start(start.local_name().as_ref(), &start));
                met(Met::End(start.local_name().as_ref()));
            }
            Event::End(end) => {
                depth = depth.saturating_sub(1);
                met(Met::End(end.local_name().as_ref()));
            }
            Event::Text(text) => met(Met::Text(&text.xml10_content())),
            Event::CData(data) => met(Met::Text(&data.xml10_content())),
            Event::GeneralRef(reference) => {
                if let Ok(Some(character)) = reference.resolve_char_ref() {
                    met(Met::Text(character.encode_utf8(&mut [0; 4])));
                } else if let Some(text) = quick_xml::escape::resolve_predefined_entity(&reference) {
                    met(Met::Text(text));
                }
            }
            Event::Eof => return Ok(()),
            Event::Comment(_) | Event::Decl(_) | Event::PI(_) | Event::DocType(_) => {}
        }
    }
}

/// The value of an attribute, by its name without prefix.
pub(super) fn attribute(start: &BytesStart<'_>, name: &str) -> Option<String> {
    let mut attributes = start.attributes();
    let found = attributes.with_checks(false).flatten().find(|a| a.key.local_name().as_ref() == name)?;
    let unescaped = quick_xml::escape::unescape(&found.value).map(std::borrow::Cow::into_owned);
    Some(unescaped.unwrap_or_else(|_| found.value.to_string()))
}
