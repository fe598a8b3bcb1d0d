//! Character references: `&eacute;`, `&#233;`, `&#xE9;` and, as browsers do, many without the semicolon.

use std::collections::HashMap;
use std::sync::LazyLock;

use memchr::memchr;

/// The names of the HTML standard (section 13.5), a name and its code points a line; `!` before those that browsers also
/// know without the semicolon.
const NAMES: &str = include_str!("entities.txt");
/// The longest name.
const LONGEST: usize = 31;
/// The longest name that is known without the semicolon.
const LONGEST_BARE: usize = 6;

struct Named {
    text: String,
    bare: bool,
}

static NAMED: LazyLock<HashMap<&'static str, Named>> = LazyLock::new(|| {
    let line = |line: &'static str| {
        let (bare, line) = line.strip_prefix('!').map_or((false, line), |rest| (true, rest));
        let (name, points) = line.split_once(' ')?;
        let text = points.split(' ').filter_map(|point| char::from_u32(u32::from_str_radix(point, 16).ok()?)).collect();
        Some((name, Named { text, bare }))
    };
    NAMES.lines().filter_map(line).collect()
});

/// What browsers show for the numbers 128 to 159, which are code points of windows-1252 by custom.
const WINDOWS_1252: [char; 32] = [
    '€', '\u{81}', '‚', 'ƒ', '„', '…', '†', '‡', 'ˆ', '‰', 'Š', '‹', 'Œ', '\u{8D}', 'Ž', '\u{8F}', '\u{90}', '‘', '’',
    '“', '”', '•', '–', '—', '˜', '™', 'š', '›', 'œ', '\u{9D}', 'ž', 'Ÿ',
];

/// Appends a text with its references replaced. In an attribute's value, names without semicolon before `=` or a letter
/// or digit are no references, so that addresses with `&copy=1` stay as they are.
pub fn decode_into(out: &mut String, text: &str, attribute: bool) {
    let mut rest = text;
    while let Some(at) = memchr(b'&', rest.as_bytes()) {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let used = reference(rest, attribute, out);
        if used == 0 {
            out.push('&');
        }
        rest = &rest[used.max(1)..];
    }
    out.push_str(rest);
}

/// A text with its references replaced.
pub fn decode(text: &str, attribute: bool) -> String {
    let mut out = String::with_capacity(text.len());
    decode_into(&mut out, text, attribute);
    out
}

/// Reads the reference that `text` begins with; how many bytes it has, 0 for none.
fn reference(text: &str, attribute: bool, out: &mut String) -> usize {
    let bytes = text.as_bytes();
    match bytes.get(1) {
        Some(b'#') => numeric(bytes, out),
        Some(first) if first.is_ascii_alphabetic() => named(text, attribute, out),
        _ => 0,
    }
}

fn numeric(bytes: &[u8], out: &mut String) -> usize {
    let hexadecimal = matches!(bytes.get(2), Some(b'x' | b'X'));
    let (start, radix) = if hexadecimal { (3, 16) } else { (2, 10) };
    let mut end = start;
    let mut number: u32 = 0;
    while let Some(digit) = bytes.get(end).and_then(|&b| char::from(b).to_digit(radix)) {
        number = number.saturating_mul(radix).saturating_add(digit);
        end += 1;
    }
    if end == start {
        return 0;
    }
    out.push(match number {
        0 => char::REPLACEMENT_CHARACTER,
        0x80..=0x9F => WINDOWS_1252[(number - 0x80) as usize],
        _ => char::from_u32(number).unwrap_or(char::REPLACEMENT_CHARACTER),
    });
    end + usize::from(bytes.get(end) == Some(&b';'))
}

fn named(text: &str, attribute: bool, out: &mut String) -> usize {
    let bytes = &text.as_bytes()[1..];
    let length = bytes.iter().take(LONGEST + 1).take_while(|b| b.is_ascii_alphanumeric()).count();
    if bytes.get(length) == Some(&b';') {
        let common = match &bytes[..length] {
            b"amp" => Some('&'),
            b"lt" => Some('<'),
            b"gt" => Some('>'),
            b"quot" => Some('"'),
            b"nbsp" => Some('\u{A0}'),
            _ => None,
        };
        if let Some(c) = common {
            out.push(c);
            return length + 2;
        }
        if let Some(named) = NAMED.get(&text[1..=length]) {
            out.push_str(&named.text);
            return length + 2;
        }
    }
    for length in (2..=length.min(LONGEST_BARE)).rev() {
        let Some(named) = NAMED.get(&text[1..=length]).filter(|named| named.bare) else { continue };
        if attribute && bytes.get(length).is_some_and(|&b| b == b'=' || b.is_ascii_alphanumeric()) {
            return 0;
        }
        out.push_str(&named.text);
        return length + 1;
    }
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_decoded_as_browsers_do() {
        for (text, expected) in [
            ("a &amp; b &lt;c&gt; &quot;d&quot;", "a & b <c> \"d\""),
            ("&eacute;&Eacute;&euro;&hellip;", "éÉ€…"),
            ("&#233;&#xE9;&#XE9;&#233", "éééé"),
            ("&#150;&#x80;&#0;&#xD800;&#x110000;&#99999999999;", "–€\u{FFFD}\u{FFFD}\u{FFFD}\u{FFFD}"),
            ("&copy 2024 &notit; &notin;", "© 2024 ¬it; ∉"),
            ("&acE; &NotEqualTilde;", "∾\u{333} ≂\u{338}"),
            ("AT&T, &, &;, &#;, &#x;, &nosuch; &", "AT&T, &, &;, &#;, &#x;, &nosuch; &"),
            ("&CounterClockwiseContourIntegral;", "∳"),
            ("&中;", "&中;"),
        ] {
            assert_eq!(decode(text, false), expected, "{text}");
        }
    }

    #[test]
    fn addresses_keep_their_ampersands() {
        assert_eq!(decode("?a=1&copy=2&amp;b=3&reg", true), "?a=1&copy=2&b=3®");
    }

    #[test]
    fn all_names_are_there() {
        assert_eq!(NAMED.len(), 2125);
        assert_eq!(NAMED.values().filter(|named| named.bare).count(), 106);
        assert_eq!(NAMED.keys().map(|name| name.len()).max(), Some(LONGEST));
        assert_eq!(NAMED.iter().filter(|(_, n)| n.bare).map(|(name, _)| name.len()).max(), Some(LONGEST_BARE));
    }
}
