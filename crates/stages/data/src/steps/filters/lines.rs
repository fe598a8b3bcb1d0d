//! What several filters ask of a text's lines.

use memchr::memchr;
use xxhash_rust::xxh3::xxh3_64;

use crate::steps::words::{Table, is_space};

/// The lines as Python's `splitlines` divides them: at all of Unicode's line ends, and an end at the end adds no line.
pub fn lines(text: &str) -> impl Iterator<Item = &str> {
    // Most texts have no other line end than `\n`; then only these bytes need be looked for.
    let rare = |b: u8| matches!(b, 0x0B..=0x0D | 0x1C..=0x1E | 0xC2 | 0xE2);
    let rare_ones = text.bytes().any(rare);
    let mut rest = Some(text).filter(|text| !text.is_empty());
    std::iter::from_fn(move || {
        let text = rest?;
        let end = if rare_ones { text.find(is_line_end) } else { memchr(b'\n', text.as_bytes()) };
        let Some(end) = end else { return rest.take() };
        let after =
            if text[end..].starts_with("\r\n") { 2 } else { text[end..].chars().next().map_or(1, char::len_utf8) };
        rest = Some(&text[end + after..]).filter(|text| !text.is_empty());
        Some(&text[..end])
    })
}

/// What stands between line feeds, as `split('\n')` gives it.
pub fn between_line_feeds(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let text = rest?;
        let Some(end) = memchr(b'\n', text.as_bytes()) else { return rest.take() };
        rest = Some(&text[end + 1..]);
        Some(&text[..end])
    })
}

fn is_line_end(c: char) -> bool {
    matches!(c, '\n'..='\r' | '\u{1C}'..='\u{1E}' | '\u{85}' | '\u{2028}' | '\u{2029}')
}

/// Without the white space around it, as Python's `strip` has it.
pub fn strip(text: &str) -> &str {
    text.trim_matches(is_space)
}

/// Parts of a text that are there more than once.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Repeated {
    /// All parts.
    pub parts: usize,
    /// Parts that were there before.
    pub again: usize,
    /// Their characters.
    pub characters: usize,
}

/// Counts every part after its first occurrence.
pub fn repeated<'a>(parts: impl Iterator<Item = &'a str>, seen: &mut Table) -> Repeated {
    seen.clear();
    let mut counts = Repeated::default();
    for part in parts {
        let number = counts.parts as u32;
        counts.parts += 1;
        if seen.get_or_insert(xxh3_64(part.as_bytes()), number) != number {
            counts.again += 1;
            counts.characters += part.chars().count();
        }
    }
    counts
}

/// `part / whole`, 0 of nothing.
pub fn share(part: usize, whole: usize) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_end_where_python_ends_them() {
        let all = |text| lines(text).collect::<Vec<_>>();
        assert_eq!(all("a\n\nb\n"), ["a", "", "b"]);
        assert_eq!(all("a\r\nb\rc\u{2028}d\u{85}e\u{B}f"), ["a", "b", "c", "d", "e", "f"]);
        assert_eq!(all("é\u{2014}x"), ["é\u{2014}x"]);
        assert!(all("").is_empty());
    }

    #[test]
    fn repetitions_are_counted_after_the_first() {
        let found = repeated(["ä", "b", "ä", "ä"].into_iter(), &mut Table::default());
        assert_eq!(found, Repeated { parts: 4, again: 2, characters: 2 });
    }
}
