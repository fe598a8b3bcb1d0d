//! What kind of character each one is, as the regular expressions of tokenizers tell them apart.

use std::sync::LazyLock;

/// The kinds of characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// Neither of the following: punctuation, symbols, marks, control characters, what Unicode leaves free.
    Other,
    /// `\p{L}`.
    Letter,
    /// `\p{N}`.
    Number,
    /// `\s`, but for the two below.
    Space,
    /// `[\r\n]`.
    Newline,
}

/// Ranges of letters, numbers and white space, as the regular expression engine of the library has them; a test
/// compares every code point. A line is a class and its ranges, in hexadecimal, the bounds
/// counted from the end of the range before.
const RANGES: &str = include_str!("classes.txt");

/// The classes of ASCII.
pub(super) const ASCII: [Class; 128] = {
    let mut table = [Class::Other; 128];
    let mut byte = 0u8;
    while byte < 128 {
        table[byte as usize] = match byte {
            b'\r' | b'\n' => Class::Newline,
            b'\t' | 0x0b | 0x0c | b' ' => Class::Space,
            b'0'..=b'9' => Class::Number,
            b'a'..=b'z' | b'A'..=b'Z' => Class::Letter,
            _ => Class::Other,
        };
        byte += 1;
    }
    table
};

/// The classes of all code points up to the last that is a letter, a number or white space.
static TABLE: LazyLock<Vec<Class>> = LazyLock::new(|| table(RANGES));

/// The class of a character.
pub(super) fn class(c: char) -> Class {
    let code = c as usize;
    match ASCII.get(code) {
        Some(class) => *class,
        None => TABLE.get(code).copied().unwrap_or(Class::Other),
    }
}

fn table(ranges: &str) -> Vec<Class> {
    let mut table = Vec::new();
    for line in ranges.lines() {
        let mut fields = line.split(' ');
        let class = match fields.next() {
            Some("letter") => Class::Letter,
            Some("number") => Class::Number,
            _ => Class::Space,
        };
        let mut end = 0;
        for field in fields {
            let (gap, length) = field.split_once('+').unwrap_or((field, "1"));
            let number = |text: &str| usize::from_str_radix(text, 16).unwrap_or(0);
            let start = end + number(gap);
            end = start + number(length);
            if table.len() < end {
                table.resize(end, Class::Other);
            }
            table[start..end].fill(class);
        }
    }
    for newline in ['\r', '\n'] {
        if let Some(class) = table.get_mut(newline as usize) {
            *class = Class::Newline;
        }
    }
    table
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
    use tokenizers::tokenizer::{
        OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer, SplitDelimiterBehavior,
    };

    use super::*;

    /// The runs of all code points in order that a pattern matches, by the library's engine.
    fn runs(pattern: &str) -> Vec<(u32, u32)> {
        let all: Vec<char> = ('\0'..=char::MAX).collect();
        // Between any two characters stands one that matches nothing that is asked for, so that runs are single.
        let text: String = all.iter().collect();
        let split = Split::new(SplitPattern::Regex(pattern.to_owned()), SplitDelimiterBehavior::Removed, true).unwrap();
        let mut pre = PreTokenizedString::from(text);
        split.pre_tokenize(&mut pre).unwrap();
        let splits = pre.get_splits(OffsetReferential::Original, OffsetType::Byte);
        let bounds = |text: &str| (text.chars().next().unwrap() as u32, text.chars().last().unwrap() as u32);
        splits.into_iter().map(|(text, _, _)| bounds(text)).collect()
    }

    /// Set `CUPOLA_WRITE_CLASSES` to write the table anew after the engine's Unicode version has changed.
    #[test]
    fn every_code_point_has_the_class_of_the_regular_expressions() {
        let (mut written, mut want) = (String::new(), vec![Class::Other; 0x11_0000]);
        for (name, class, pattern) in [
            ("letter", Class::Letter, r"\p{L}+"),
            ("number", Class::Number, r"\p{N}+"),
            ("space", Class::Space, r"\s+"),
        ] {
            written += name;
            let mut end = 0;
            for (first, last) in runs(pattern) {
                let length = last - first + 1;
                let more = if length > 1 { format!("+{length:x}") } else { String::new() };
                written += &format!(" {:x}{more}", first - end);
                end = last + 1;
                want[first as usize..=last as usize].fill(class);
            }
            written += "\n";
        }
        want['\n' as usize] = Class::Newline;
        want['\r' as usize] = Class::Newline;
        if std::env::var_os("CUPOLA_WRITE_CLASSES").is_some() {
            let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/byte_bpe/classes.txt");
            std::fs::write(path, &written).unwrap();
        }
        for c in '\0'..=char::MAX {
            assert_eq!(class(c), want[c as usize], "{:x}", c as u32);
        }
        assert_eq!(written, RANGES);
    }
}
