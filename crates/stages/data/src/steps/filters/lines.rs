//! What several filters ask of a text's lines.

use std::collections::HashSet;

/// The lines that are not blank, without the spaces around them.
pub fn visible_lines(text: &str) -> impl Iterator<Item = &str> {
    text.lines().map(str::trim).filter(|line| !line.is_empty())
}

/// Ends in a period, exclamation or question mark or a closing quotation mark, in Latin or in full width.
pub fn ends_in_punctuation(line: &str) -> bool {
    line.ends_with(['.', '!', '?', '"', '\u{201D}', '\u{2019}', '\'', '\u{2026}', '。', '！', '？', '」', '』'])
}

/// Parts of a text that are there more than once.
pub struct Repeated {
    /// Repetitions over parts.
    pub parts: f64,
    /// Their characters over `characters`.
    pub characters: f64,
}

/// Counts every part after its first occurrence; `characters` is the length of the whole text.
pub fn repeated<'a>(parts: impl Iterator<Item = &'a str>, characters: usize) -> Repeated {
    let mut seen = HashSet::new();
    let (mut total, mut again, mut again_characters) = (0_usize, 0_usize, 0_usize);
    for part in parts {
        total += 1;
        if !seen.insert(part) {
            again += 1;
            again_characters += part.chars().count();
        }
    }
    Repeated { parts: share(again, total), characters: share(again_characters, characters) }
}

/// `part / whole`, 0 of nothing.
pub fn share(part: usize, whole: usize) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}
