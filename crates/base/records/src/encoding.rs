//! Character encodings: found from a byte order mark, from what a server or a page declares, and from the bytes themselves.

use std::str::Utf8Error;

use chardetng::{EncodingDetector, Iso2022JpDetection, Utf8Detection};
use encoding_rs::{Encoding, GBK, ISO_2022_JP, UTF_16BE, UTF_16LE, WINDOWS_1252};

/// The name of UTF-8.
pub(crate) const UTF_8: &str = "UTF-8";

/// How much of a text is looked at to find its encoding, bytes.
const SAMPLE_BYTES: usize = 1 << 20;

/// How far into a page its declaration is looked for, bytes (WHATWG HTML, 13.2.3.2).
const PRESCAN_BYTES: usize = 1024;

/// Fewer bytes outside ASCII than this say too little about an encoding of one byte per character.
const MIN_EVIDENCE: usize = 16;

/// Text has at most one control character in so many bytes.
const BYTES_PER_CONTROL: usize = 1000;

/// HZ (RFC 1843) marks less: so many characters must decode.
const MIN_HZ: usize = 8;

/// A text and the encoding it was in.
pub(crate) struct Decoded {
    /// The text, without its byte order mark.
    pub text: String,
    /// The encoding's name (WHATWG's; and `HZ-GB-2312`).
    pub encoding: &'static str,
}

impl Decoded {
    fn utf8(text: String) -> Self {
        Self { text, encoding: UTF_8 }
    }
}

/// Decodes a text of which nothing else is known, if its encoding is beyond doubt.
///
/// # Errors
/// The bytes as they were, and why they are not UTF-8.
pub(crate) fn decode(bytes: Vec<u8>) -> Result<Decoded, (Vec<u8>, Utf8Error)> {
    let wide = match wide_encoding(&bytes) {
        Some("UTF-16LE") => Some(UTF_16LE),
        Some("UTF-16BE") => Some(UTF_16BE),
        _ => None,
    };
    if let Some(decoded) = wide.and_then(|encoding| strictly(&bytes, encoding)) {
        return Ok(decoded);
    }
    match String::from_utf8(bytes) {
        Ok(text) => Ok(in_escapes(&text).unwrap_or_else(|| Decoded::utf8(text))),
        Err(e) => {
            let error = e.utf8_error();
            let bytes = e.into_bytes();
            confident(&bytes).and_then(|encoding| strictly(&bytes, encoding)).ok_or((bytes, error))
        }
    }
}

/// Decodes a page, whatever it is: byte order mark, then what the server says, then what the page says, then its bytes; what
/// does not decode becomes U+FFFD, as in a browser. `address` helps to guess.
pub(crate) fn decode_page(bytes: &[u8], from_server: Option<&str>, address: Option<&str>) -> Decoded {
    if let Some((encoding, mark)) = Encoding::for_bom(bytes) {
        return decode_lossy(&bytes[mark..], encoding);
    }
    let label = from_server.and_then(|label| Encoding::for_label(label.trim().as_bytes()));
    let declared = label.or_else(|| declared(&bytes[..bytes.len().min(PRESCAN_BYTES)]));
    if let Some(encoding) = declared.filter(|encoding| *encoding != encoding_rs::UTF_8) {
        // A server's default says nothing about a page that is UTF-8, which no other text is by accident.
        if encoding == WINDOWS_1252 && !bytes.is_ascii() && std::str::from_utf8(bytes).is_ok() {
            return decode_lossy(bytes, encoding_rs::UTF_8);
        }
        return decode_lossy(bytes, encoding);
    }
    match std::str::from_utf8(bytes) {
        Ok(text) => in_escapes(text).unwrap_or_else(|| Decoded::utf8(text.to_owned())),
        // A page that says UTF-8 and has a few wrong bytes is UTF-8.
        Err(_) if declared.is_some() && mostly_utf8(bytes) => decode_lossy(bytes, encoding_rs::UTF_8),
        Err(_) => decode_lossy(bytes, guess(bytes, address.and_then(top_level_domain))),
    }
}

fn decode_lossy(bytes: &[u8], encoding: &'static Encoding) -> Decoded {
    let (text, _) = encoding.decode_without_bom_handling(bytes);
    Decoded { text: text.into_owned(), encoding: encoding.name() }
}

/// Decodes if nothing in the text speaks against the encoding; a character cut off at the end is left out.
fn strictly(bytes: &[u8], encoding: &'static Encoding) -> Option<Decoded> {
    let (bytes, whole) = match Encoding::for_bom(bytes) {
        Some((of_mark, mark)) if of_mark == encoding => (&bytes[mark..], true),
        _ => (bytes, false),
    };
    let (text, broken) = encoding.decode_without_bom_handling(bytes);
    let mut text = text.into_owned();
    if broken {
        text.truncate(text.trim_end_matches('\u{FFFD}').len());
        if text.contains('\u{FFFD}') {
            return None;
        }
    }
    // What was decoded wrongly, or is no text, is full of control characters; a stray one stands in many old texts.
    let controls = text.chars().filter(|c| c.is_control() && !matches!(c, '\n' | '\r' | '\t' | '\u{C}')).count();
    let plausible = whole || controls * BYTES_PER_CONTROL <= text.len();
    plausible.then(|| Decoded { text, encoding: encoding.name() })
}

fn guess(bytes: &[u8], domain: Option<&str>) -> &'static Encoding {
    let sample = &bytes[..bytes.len().min(SAMPLE_BYTES)];
    let mut detector = EncodingDetector::new(Iso2022JpDetection::Allow);
    detector.feed(sample, sample.len() == bytes.len());
    detector.guess(domain.map(str::as_bytes), Utf8Detection::Deny)
}

/// The encoding that a text's bytes show, if there are enough of them and if each half of them shows the same.
pub(crate) fn confident(bytes: &[u8]) -> Option<&'static Encoding> {
    let sample = &bytes[..bytes.len().min(SAMPLE_BYTES)];
    let evidence = sample.iter().filter(|b| !b.is_ascii()).count();
    if evidence < MIN_EVIDENCE || sample.contains(&0) {
        return None;
    }
    let found = guess(sample, None);
    let (first, second) = sample.split_at(middle(sample));
    let agrees = |half: &[u8]| {
        let own = guess(half, None);
        own == found || own.decode_without_bom_handling(half).0 == found.decode_without_bom_handling(half).0
    };
    (agrees(first) && agrees(second)).then_some(found)
}

/// The end of the line, or of the word, nearest behind the middle: no character is cut there.
fn middle(bytes: &[u8]) -> usize {
    let half = bytes.len() / 2;
    let after = |wanted: u8| bytes[half..].iter().position(|b| *b == wanted).map(|at| half + at + 1);
    after(b'\n').or_else(|| after(b' ')).unwrap_or(half)
}

/// Seven-bit encodings, which look like ASCII: ISO-2022-JP and HZ.
fn in_escapes(text: &str) -> Option<Decoded> {
    if !text.is_ascii() {
        return None;
    }
    if text.contains("\u{1B}$B") || text.contains("\u{1B}$@") {
        // An escape that another one follows at once says nothing; browsers show it as an error, for their users' safety.
        let plain = ["(B", "(J", "$B", "$@"]
            .iter()
            .fold(text.to_owned(), |text, escape| text.replace(&format!("\u{1B}{escape}\u{1B}"), "\u{1B}"));
        return strictly(plain.as_bytes(), ISO_2022_JP);
    }
    text.contains("~{").then(|| hz(text)).flatten()
}

/// HZ (RFC 1843): `~{` and `~}` around GB 2312 without its high bits, `~~` for a tilde. `None` where it is something else.
fn hz(text: &str) -> Option<Decoded> {
    let (mut gb, mut characters, mut rest) = (Vec::with_capacity(text.len()), 0, text);
    while let Some(at) = rest.find('~') {
        gb.extend_from_slice(&rest.as_bytes()[..at]);
        rest = &rest[at..];
        if let Some(after) = rest.strip_prefix("~~") {
            gb.push(b'~');
            rest = after;
        } else if let Some(after) = rest.strip_prefix("~\n").or_else(|| rest.strip_prefix("~\r\n")) {
            rest = after;
        } else if let Some(after) = rest.strip_prefix("~{") {
            // A line ends what its closing mark does not.
            let end = after.find("~}").unwrap_or(after.len()).min(after.find('\n').unwrap_or(after.len()));
            let pairs = &after.as_bytes()[..end & !1];
            if pairs.chunks_exact(2).any(|pair| !(0x21..=0x77).contains(&pair[0]) || !(0x21..=0x7E).contains(&pair[1]))
            {
                return None;
            }
            gb.extend(pairs.iter().map(|b| b | 0x80));
            characters += pairs.len() / 2;
            rest = after[end..].strip_prefix("~}").unwrap_or(&after[end..]);
        } else {
            return None;
        }
    }
    gb.extend_from_slice(rest.as_bytes());
    let (text, broken) = GBK.decode_without_bom_handling(&gb);
    (characters >= MIN_HZ && !broken).then(|| Decoded { text: text.into_owned(), encoding: "HZ-GB-2312" })
}

/// At most one byte in a hundred is no part of a UTF-8 character, and there are such characters.
fn mostly_utf8(bytes: &[u8]) -> bool {
    let (mut wrong, mut good) = (0, 0);
    for chunk in bytes.utf8_chunks() {
        wrong += chunk.invalid().len();
        good += chunk.valid().bytes().filter(|b| !b.is_ascii()).count();
    }
    good > wrong && wrong * 100 <= bytes.len()
}

/// What a page declares in its first bytes: `<meta charset=…>`, `<meta … content="text/html; charset=…">`, `<?xml … encoding=…?>`.
fn declared(head: &[u8]) -> Option<&'static Encoding> {
    let head = String::from_utf8_lossy(head).to_ascii_lowercase();
    if let Some(xml) = head.trim_start().strip_prefix("<?xml") {
        let declaration = &xml[..xml.find("?>").unwrap_or(xml.len())];
        if let Some(encoding) = value_of(declaration, "encoding").and_then(ascii_compatible) {
            return Some(encoding);
        }
    }
    let mut rest = head.as_str();
    while let Some(at) = rest.find("<meta") {
        rest = &rest[at + 5..];
        let tag = &rest[..rest.find('>').unwrap_or(rest.len())];
        if let Some(encoding) = value_of(tag, "charset").and_then(ascii_compatible) {
            return Some(encoding);
        }
    }
    None
}

/// What stands behind `name=`, with or without quotes.
fn value_of<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let mut rest = text;
    loop {
        rest = &rest[rest.find(name)? + name.len()..];
        if let Some(value) = rest.trim_start().strip_prefix('=') {
            let value = value.trim_start().trim_start_matches(['"', '\'']);
            let end = value.find(['"', '\'', ';', ' ', '/', '>', '\t', '\n', '\r']).unwrap_or(value.len());
            return Some(&value[..end]);
        }
    }
}

/// A page whose declaration could be read as ASCII is not UTF-16, whatever it says (WHATWG HTML, 13.2.3.2).
fn ascii_compatible(label: &str) -> Option<&'static Encoding> {
    let encoding = Encoding::for_label(label.as_bytes())?;
    Some(if encoding == UTF_16LE || encoding == UTF_16BE { encoding_rs::UTF_8 } else { encoding })
}

/// `jp` of `https://www.example.jp/a`: in the form that the detector wants, or not at all.
fn top_level_domain(address: &str) -> Option<&str> {
    let host = address.split_once("://")?.1.split(['/', '?', '#']).next()?;
    let host = host.rsplit('@').next()?.split(':').next()?;
    let (_, domain) = host.rsplit_once('.')?;
    (!domain.is_empty() && domain.bytes().all(|b| b.is_ascii_lowercase() || b == b'-')).then_some(domain)
}

/// UTF-16 and UTF-32 by byte order mark, and UTF-16 without one by the zero bytes of its ASCII characters.
pub(crate) fn wide_encoding(head: &[u8]) -> Option<&'static str> {
    match head {
        [0xFF, 0xFE, 0, 0, ..] => return Some("UTF-32LE"),
        [0, 0, 0xFE, 0xFF, ..] => return Some("UTF-32BE"),
        [0xFF, 0xFE, ..] => return Some("UTF-16LE"),
        [0xFE, 0xFF, ..] => return Some("UTF-16BE"),
        _ => {}
    }
    let pairs = head.chunks_exact(2).take(32);
    let (mut total, mut little, mut big) = (0, 0, 0);
    for pair in pairs {
        total += 1;
        little += usize::from(pair[0] != 0 && pair[1] == 0);
        big += usize::from(pair[0] == 0 && pair[1] != 0);
    }
    match total >= 4 {
        true if little * 4 >= total * 3 => Some("UTF-16LE"),
        true if big * 4 >= total * 3 => Some("UTF-16BE"),
        _ => None,
    }
}
