//! Classes of characters.

use std::sync::LazyLock;

use super::tables::{FULL_STOPS, ICONS, MORE_FULL_STOPS, PUNCTUATION, SYMBOLS, UNCASED};

/// White space as Python has it: Unicode's, and four control characters.
pub fn is_space(c: char) -> bool {
    c.is_whitespace() || matches!(c, '\u{1C}'..='\u{1F}')
}

/// Of a byte of UTF-8: 1 for a character that is white space, 2 for one that may begin such a character, 0 for others.
pub const SPACE_BYTES: [u8; 256] = {
    let mut table = [0; 256];
    let mut b = 0;
    while b < 256 {
        table[b] = match b as u8 {
            b' ' | 0x09..=0x0D | 0x1C..=0x1F => 1,
            0xC2 | 0xE1 | 0xE2 | 0xE3 => 2,
            _ => 0,
        };
        b += 1;
    }
    table
};

/// Chinese characters, Japanese syllables, and Thai, Lao, Myanmar and Khmer letters.
pub fn is_unspaced(c: char) -> bool {
    matches!(c,
        '\u{0E00}'..='\u{0EFF}' | '\u{1000}'..='\u{109F}' | '\u{1780}'..='\u{17FF}' | '\u{3040}'..='\u{30FF}'
        | '\u{3400}'..='\u{4DBF}' | '\u{4E00}'..='\u{9FFF}' | '\u{F900}'..='\u{FAFF}' | '\u{20000}'..='\u{3FFFF}')
}

/// Every unspaced character by itself, and what stands between them.
pub fn unspaced_apart(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let first = rest.chars().next()?;
        let end = if is_unspaced(first) { first.len_utf8() } else { rest.find(is_unspaced).unwrap_or(rest.len()) };
        let (part, after) = rest.split_at(end);
        rest = after;
        Some(part)
    })
}

/// A letter that spaCy's rules know.
pub fn is_letter(c: char) -> bool {
    if c.is_ascii() {
        return c.is_ascii_alphabetic();
    }
    is_lower(c) || is_upper(c) || matches!(c, 'ƻ' | 'ǅ' | 'ǈ' | 'ǋ' | 'ǲ')
}

/// A letter in lower case, or of a script without cases.
pub fn is_lower(c: char) -> bool {
    if c.is_ascii() {
        return c.is_ascii_lowercase();
    }
    has(Class::Uncased, c) || (is_cased_script(c) && c.is_lowercase())
}

/// A capital letter, or one of a script without cases.
pub fn is_upper(c: char) -> bool {
    if c.is_ascii() {
        return c.is_ascii_uppercase();
    }
    has(Class::Uncased, c) || (is_cased_script(c) && c.is_uppercase())
}

/// Latin, Greek and Cyrillic.
fn is_cased_script(c: char) -> bool {
    matches!(c, '\u{C0}'..='\u{2AF}' | '\u{386}'..='\u{3CE}' | '\u{400}'..='\u{52F}' | '\u{1D00}'..='\u{1D25}'
        | '\u{1D6B}'..='\u{1D9A}' | '\u{1E00}'..='\u{1EFF}' | '\u{2C60}'..='\u{2C7F}' | '\u{A722}'..='\u{A7FA}'
        | '\u{AB30}'..='\u{AB64}' | '\u{FF21}'..='\u{FF5A}')
}

/// Signs such as ©, ° and →, boxes, dingbats and emoji.
pub fn is_icon(c: char) -> bool {
    !c.is_ascii() && has(Class::Icon, c)
}

/// Opening and closing quotation marks, and brackets beyond ASCII.
pub fn is_quote(c: char) -> bool {
    matches!(
        c,
        '\'' | '"'
            | '”'
            | '“'
            | '`'
            | '‘'
            | '´'
            | '’'
            | '‚'
            | ','
            | '„'
            | '»'
            | '«'
            | '「'
            | '」'
            | '『'
            | '』'
            | '（'
            | '）'
            | '〔'
            | '〕'
            | '【'
            | '】'
            | '《'
            | '》'
            | '〈'
            | '〉'
            | '\u{2329}'
            | '\u{232A}'
            | '⟦'
            | '⟧'
    )
}

/// Other punctuation that stands alone.
fn is_mark(c: char) -> bool {
    matches!(
        c,
        '…' | ','
            | ':'
            | ';'
            | '!'
            | '?'
            | '¿'
            | '؟'
            | '¡'
            | '('
            | ')'
            | '['
            | ']'
            | '{'
            | '}'
            | '<'
            | '>'
            | '_'
            | '#'
            | '*'
            | '&'
            | '。'
            | '？'
            | '！'
            | '，'
            | '、'
            | '；'
            | '：'
            | '～'
            | '·'
            | '।'
            | '،'
            | '۔'
            | '؛'
            | '٪'
    )
}

/// What is taken off the front of words.
pub fn is_prefix_mark(c: char) -> bool {
    is_mark(c) || is_quote(c) || is_currency(c) || matches!(c, '§' | '%' | '=' | '—' | '–')
}

/// What is taken off the end of words.
pub fn is_suffix_mark(c: char) -> bool {
    is_mark(c) || is_quote(c) || matches!(c, '—' | '–')
}

/// Signs of currencies.
pub fn is_currency(c: char) -> bool {
    matches!(c, '$' | '£' | '¥' | '฿' | '﷼' | '\u{20A0}'..='\u{20BF}')
}

/// After what a dot at the end is a word of its own, beside letters in lower case.
pub fn in_dot_context(c: char) -> bool {
    c.is_ascii_digit() || is_mark(c) || is_quote(c) || matches!(c, '%' | '²' | '-' | '+' | '|')
}

/// What ends a sentence: a dot, question and exclamation marks, and their like in other scripts.
pub fn is_full_stop(c: char) -> bool {
    if c.is_ascii() { matches!(c, '.' | '!' | '?') } else { has(Class::FullStop, c) }
}

/// What ends a line that is a sentence.
pub fn is_terminal(c: char) -> bool {
    if c.is_ascii() { matches!(c, '.' | '!' | '?') } else { has(Class::FullStop, c) || has(Class::Terminal, c) }
}

/// What datatrove takes for punctuation; control characters and the full-width 1 are among it.
pub fn is_symbol(c: char) -> bool {
    if c.is_ascii() {
        return !c.is_ascii_alphanumeric() && !matches!(c, '\t' | '\n' | ' ');
    }
    is_terminal(c) || has(Class::Symbol, c)
}

/// Unicode's punctuation.
pub fn is_punctuation(c: char) -> bool {
    if c.is_ascii() {
        return c.is_ascii_punctuation() && !matches!(c, '$' | '+' | '<' | '=' | '>' | '^' | '`' | '|' | '~');
    }
    has(Class::Punctuation, c)
}

#[derive(Clone, Copy)]
enum Class {
    Uncased = 1,
    Icon = 2,
    FullStop = 4,
    Terminal = 8,
    Symbol = 16,
    Punctuation = 32,
}

/// The classes of the characters below U+20000; above there are letters without case and nothing else.
static CLASSES: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut classes = vec![0; 0x20000];
    let tables: [(Class, &[(u32, u32)]); 6] = [
        (Class::Uncased, &UNCASED),
        (Class::Icon, &ICONS),
        (Class::FullStop, &FULL_STOPS),
        (Class::Terminal, &MORE_FULL_STOPS),
        (Class::Symbol, &SYMBOLS),
        (Class::Punctuation, &PUNCTUATION),
    ];
    for (class, ranges) in tables {
        for (first, last) in ranges {
            classes[*first as usize..=*last as usize].iter_mut().for_each(|c| *c |= class as u8);
        }
    }
    classes
});

fn has(class: Class, c: char) -> bool {
    match CLASSES.get(c as usize) {
        Some(classes) => classes & class as u8 != 0,
        None => matches!(class, Class::Uncased) && matches!(c, '\u{20000}'..='\u{3FFFF}'),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_are_in_their_classes() {
        assert!(is_letter('é') && is_letter('ж') && is_letter('字') && !is_letter('1') && !is_letter('_'));
        assert!(is_lower('ß') && !is_upper('ß') && is_upper('Ä') && is_lower('字') && is_upper('字'));
        assert!(is_icon('©') && is_icon('😀') && !is_icon('•') && !is_icon('a'));
        assert!(is_full_stop('。') && is_full_stop('?') && !is_full_stop(',') && is_terminal('។'));
        assert!(is_symbol('…') && is_symbol('_') && !is_symbol('•') && is_punctuation('•') && !is_punctuation('$'));
        assert!(is_space('\u{1F}') && is_space('\u{3000}') && !is_space('\u{200B}'));
    }

    #[test]
    fn unspaced_characters_stand_alone() {
        assert_eq!(unspaced_apart("GPT模型v2").collect::<Vec<_>>(), ["GPT", "模", "型", "v2"]);
        assert_eq!(unspaced_apart("").count(), 0);
    }

    #[test]
    fn every_white_space_begins_with_a_byte_of_the_table() {
        for c in (0..=char::MAX as u32).filter_map(char::from_u32) {
            let class = SPACE_BYTES[usize::from(c.encode_utf8(&mut [0; 4]).as_bytes()[0])];
            assert!(if is_space(c) { class > 0 } else { class != 1 }, "{c:?}");
        }
    }
}
