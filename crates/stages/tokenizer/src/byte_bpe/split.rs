//! Cutting a text into words as published regular expressions do, without a regular expression engine.
//!
//! Any text is covered by words without a gap, as the last alternatives of each pattern take whatever is left.

use serde_json::Value;

use super::classes::{ASCII, Class, class};

/// GPT-2's words: contractions, letters, numbers and other signs with the blank before them, white space; the last
/// character of white space goes to the next word if it is a blank, else it stands alone.
const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

/// Those of cl100k_base, which Llama 3 has too: contractions in capitals, a sign before letters belongs to them, at most
/// three digits in a row, line ends with the signs and the white space before them.
const CL100K: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Qwen 2's: the same with digits one by one.
const QWEN2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// A pattern that is known here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Words {
    /// GPT-2's.
    Gpt2,
    /// That of cl100k_base and its kin, with so many digits in a row.
    Cl100k { digits: usize },
}

impl Words {
    /// The pattern of a `pre_tokenizer` in `tokenizer.json` that ends in bytes, and whether a blank is put before the text;
    /// `None` for any other, which is the library's.
    pub fn of(pre_tokenizer: &Value) -> Option<(Self, bool)> {
        let parts = match pre_tokenizer["type"].as_str()? {
            "Sequence" => pre_tokenizer["pretokenizers"].as_array()?.iter().collect(),
            _ => vec![pre_tokenizer],
        };
        let bytes = parts.last().filter(|part| part["type"] == "ByteLevel")?;
        let (prefix, regex) = (bytes["add_prefix_space"].as_bool()?, bytes["use_regex"].as_bool().unwrap_or(true));
        match parts[..] {
            [_] if regex => Some((Self::Gpt2, prefix)),
            [split, _] if split["type"] == "Split" && !regex && !prefix => {
                let isolated = split["behavior"] == "Isolated" && split["invert"] == false;
                let words = match split["pattern"]["Regex"].as_str()? {
                    GPT2 => Self::Gpt2,
                    CL100K => Self::Cl100k { digits: 3 },
                    QWEN2 => Self::Cl100k { digits: 1 },
                    _ => return None,
                };
                isolated.then_some((words, false))
            }
            _ => None,
        }
    }

    /// Where the word that begins at `start` ends; `start` is a boundary of characters before the end of the text.
    #[inline]
    pub fn end(self, text: &str, start: usize) -> usize {
        match self {
            Self::Gpt2 => gpt2(text, start),
            Self::Cl100k { digits } => cl100k(text, start, digits),
        }
    }

    /// The words of a text.
    #[cfg(test)]
    pub fn iter(self, text: &str) -> impl Iterator<Item = &str> {
        let mut start = 0;
        std::iter::from_fn(move || {
            let end = (start < text.len()).then(|| self.end(text, start))?;
            let word = &text[start..end];
            start = end;
            Some(word)
        })
    }
}

/// The class of the character at a place and where the next one is; nothing at the end of the text.
#[inline]
fn at(text: &str, place: usize) -> Option<(Class, usize)> {
    let byte = *text.as_bytes().get(place)?;
    if byte < 128 {
        return Some((ASCII[usize::from(byte & 127)], place + 1));
    }
    let c = text.get(place..)?.chars().next()?;
    Some((class(c), place + c.len_utf8()))
}

/// The end of the run of a class.
#[inline]
fn run(text: &str, mut place: usize, of: Class) -> usize {
    while let Some((class, next)) = at(text, place) {
        if class != of {
            break;
        }
        place = next;
    }
    place
}

fn gpt2(text: &str, start: usize) -> usize {
    let bytes = text.as_bytes();
    if bytes[start] == b'\''
        && let Some(length) = contraction(&bytes[start + 1..], |byte| byte)
    {
        return start + 1 + length;
    }
    let Some((first, next)) = at(text, start) else { return text.len() };
    match first {
        Class::Space | Class::Newline => match at(text, next) {
            Some((class, after)) if bytes[start] == b' ' && !is_space(class) => run(text, after, class),
            _ => space(text, start).end,
        },
        class => run(text, next, class),
    }
}

fn cl100k(text: &str, start: usize, digits: usize) -> usize {
    let bytes = text.as_bytes();
    if bytes[start] == b'\'' {
        let rest = &bytes[start + 1..];
        // The long s is an s, if one disregards case.
        if let Some(length) =
            contraction(rest, |b| b.to_ascii_lowercase()).or(rest.starts_with("ſ".as_bytes()).then_some(2))
        {
            return start + 1 + length;
        }
    }
    let Some((first, next)) = at(text, start) else { return text.len() };
    match first {
        Class::Letter => return run(text, next, Class::Letter),
        Class::Number => {
            let mut end = next;
            for _ in 1..digits {
                match at(text, end) {
                    Some((Class::Number, next)) => end = next,
                    _ => break,
                }
            }
            return end;
        }
        _ => {}
    }
    let second = at(text, next);
    match (first, second) {
        (Class::Other | Class::Space, Some((Class::Letter, after))) => run(text, after, Class::Letter),
        (Class::Other, _) => signs(text, next),
        (Class::Space, Some((Class::Other, after))) if bytes[start] == b' ' => signs(text, after),
        _ => {
            let space = space(text, start);
            space.after_newline.unwrap_or(space.end)
        }
    }
}

/// The end of signs and the line ends behind them.
fn signs(text: &str, place: usize) -> usize {
    run(text, run(text, place, Class::Other), Class::Newline)
}

fn is_space(class: Class) -> bool {
    matches!(class, Class::Space | Class::Newline)
}

struct Space {
    /// Where white space ends: at the end of the text, else before its last character, if it is not the only one.
    end: usize,
    /// Behind the last line end in it.
    after_newline: Option<usize>,
}

/// The white space from a place on, at least one character.
fn space(text: &str, start: usize) -> Space {
    let (mut place, mut last, mut after_newline) = (start, start, None);
    while let Some((class, next)) = at(text, place) {
        if !is_space(class) {
            let end = if last == start { place } else { last };
            return Space { end, after_newline };
        }
        if class == Class::Newline {
            after_newline = Some(next);
        }
        (last, place) = (place, next);
    }
    Space { end: place, after_newline }
}

/// The length of `s`, `t`, `re`, `ve`, `m`, `ll` or `d`.
fn contraction(rest: &[u8], fold: impl Fn(u8) -> u8) -> Option<usize> {
    let letter = |i: usize| rest.get(i).map(|&byte| fold(byte));
    match (letter(0)?, letter(1)) {
        (b's' | b't' | b'm' | b'd', _) => Some(1),
        (b'r' | b'v', Some(b'e')) | (b'l', Some(b'l')) => Some(2),
        _ => None,
    }
}
